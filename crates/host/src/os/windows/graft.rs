//! Windows lets no process replace parts of another one's memory: regions are never grafted
//! here, and who asks for it hears so. The same names as on Linux.

use std::sync::Arc;

use vmshm_link::Extent;
use vmshm_link::control::RegionReply;
use vmshm_ram::{BlockPiece, Examination, GuestRam, Protection, View, Vmm};

use crate::diagnosis::Cause;
use crate::region::{Ask, Ground, Region};
use crate::session::RequestError;
use crate::sighting::Directory;

/// The VMM in whose memory regions would be grafted.
#[derive(Debug, Clone)]
pub(crate) struct GraftGround;

impl GraftGround {
    pub(crate) fn new(
        _: u32,
        _: u64,
        _: Arc<GuestRam>,
        _: Arc<Directory>,
        _: Arc<OwnGrafts>,
    ) -> Self {
        Self
    }

    /// There is nothing to be undone.
    pub(crate) const fn undo_own(&self) {}

    /// There is nothing to be undone.
    pub(crate) const fn undo_removed(&self, _: u64) {}
}

/// What a session grafted: nothing.
#[derive(Debug, Default)]
pub(crate) struct OwnGrafts;

impl OwnGrafts {
    /// There is nothing that could stay.
    pub(crate) const fn keep_all(&self) {}
}

const CAUSE: &str = "regions cannot be grafted on Windows hosts";
const HINT: &str = "use --method map or copy";

/// What stands in the way: the system.
pub(crate) fn graft_obstacles(_: &Vmm, _: &Examination) -> Vec<Cause> {
    vec![Cause::new(CAUSE, Some(HINT))]
}

fn refused(_: &GraftGround) -> RequestError {
    RequestError::Graft {
        cause: CAUSE.to_owned(),
        hint: Some(HINT.to_owned()),
    }
}

/// Lays a granted region out over a graft.
///
/// # Errors
/// [`RequestError::Graft`], always.
pub(crate) fn lay_out_over_graft(
    ground: &Ground,
    _: &RegionReply,
    _: (Vec<Extent>, &[BlockPiece]),
    _: Protection,
    _: Ask<'_>,
) -> Result<Region, RequestError> {
    Err(refused(&ground.graft))
}

/// Grafts pages that may be in use.
///
/// # Errors
/// [`RequestError::Graft`], always.
pub(crate) fn graft_pages(ground: &Ground, _: u64, _: &[BlockPiece]) -> Result<(), RequestError> {
    Err(refused(&ground.graft))
}

/// Nobody ever waits for memory to be let go of.
pub(crate) const fn abandon(_: &View) {}

/// Nobody ever grafts.
///
/// # Errors
/// None.
pub(crate) fn while_nobody_grafts<T>(
    _: &GraftGround,
    work: impl FnOnce() -> T,
) -> Result<T, RequestError> {
    Ok(work())
}

/// Nobody ever undoes a graft.
///
/// # Errors
/// None.
pub(crate) const fn end_undoing(_: &GraftGround) -> Result<(), RequestError> {
    Ok(())
}
