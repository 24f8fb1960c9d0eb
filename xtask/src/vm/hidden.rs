//! Two hidden commands that xtask starts itself with: the step before a VMM, and the guard that outlives us.
//!
//! `start-vmm` gives the VMM a session of its own, lets any process of its user read it also under Yama, ties its life
//! to ours, and becomes the VMM, so the process id stays. `guard` waits until its standard input ends, which it does
//! when xtask ends in whatever way, and then ends the VMM and removes what it leaves.

use std::ffi::OsString;
use std::io::BufRead;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PTracer, Pid, PidfdFlags, Signal};

use super::hugepages;

/// What the guard takes care of.
#[derive(clap::Args, Debug)]
pub struct Guard {
    /// A directory to remove when all is over
    #[arg(long)]
    remove: Vec<PathBuf>,
    /// Huge pages that were added to the host's overcommit limit
    #[arg(long, default_value_t = 0)]
    huge_pages: u64,
}

/// How long a VMM may take to end by itself when it is asked to.
const PATIENCE: Duration = Duration::from_secs(3);

/// Becomes the VMM. Comes back only with an error.
pub fn start_vmm(command_line: &[OsString]) -> Result<()> {
    let (program, arguments) = command_line.split_first().context("no program to start")?;
    // Without Yama the call is refused, and not needed.
    let _ = rustix::process::set_ptracer(PTracer::Any);
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::process::setsid().context("cannot start a session")?;
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

/// Waits for the end of standard input, then ends the VMM whose process id came in the first line, and cleans up.
pub fn guard(guard: &Guard) -> Result<()> {
    let _ = rustix::process::setsid();
    let mut input = std::io::stdin().lock();
    let mut line = String::new();
    let _ = input.read_line(&mut line);
    let vmm = line.trim().parse().ok().and_then(Pid::from_raw);
    let descriptor = vmm.and_then(|vmm| rustix::process::pidfd_open(vmm, PidfdFlags::empty()).ok());
    while !matches!(input.read_line(&mut line), Ok(0) | Err(_)) {}
    if let Some(descriptor) = descriptor {
        let asked = rustix::process::pidfd_send_signal(&descriptor, Signal::TERM);
        if asked.is_ok() {
            let patience = Timespec {
                tv_sec: PATIENCE.as_secs().cast_signed(),
                tv_nsec: 0,
            };
            let _ = poll(
                &mut [PollFd::new(&descriptor, PollFlags::IN)],
                Some(&patience),
            );
        }
    }
    if let Some(vmm) = vmm {
        end_group(vmm);
    }
    for directory in &guard.remove {
        if let Err(error) = std::fs::remove_dir_all(directory)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("warning: cannot remove {}: {error}", directory.display());
        }
    }
    hugepages::give_back(guard.huge_pages)
}

/// Kills what is left of the VMM's process group (UML's guest processes are its children) and waits until it is gone.
/// A dead leader that its parent has not collected yet keeps the group's number from being used again.
fn end_group(group: Pid) {
    let deadline = Instant::now() + PATIENCE;
    while has_living_members(group) && Instant::now() < deadline {
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a process of the group runs, sleeps or is stopped.
fn has_living_members(group: Pid) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return false;
    };
    processes.flatten().any(|process| {
        let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        // pid (name) state parent group …; the name may hold anything, so count from its end.
        let mut fields = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace();
        let living = fields
            .next()
            .is_some_and(|state| !matches!(state, "Z" | "X"));
        living
            && fields.nth(1).and_then(|number| number.parse().ok())
                == Some(group.as_raw_nonzero().get())
    })
}
