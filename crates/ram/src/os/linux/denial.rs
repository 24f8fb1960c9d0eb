//! Why the system does not let this user look at a process, or copy its memory.

use super::process::{ProcRoot, Process, current_user};
use crate::access::Obstacle;
use crate::os::facts::ProcessStatus;

/// Why a process that is known could not be looked at.
pub(crate) fn denial(process: &Process, status: &ProcessStatus) -> Obstacle {
    let own = current_user();
    if own == 0 {
        Obstacle::MissingCapability
    } else if status.user != own {
        Obstacle::OtherUser {
            owner: status.user,
            own,
        }
    } else if process.files_owner() != Some(own) {
        // Of a process that is not dumpable the system gives everything to root.
        Obstacle::NotDumpable
    } else {
        Obstacle::Confined
    }
}

/// Why its memory could not be copied.
pub(crate) fn copy_denial(root: &ProcRoot, process: &Process, status: &ProcessStatus) -> Obstacle {
    match root.ptrace_scope() {
        scope if scope > 0 && status.user == current_user() => Obstacle::Yama { scope },
        _ => denial(process, status),
    }
}

/// Why a process of which nothing is known could not be looked at.
pub(crate) fn unseen(_pid: u32) -> Obstacle {
    Obstacle::Confined
}
