//! What went wrong on the way to a VM or a region, in the words that applications get on
//! both sides.

use std::time::Duration;

use vmshm_endpoint::OpenError;

use crate::attach::AttachError;
use crate::ending::Condition;
use crate::machines::SelectError;
use crate::session::RequestError;

/// A request that failed, after having waited for `waited`.
pub(super) fn open_error(error: RequestError, waited: Duration) -> OpenError {
    match error {
        RequestError::Refused { code, explanation } => OpenError::Refused { code, explanation },
        RequestError::NoAnswer { condition, .. } => OpenError::Timeout {
            what: match condition {
                Condition::Running => "vmshm-agent did not answer",
                Condition::Stopped => {
                    "the VM is paused (its process is stopped): vmshm-agent did not answer"
                }
                Condition::Silent => {
                    "the guest is paused or hangs (no heartbeat): vmshm-agent did not answer"
                }
            },
            waited,
        },
        RequestError::Ended(end) => OpenError::Ended(end.into()),
        RequestError::BadName(name) => OpenError::BadName(name),
        RequestError::Pages(_) => OpenError::Unreachable {
            what: "the region's pages cannot be reached".to_owned(),
            hint: error.hint(),
            source: Box::new(error),
        },
    }
}

/// No VM, or several, for a name.
pub(super) fn not_selected(name: &str, error: SelectError) -> OpenError {
    OpenError::Unreachable {
        what: format!("cannot find the VM {name:?}"),
        hint: error.hint(),
        source: Box::new(error),
    }
}

/// A VM, but no session with it.
pub(super) fn not_attached(name: &str, error: AttachError) -> OpenError {
    match error {
        AttachError::Ended(end) => OpenError::Ended(end.into()),
        error => OpenError::Unreachable {
            what: format!("cannot connect to {name}"),
            hint: error.hint(),
            source: Box::new(error),
        },
    }
}

/// A session, but no thread to keep it.
pub(super) fn not_kept(error: std::io::Error) -> OpenError {
    OpenError::Unreachable {
        what: "there can be no thread that keeps the session".to_owned(),
        hint: None,
        source: Box::new(error),
    }
}
