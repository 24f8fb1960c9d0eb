//! Where everything lies in a played guest's RAM, by guest-physical address. What does not fit is a mistake of the test,
//! and panics.

use vmshm_link::beacon::PAGE;
use vmshm_link::directory::DIRECTORY_SIZE;
use vmshm_link::{Extent, GuestPhysical};

/// One range of guest RAM, and where it lies in the VMM's memory.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// Where the guest sees it.
    pub extent: Extent,
    /// Where it starts in the memory, in bytes.
    pub offset: u64,
}

/// The places of a guest.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its RAM, by rising address.
    pub ranges: Vec<Range>,
    /// The beacon; the directory follows it.
    pub beacon: GuestPhysical,
    /// Places for one half of a region each, all of [`room`](Self::room) bytes. A region takes two that follow each
    /// other here, and its second half lies in the first of them.
    pub rooms: Vec<GuestPhysical>,
    /// Bytes of each; a region has at most two times as many.
    pub room: u64,
    /// Bytes between two pictures in a pixels region, of which it has three.
    pub slot: u64,
    /// The widest and highest picture that can be set.
    pub most: u32,
}

impl Plan {
    /// 64 MiB without a hole, for regions of a few pages and small pictures.
    #[must_use]
    pub fn small() -> Self {
        let ranges = vec![range(0, 64 << 20, 0)];
        Self::over(ranges, 512 << 10, 256 << 10, 250)
    }

    /// `size` bytes, of which those up to `hole` start at zero and the rest at `high`, as on a PC. It has room for
    /// pipes, benches and test cards; `size` is to be 64 MiB at least.
    #[must_use]
    pub fn split(size: u64, hole: u64, high: u64) -> Self {
        let mut ranges = vec![range(0, size.min(hole), 0)];
        if size > hole {
            ranges.push(range(high, size - hole, hole));
        }
        Self::over(ranges, 9 << 20, 2 << 20, 1280)
    }

    /// Rooms of each range in turn, from 16 MiB on in the first one, and 32 of them at most.
    fn over(ranges: Vec<Range>, room: u64, slot: u64, most: u32) -> Self {
        const BEACON: u64 = 6 << 20;
        const FIRST: u64 = 16 << 20;
        const MOST_ROOMS: usize = 128;
        const { assert!(BEACON + PAGE + DIRECTORY_SIZE <= FIRST) };
        let mut places: Vec<_> = ranges
            .iter()
            .enumerate()
            .map(|(index, range)| {
                let start = range.extent.start.0 + if index == 0 { FIRST } else { 0 };
                let end = range.extent.start.0 + range.extent.length;
                (start..=end.saturating_sub(room)).step_by(usize::try_from(room).expect("small"))
            })
            .collect();
        let mut rooms = Vec::new();
        while rooms.len() < MOST_ROOMS {
            let before = rooms.len();
            rooms.extend(
                places
                    .iter_mut()
                    .filter_map(Iterator::next)
                    .map(GuestPhysical),
            );
            if rooms.len() == before {
                break;
            }
        }
        assert!(rooms.len() >= 4, "there is room for two regions");
        Self {
            ranges,
            beacon: GuestPhysical(BEACON),
            rooms,
            room,
            slot,
            most,
        }
    }

    /// Where the directory lies.
    #[must_use]
    pub fn directory(&self) -> Extent {
        Extent {
            start: GuestPhysical(self.beacon.0 + PAGE),
            length: DIRECTORY_SIZE,
        }
    }
}

fn range(start: u64, length: u64, offset: u64) -> Range {
    Range {
        extent: Extent {
            start: GuestPhysical(start),
            length,
        },
        offset,
    }
}
