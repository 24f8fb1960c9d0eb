//! `vmshm region graft` is refused on Windows, with the reason.

use super::words::GRAFT_REFUSAL;
use crate::arguments::{Global, RegionGraft};
use crate::failure::Failure;

/// Says that it cannot be done.
pub(crate) fn graft_region(_: &RegionGraft, _: &Global) -> Result<(), Failure> {
    Err(Failure::new(
        GRAFT_REFUSAL.unwrap_or_default(),
        Some("use `--method auto`, which maps where it can and copies elsewhere"),
    ))
}
