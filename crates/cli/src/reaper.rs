//! A second process that lets go for the first: when a command that holds a session
//! is killed, it frees the session's slot in the guest at once, so that the guest's
//! side hears of it, and nothing stays pinned.
//!
//! It is this same program, waiting for the end of its standard input, which comes when
//! its parent was killed: a parent that ends in good order ends it first. It then does
//! what every attach does, frees the slots of dead owners, and no more.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use vmshm_host::AttachOptions;
use vmshm_host::attach::{self, Seen};
use vmshm_ram::Vmm;

use crate::arguments::Global;
use crate::os::{self, Parent};

/// How long a process may take to die after it has closed its files.
const DYING: Duration = Duration::from_secs(5);
/// Time between two looks whether it has.
const LOOK: Duration = Duration::from_millis(20);

/// The watching process; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Reaper {
    child: Option<Child>,
}

impl Reaper {
    /// Starts it. Without one nothing is lost but time: the next vmshm command on this
    /// host frees the slot.
    pub(crate) fn start(vmm: &Vmm, global: &Global) -> Self {
        let child = std::env::current_exe().and_then(|program| {
            let mut command = Command::new(program);
            command
                .args(["reap", &vmm.pid.to_string()])
                .args(global.for_reaper())
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            os::keep_apart(&mut command).spawn()
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
            // Both fail only where it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The reaper's whole life.
pub(crate) fn wait_and_reap(pid: u32, global: &Global) {
    let vmm = vmshm_ram::find_by_pid(pid);
    // Seen beforehand, so that nothing has to be found when it is urgent.
    let see = || {
        let options = AttachOptions {
            timeout: Duration::from_secs(30),
            ..global.attach().ok()?
        };
        let vmm = vmm.as_ref().ok()?;
        attach::see(vmm, &options).ok()
    };
    let parent = Parent::of_this_process();
    let seen = see();
    // Nothing is ever written there; whatever ends it, its parent is going.
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    // A process closes its files a moment before it counts as dead.
    let closed = Instant::now();
    while parent.lives() && closed.elapsed() < DYING {
        std::thread::sleep(LOOK);
    }
    let reap = |mut seen: Seen| {
        seen.release_slots_of_the_dead().ok()?;
        std::thread::sleep(LOOK);
        seen.release_slots_of_the_dead().ok()
    };
    let reaped = seen.and_then(reap).or_else(|| see().and_then(reap));
    tracing::debug!(?reaped, "parent was killed");
}
