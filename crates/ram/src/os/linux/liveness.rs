//! Watches the VMM's process through a descriptor that stays bound to it, so that a
//! later process with the same number is never taken for it.

use std::fs;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::process::{Process, stat_state};
use crate::os::facts::{ProcessError, RunState};

/// The hold on one process, for asking whether it still lives.
#[derive(Debug)]
pub struct Liveness {
    /// Nothing for a stored dump, which neither runs nor ends.
    process: Option<Hold>,
}

#[derive(Debug)]
struct Hold {
    pid: u32,
    pidfd: OwnedFd,
    tasks: PathBuf,
}

impl Liveness {
    /// Takes hold of a process, if it is still the one that started at `start_time`.
    pub(crate) fn new(process: &Process, start_time: u64) -> Result<Self, ProcessError> {
        let raw = i32::try_from(process.pid()).map_err(|_| ProcessError::Gone)?;
        let pid = Pid::from_raw(raw).ok_or(ProcessError::Gone)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| match error {
            rustix::io::Errno::SRCH => ProcessError::Gone,
            other => ProcessError::System {
                what: "pidfd_open",
                code: other.raw_os_error(),
            },
        })?;
        // The number was resolved just now; the start time tells whether it still
        // means the same process, and from here on the descriptor cannot drift.
        if process.start_time()? != start_time {
            return Err(ProcessError::Gone);
        }
        Ok(Self {
            process: Some(Hold {
                pid: process.pid(),
                pidfd,
                tasks: process.path("task"),
            }),
        })
    }

    /// What is no process: a stored dump. It is always there, and never stopped.
    pub(crate) const fn stored() -> Self {
        Self { process: None }
    }

    /// The process id; nothing for a stored dump.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|hold| hold.pid)
    }

    /// Whether the process has ended.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let Some(hold) = &self.process else {
            return false;
        };
        let mut fds = [PollFd::new(&hold.pidfd, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        loop {
            match poll(&mut fds, Some(&now)) {
                Ok(ready) => return ready != 0,
                Err(rustix::io::Errno::INTR) => {}
                // A descriptor that cannot be polled vouches for nothing.
                Err(_) => return true,
            }
        }
    }

    /// Whether the process runs, is stopped, or has ended.
    #[must_use]
    pub fn run_state(&self) -> RunState {
        let Some(hold) = &self.process else {
            return RunState::Running;
        };
        if self.is_gone() {
            return RunState::Gone;
        }
        let mut seen = 0_usize;
        let mut stopped = true;
        if let Ok(tasks) = fs::read_dir(&hold.tasks) {
            for task in tasks.filter_map(Result::ok) {
                let Ok(line) = fs::read(task.path().join("stat")) else {
                    continue;
                };
                seen += 1;
                if !matches!(stat_state(&line), Some(b'T' | b't')) {
                    stopped = false;
                    break;
                }
            }
        }
        // What was read may have been another process's, if this one ended meanwhile.
        if self.is_gone() {
            RunState::Gone
        } else if seen > 0 && stopped {
            RunState::Stopped
        } else {
            RunState::Running
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::ProcRoot;
    use std::process::Command;
    use std::time::{Duration, Instant};

    fn wait_for(liveness: &Liveness, wanted: RunState) {
        let started = Instant::now();
        while liveness.run_state() != wanted {
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "{wanted:?} never came"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_child_runs_stops_goes_on_and_ends() {
        let mut child = Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("sleep starts");
        let process = ProcRoot::system().process(child.id());
        let start_time = process.start_time().expect("start time");
        let liveness = Liveness::new(&process, start_time).expect("hold on the child");
        assert_eq!(liveness.run_state(), RunState::Running);
        let pid = Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("stop");
        wait_for(&liveness, RunState::Stopped);
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).expect("continue");
        wait_for(&liveness, RunState::Running);
        assert!(!liveness.is_gone());
        child.kill().expect("kill");
        wait_for(&liveness, RunState::Gone);
        child.wait().expect("wait");
        assert!(liveness.is_gone());
    }

    #[test]
    fn another_start_time_means_another_process() {
        let process = ProcRoot::system().process(std::process::id());
        let start_time = process.start_time().expect("start time");
        assert_eq!(
            Liveness::new(&process, start_time + 1).err(),
            Some(ProcessError::Gone)
        );
    }
}
