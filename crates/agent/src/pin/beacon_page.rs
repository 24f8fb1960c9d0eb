//! A page for the beacon at a 2 MiB-aligned guest-physical address, so that a host
//! that looks at every 512th page finds it.
//!
//! Ordinary memory is allocated in growing amounts until a page of it happens to
//! lie right; that page is pinned, looked at again, and all others are given back.
//! Where no page lies right, any page serves, and the host has to look at them all.

use vmshm_link::Extent;
use vmshm_shm::PAGE_SIZE;

use super::memory_file::{HUGE_PAGE, MemoryFile, Pages};
use super::pagemap::{Page, Pagemap};
use super::pinned::{PinFault, Pinned};
use super::registrar::Registrar;
use super::reservation::Reservation;

/// What the beacon's file is called.
pub(super) const NAME: &str = "beacon";
/// How much is allocated between two looks.
const STEP: u64 = 4 << 20;
/// Candidates that stay while the others are given back: pinning may move one.
const CANDIDATES: usize = 8;

/// Finds a page among at most `limit` bytes of ordinary memory, and pins it.
pub(super) fn search(
    limit: u64,
    by: Registrar,
    progress: &mut dyn FnMut(),
) -> Result<Pinned, PinFault> {
    let limit = limit.max(STEP);
    let mut file =
        MemoryFile::new(NAME, limit, Pages::Ordinary).map_err(|error| PinFault::System {
            what: "cannot make a memory file",
            error,
        })?;
    let candidates = candidates(&file, progress)?;
    keep_only(&file, &candidates);
    for offset in candidates {
        let pinned = Pinned::part(file, offset, PAGE_SIZE, Some(by), progress)?;
        file = if is_aligned(pinned.extents()) {
            pinned.give_back_the_rest();
            return Ok(pinned);
        } else {
            pinned.into_file()?
        };
    }
    keep_only(&file, &[0]);
    Pinned::part(file, 0, PAGE_SIZE, Some(by), progress)
}

/// Whether a beacon's page lies where a host looks first.
pub(crate) fn is_aligned(extents: &[Extent]) -> bool {
    extents
        .first()
        .is_some_and(|extent| extent.start.is_aligned_to(HUGE_PAGE))
}

/// Offsets of aligned pages in `file`, which is allocated as far as it takes.
fn candidates(file: &MemoryFile, progress: &mut dyn FnMut()) -> Result<Vec<u64>, PinFault> {
    let pagemap = Pagemap::of_self()?;
    let reservation =
        Reservation::new(file, 0, file.length()).map_err(|error| PinFault::System {
            what: "cannot map the memory",
            error,
        })?;
    let mut found = Vec::new();
    let mut at = 0;
    while found.is_empty() && at < file.length() {
        let step = STEP.min(file.length() - at);
        // Short of memory there is no more to choose from; that is no failure yet.
        if file.allocate(at, step).is_err() || reservation.populate(at, step).is_err() {
            break;
        }
        let mut offset = at;
        pagemap.for_each(reservation.address() + at, step / PAGE_SIZE, |page| {
            if let Page::Frame(frame) = page
                && frame.is_multiple_of(HUGE_PAGE / PAGE_SIZE)
            {
                found.push(offset);
            }
            offset += PAGE_SIZE;
            found.len() < CANDIDATES
        })?;
        at += step;
        progress();
    }
    Ok(found)
}

/// Gives every page of `file` back except those at `offsets`, which ascend. A page
/// that stays because the kernel refuses is a waste, not a fault.
pub(super) fn keep_only(file: &MemoryFile, offsets: &[u64]) {
    let mut at = 0;
    for offset in offsets {
        let _ = file.punch(at, offset - at);
        at = offset + PAGE_SIZE;
    }
    let _ = file.punch(at, file.length() - at);
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn keeps_only_the_candidates() {
        let file = MemoryFile::new("test", 64 * PAGE_SIZE, Pages::Ordinary).expect("succeeds");
        file.allocate(0, file.length()).expect("succeeds");
        keep_only(&file, &[0, 7 * PAGE_SIZE, 8 * PAGE_SIZE, 63 * PAGE_SIZE]);
        assert_eq!(
            rustix::fs::fstat(file.as_fd()).expect("succeeds").st_blocks,
            4 * 8
        );
        keep_only(&file, &[]);
        assert_eq!(
            rustix::fs::fstat(file.as_fd()).expect("succeeds").st_blocks,
            0
        );
    }
}
