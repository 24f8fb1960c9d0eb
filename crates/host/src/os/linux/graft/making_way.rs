//! What a program does for another one that grafts: it lets go of what it has mapped, maps
//! no region while a graft is being made, and ends the undoing of one who died at it.

use vmshm_ram::View;

use super::failure::GraftFailure;
use super::lock::Lock;
use super::{Ground, PATIENCE, own};
use crate::session::RequestError;

/// Lets go of memory that nobody may use any more.
pub(crate) fn abandon(memory: &View) {
    if let Err(error) = memory.abandon() {
        // A graft that waits for it names this process then.
        tracing::warn!(%error, "the pages of a session that is over stay mapped");
    }
}

/// Does something while nobody grafts in the VM: between a look for grafts and the
/// mapping of what it found.
///
/// # Errors
/// [`RequestError::Graft`] when a graft does not come to an end.
pub(crate) fn while_nobody_grafts<T>(
    ground: &Ground,
    work: impl FnOnce() -> T,
) -> Result<T, RequestError> {
    end_undoing(ground)?;
    let lock = lock(Lock::share(ground.pid, PATIENCE))?;
    let done = work();
    drop(lock);
    Ok(done)
}

/// Ends the undoing of grafts by somebody who died at it: their files say that they are nobody's
/// any more, though the guest still uses them, and would end every session that finds one in its
/// region's place, which may be another region by now.
///
/// # Errors
/// [`RequestError::Graft`] when somebody else's graft, or undoing, does not come to an end.
pub(crate) fn end_undoing(ground: &Ground) -> Result<(), RequestError> {
    if own::withdrawn_in(ground.pid).is_empty() {
        return Ok(());
    }
    let lock = lock(Lock::take(ground.pid, PATIENCE))?;
    if lock.is_some() {
        ground.end_undoing_locked(&mut |_| ());
    }
    Ok(())
}

fn lock(taken: Result<Lock, GraftFailure>) -> Result<Option<Lock>, RequestError> {
    match taken {
        Err(taken @ GraftFailure::Taken { .. }) => Err(taken.into()),
        // Who may not look at the VMM's mappings, or finds it gone, hears so from the work.
        other => Ok(other.ok()),
    }
}
