//! Making a session for a VM's handle, once or until it succeeds.

use std::sync::Arc;
use std::time::Duration;

use vmshm_endpoint::OpenError;
use vmshm_ram::FindError;

use super::VmOptions;
use super::failure::not_reached;
use super::failure::{not_attached, not_kept, not_selected};
use super::live::Live;
use crate::attach::{AttachError, AttachOptions};
use crate::deadline::Deadline;
use crate::machines::SelectError;
use crate::reaching::{ReachError, reach};

/// How long to wait before the next try: each looks at the VM's memory.
const TRY_AGAIN: Duration = Duration::from_millis(250);
/// The least that one try has for the guest's part.
const ONE_TRY: Duration = Duration::from_secs(1);

/// Why one try failed.
enum Failure {
    Reach(ReachError),
    Thread(std::io::Error),
}

impl Failure {
    /// Whether the next try may go better: a VM or an agent that is being started.
    fn may_pass(&self, name: &str) -> bool {
        match self {
            // A process that has ended does not come back; a name does.
            Self::Reach(ReachError::Select(SelectError::Unknown(_))) => true,
            Self::Reach(ReachError::Select(SelectError::Find(FindError::NoProcess { .. }))) => {
                name.parse::<u32>().is_err()
            }
            Self::Reach(ReachError::Attach(error)) => !matches!(
                error,
                AttachError::Incompatible { .. } | AttachError::Nested { .. }
            ),
            // A broker that is being restarted, or a VM that it does not see yet.
            Self::Reach(ReachError::Broker { .. }) => true,
            Self::Reach(_) | Self::Thread(_) => false,
        }
    }

    fn into_open_error(self, name: &str) -> OpenError {
        match self {
            Self::Reach(ReachError::Select(error)) => not_selected(error),
            Self::Reach(ReachError::Attach(error)) => not_attached(name, error),
            Self::Reach(error) => not_reached(error),
            Self::Thread(error) => not_kept(error),
        }
    }
}

fn try_once(name: &str, options: &AttachOptions) -> Result<Arc<Live>, Failure> {
    let session = reach(name, options).map_err(Failure::Reach)?.session;
    Live::start(session.pid(), session).map_err(Failure::Thread)
}

/// Tries once.
///
/// # Errors
/// [`OpenError`].
pub(super) fn make(name: &str, options: &VmOptions) -> Result<Arc<Live>, OpenError> {
    try_once(name, &options.attach(options.timeout)).map_err(|error| error.into_open_error(name))
}

/// Tries until it succeeds, or `deadline` has passed, or trying is of no use.
///
/// # Errors
/// [`OpenError`]: the last one.
pub(super) fn make_until(
    name: &str,
    options: &VmOptions,
    deadline: Deadline,
) -> Result<Arc<Live>, OpenError> {
    loop {
        let left = deadline.left();
        let failure = match try_once(name, &options.attach(left.max(ONE_TRY))) {
            Ok(live) => return Ok(live),
            Err(failure) => failure,
        };
        if !failure.may_pass(name) || deadline.left() <= TRY_AGAIN {
            return Err(failure.into_open_error(name));
        }
        std::thread::sleep(TRY_AGAIN);
    }
}
