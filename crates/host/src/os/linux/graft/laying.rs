//! Laying out a region that is grafted as it is opened: by the agent's answers as ever,
//! then in a file of its own. One that was just made is grafted while it still carries
//! its pattern, when nobody uses its pages: one thread of the VMM is borrowed for a moment, and
//! nothing is copied.

use vmshm_graft::Contents;
use vmshm_link::beacon::PAGE;
use vmshm_link::control::{RegionReply, Request};
use vmshm_link::proof::{PATTERN_BYTES, page_pattern, verify_pattern, write_pattern};
use vmshm_link::{Extent, LinkError};
use vmshm_ram::{BlockPiece, Protection, View};
use vmshm_shm::SharedMemory;

use super::failure::GraftFailure;
use super::proof::Proof;
use super::{GraftedRegion, undo};
use crate::region::{Ask, Ground, Region, placement};
use crate::session::RequestError;

/// Lays a granted region out over a graft.
///
/// # Errors
/// [`RequestError`]; the agent still counts the region as held then.
pub(crate) fn lay_out_over_graft(
    ground: &Ground,
    granted: &RegionReply,
    (extents, pieces): (Vec<Extent>, &[BlockPiece]),
    protection: Protection,
    ask: Ask<'_>,
) -> Result<Region, RequestError> {
    let grafted = if granted.ready {
        ground
            .graft
            .replace(granted.region, pieces, Contents::Keep, &mut |_| ())?
    } else {
        new_region(ground, granted, pieces, ask)?
    };
    tracing::debug!(
        id = grafted.id,
        stopping = ?grafted.pause.stopping,
        standing = ?grafted.pause.standing,
        proof = grafted.proof.name(),
        "the region is grafted"
    );
    let memory = grafted.memory(protection).map_err(GraftFailure::from)?;
    Ok(Region {
        id: granted.region,
        memory,
        extents,
    })
}

/// Grafts pages that may be in use.
///
/// # Errors
/// [`RequestError`].
pub(crate) fn graft_pages(
    ground: &Ground,
    region: u64,
    pieces: &[BlockPiece],
) -> Result<(), RequestError> {
    ground
        .graft
        .replace(region, pieces, Contents::Keep, &mut |_| ())?;
    Ok(())
}

fn new_region(
    ground: &Ground,
    granted: &RegionReply,
    pieces: &[BlockPiece],
    ask: Ask<'_>,
) -> Result<GraftedRegion, RequestError> {
    let pages = |error: &dyn std::error::Error| RequestError::Pages(error.to_string());
    let (key, id) = (granted.key, granted.region);
    let view = ground.ram.view(pieces, Protection::Read);
    verify_pattern(&view.map_err(|error| pages(&error))?, key, id)?;
    let mut grafted = ground
        .graft
        .replace(id, pieces, Contents::Forget, &mut |_| ())?;
    let memory = grafted
        .memory(Protection::ReadWrite)
        .map_err(GraftFailure::from)?;
    write_pattern(&*memory, key, id)?;
    ask(&Request::Proved {
        region: id,
        placement: placement(pieces),
    })?;
    if carries_pattern(&memory, key, id)? {
        undo(grafted.pid, &grafted.id)?;
        return Err(GraftFailure::Unproved {
            what: "the guest's stores did not arrive in its file",
        }
        .into());
    }
    grafted.proof = Proof::Pattern;
    Ok(grafted)
}

/// Whether any page still carries the pattern that the agent was to remove. What else
/// stands there may be its first user's by now.
fn carries_pattern(memory: &View, key: u64, region: u64) -> Result<bool, LinkError> {
    for page in 0..memory.size() / PAGE {
        let mut seen = [0; PATTERN_BYTES];
        memory.read(page * PAGE, &mut seen)?;
        if seen == page_pattern(key, region, page) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl From<GraftFailure> for RequestError {
    fn from(failure: GraftFailure) -> Self {
        match failure {
            GraftFailure::Request(error) => error,
            GraftFailure::Ended(end) => Self::Ended(end),
            other => Self::Graft {
                hint: other.hint(),
                cause: other.to_string(),
            },
        }
    }
}
