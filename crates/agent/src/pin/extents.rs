//! From page frames to extents: runs of consecutive guest-physical pages, in the
//! order of the memory they belong to. It refuses frames that no guest-physical
//! address can name.

use vmshm_link::{Extent, GuestPhysical};
use vmshm_shm::PAGE_SIZE;

/// The guest-physical pages of a memory, in its own order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ExtentList {
    extents: Vec<Extent>,
    /// For each extent the index of its first page in the memory.
    first_pages: Vec<u64>,
    pages: u64,
}

/// A frame number that is too large to be an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("page frame {0:#x} lies outside the guest-physical address space")]
pub(crate) struct BadFrame(pub u64);

impl ExtentList {
    /// Adds one page behind the others, growing the last extent where it follows.
    pub(crate) fn push(&mut self, frame: u64) -> Result<(), BadFrame> {
        // The page's end must be an address, too.
        let start = frame
            .checked_mul(PAGE_SIZE)
            .filter(|start| start.checked_add(PAGE_SIZE).is_some())
            .ok_or(BadFrame(frame))?;
        match self.extents.last_mut() {
            Some(last) if last.end() == Some(GuestPhysical(start)) => last.length += PAGE_SIZE,
            _ => {
                self.extents.push(Extent {
                    start: GuestPhysical(start),
                    length: PAGE_SIZE,
                });
                self.first_pages.push(self.pages);
            }
        }
        self.pages += 1;
        Ok(())
    }

    /// The extents.
    pub(crate) fn as_slice(&self) -> &[Extent] {
        &self.extents
    }

    /// How many pages all extents hold together.
    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// The frames of the pages from index `first` on.
    pub(crate) fn frames_from(&self, first: u64) -> impl Iterator<Item = u64> + '_ {
        let at = self
            .first_pages
            .partition_point(|start| *start <= first)
            .saturating_sub(1);
        let skip = self.first_pages.get(at).map_or(0, |start| first - start);
        self.extents[at.min(self.extents.len())..]
            .iter()
            .enumerate()
            .flat_map(move |(index, extent)| {
                let start = extent.start.0 / PAGE_SIZE;
                let end = start + extent.length / PAGE_SIZE;
                let skipped = if index == 0 { skip } else { 0 };
                start.saturating_add(skipped)..end
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(frames: &[u64]) -> ExtentList {
        let mut list = ExtentList::default();
        for frame in frames {
            list.push(*frame).expect("succeeds");
        }
        list
    }

    #[test]
    fn merges_only_ascending_neighbours() {
        let list = list(&[10, 11, 12, 5, 4, 20, 21]);
        let got: Vec<_> = list
            .as_slice()
            .iter()
            .map(|extent| (extent.start.0 / PAGE_SIZE, extent.length / PAGE_SIZE))
            .collect();
        assert_eq!(got, [(10, 3), (5, 1), (4, 1), (20, 2)]);
        assert_eq!(list.pages(), 7);
    }

    #[test]
    fn gives_the_frames_back_from_any_page() {
        let frames = [10, 11, 12, 5, 4, 20, 21];
        let list = list(&frames);
        for first in 0..=frames.len() {
            let got: Vec<_> = list.frames_from(first as u64).collect();
            assert_eq!(got, frames[first..], "from {first}");
        }
        assert_eq!(list.frames_from(100).count(), 0);
        assert_eq!(ExtentList::default().frames_from(0).count(), 0);
    }

    #[test]
    fn refuses_frames_beyond_the_address_space() {
        let mut list = ExtentList::default();
        assert_eq!(list.push(u64::MAX), Err(BadFrame(u64::MAX)));
        assert_eq!(
            list.push(u64::MAX / PAGE_SIZE),
            Err(BadFrame(u64::MAX / PAGE_SIZE))
        );
        assert_eq!(list.pages(), 0);
    }
}
