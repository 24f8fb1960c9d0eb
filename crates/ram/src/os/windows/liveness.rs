//! Watches the VMM's process through a handle that stays bound to it, so that a later process
//! with the same number is never taken for it.

use std::os::windows::io::OwnedHandle;

use windows_sys::Win32::System::Threading::PROCESS_QUERY_LIMITED_INFORMATION;

use super::handle::{has_ended, open_process, process_error};
use super::process::{Process, start_time};
use crate::os::facts::{ProcessError, RunState};

/// The hold on one process, for asking whether it still lives.
#[derive(Debug)]
pub struct Liveness {
    /// Nothing for a stored dump, which neither runs nor ends.
    process: Option<Hold>,
}

#[derive(Debug)]
struct Hold {
    process: Process,
    handle: OwnedHandle,
}

impl Liveness {
    /// Takes hold of a process, if it is still the one that started at `started`.
    pub(crate) fn new(process: &Process, started: u64) -> Result<Self, ProcessError> {
        let handle = open_process(process.pid(), PROCESS_QUERY_LIMITED_INFORMATION)
            .map_err(|code| process_error("opening the process", code))?;
        // From here on the handle cannot drift; the start time tells what it is bound to.
        let now = start_time(&handle).map_err(|code| process_error("the process's times", code))?;
        if now != started {
            return Err(ProcessError::Gone);
        }
        Ok(Self {
            process: Some(Hold {
                process: process.clone(),
                handle,
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
        self.process.as_ref().map(|hold| hold.process.pid())
    }

    /// Whether the process has ended.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.process
            .as_ref()
            .is_some_and(|hold| has_ended(&hold.handle))
    }

    /// Whether the process runs, is stopped (all its threads are suspended), or has ended.
    #[must_use]
    pub fn run_state(&self) -> RunState {
        let Some(hold) = &self.process else {
            return RunState::Running;
        };
        let is_stopped =
            !has_ended(&hold.handle) && hold.process.listed().is_ok_and(|listed| listed.is_stopped);
        // What was read may have been another process's, if this one ended meanwhile.
        if has_ended(&hold.handle) {
            RunState::Gone
        } else if is_stopped {
            RunState::Stopped
        } else {
            RunState::Running
        }
    }
}
