//! A second process that lets go for the first: when a command that holds a session
//! is killed, it frees the session's slot in the guest at once, so that the guest's
//! side hears of it, and nothing stays pinned.
//!
//! It is this same program, waiting for the end of its standard input: a farewell
//! byte means that all is well; an end without one means that its parent was killed.
//! It then does what every attach does, frees the slots of dead owners, and no more.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use vmshm_host::AttachOptions;
use vmshm_host::attach;
use vmshm_ram::Vmm;

/// The watching process; dropping it says farewell.
#[derive(Debug)]
pub(crate) struct Reaper {
    child: Option<Child>,
}

impl Reaper {
    /// Starts it. Without one nothing is lost but time: the next vmshm command on this
    /// host frees the slot.
    pub(crate) fn start(vmm: &Vmm) -> Self {
        use std::os::unix::process::CommandExt;
        let child = std::env::current_exe().and_then(|program| {
            Command::new(program)
                .args(["reap", &vmm.pid.to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                // A Ctrl-C on the terminal is for the command, not for its reaper.
                .process_group(0)
                .spawn()
        });
        if let Err(error) = &child {
            tracing::debug!(%error, "no reaper");
        }
        Self { child: child.ok() }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            if let Some(mut stdin) = child.stdin.take() {
                let _ = stdin.write_all(b".");
            }
            let _ = child.wait();
        }
    }
}

/// The reaper's whole life.
pub(crate) fn wait_and_reap(pid: u32) {
    let mut farewell = Vec::new();
    let read = std::io::stdin().take(1).read_to_end(&mut farewell);
    if read.is_ok() && !farewell.is_empty() {
        return;
    }
    let options = AttachOptions {
        timeout: Duration::from_secs(30),
        ..AttachOptions::default()
    };
    let reaped = vmshm_ram::find_by_pid(pid)
        .ok()
        .and_then(|vmm| attach::see(&vmm, &options).ok())
        .and_then(|mut seen| seen.release_slots_of_the_dead().ok());
    tracing::debug!(?reaped, "parent was killed");
}
