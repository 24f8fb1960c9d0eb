//! Why the system does not let this user look at a process, or copy its memory.

use super::process::{ProcRoot, Process};
use super::refusal::{self, Asked};
use super::{privileges, users};
use crate::access::Obstacle;
use crate::os::facts::ProcessStatus;

/// Why a process that is known could not be looked at.
pub(crate) fn denial(process: &Process, status: &ProcessStatus) -> Obstacle {
    refusal::why(&Asked {
        is_protected: process.is_protected(),
        may_debug: privileges::enable_debug(),
        owner: status.user,
        own: users::current_user(),
    })
}

/// Why its memory could not be copied.
pub(crate) fn copy_denial(_root: &ProcRoot, process: &Process, status: &ProcessStatus) -> Obstacle {
    denial(process, status)
}

/// Why a process of which nothing is known could not be looked at.
pub(crate) fn unseen(pid: u32) -> Obstacle {
    denial(&ProcRoot::system().process(pid), &ProcessStatus::default())
}
