//! `vmshm region graft` is refused on Windows, with the reason.

use super::words::GRAFT_REFUSAL;
use crate::arguments::{Global, RegionGraft};
use crate::failure::Failure;
use vmshm_link::beacon::Beacon;
use vmshm_link::directory::RegionEntry;

/// Says that it cannot be done.
pub(crate) fn graft_region(_: &RegionGraft, _: &Global) -> Result<(), Failure> {
    Err(Failure::new(
        GRAFT_REFUSAL.unwrap_or_default(),
        Some("use `--method auto`, which maps where it can and copies elsewhere"),
    ))
}

/// Nothing is ever grafted here.
pub(crate) fn grafted_regions(_: u32, _: &Beacon, regions: &[RegionEntry]) -> Option<Vec<bool>> {
    Some(vec![false; regions.len()])
}
