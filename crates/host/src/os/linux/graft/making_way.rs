//! What a program does for another one that grafts: it lets go of what it has mapped, and maps
//! no region while a graft is being made.

use vmshm_ram::View;

use super::failure::GraftFailure;
use super::lock::Lock;
use super::{Ground, PATIENCE};
use crate::session::RequestError;

/// Lets go of memory that nobody may use any more.
pub(crate) fn abandon(memory: &View) {
    if let Err(error) = memory.abandon() {
        // A graft that waits for it names this process then.
        tracing::warn!(%error, "the pages of a session that is over stay mapped");
    }
}

/// Does something while nobody grafts in the VM: between a look for grafts and the mapping of
/// what it found.
///
/// # Errors
/// [`RequestError::Graft`] when a graft does not come to an end.
pub(crate) fn while_nobody_grafts<T>(
    ground: &Ground,
    work: impl FnOnce() -> T,
) -> Result<T, RequestError> {
    let lock = match Lock::share(ground.pid, PATIENCE) {
        Err(taken @ GraftFailure::Taken { .. }) => return Err(taken.into()),
        // Who may not look at the VMM's mappings, or finds it gone, hears so from the work.
        other => other.ok(),
    };
    let done = work();
    drop(lock);
    Ok(done)
}
