//! Layouts of VMMs that hand out RAM in small pieces of one size, in whatever order the
//! guest first touches them (Bochs: 128 KiB). Each piece must be seen by itself: a point
//! proves its own piece and nothing beside it.

use std::collections::BTreeMap;

use vmshm_link::{Extent, GuestPhysical};

use crate::address::BlockOffset;
use crate::block::RamBlock;
use crate::layout::{Layout, LayoutError, LayoutRange, Source};
use crate::layout_proof::{Point, check_blocks_used_once};

impl Layout {
    /// The layout of the pieces of `granule` bytes in which there is a point. Addresses in
    /// other pieces are in holes: not proved yet.
    ///
    /// # Errors
    /// [`LayoutError::Contradiction`] where points cannot all be right,
    /// [`LayoutError::StrayPoint`] where a piece would not lie in its block.
    pub fn prove_granules(
        points: &[Point],
        granule: u64,
        blocks: &[RamBlock],
    ) -> Result<Self, LayoutError> {
        let mut pieces: BTreeMap<u64, (BlockOffset, GuestPhysical)> = BTreeMap::new();
        for &(address, at) in points {
            let (start, place) = piece_of(address, at, granule, blocks)
                .ok_or(LayoutError::StrayPoint { address })?;
            match pieces.get(&start) {
                Some((known, first)) if *known != place => {
                    return Err(LayoutError::Contradiction {
                        first: *first,
                        second: address,
                        what: "one piece of the VM's RAM is said to lie at two places",
                    });
                }
                Some(_) => {}
                None => {
                    pieces.insert(start, (place, address));
                }
            }
        }
        let mut ranges: Vec<LayoutRange> = Vec::new();
        for (start, (at, _)) in pieces {
            match ranges.last_mut() {
                Some(last)
                    if last.extent.end() == Some(GuestPhysical(start))
                        && last.at.checked_add(last.extent.length) == Some(at) =>
                {
                    last.extent.length += granule;
                }
                _ => ranges.push(LayoutRange {
                    extent: Extent {
                        start: GuestPhysical(start),
                        length: granule,
                    },
                    at,
                    source: Source::Proved,
                }),
            }
        }
        check_blocks_used_once(&ranges)?;
        Self::new(ranges)
    }
}

/// Where the piece with a point starts, in the guest and in its block.
fn piece_of(
    address: GuestPhysical,
    at: BlockOffset,
    granule: u64,
    blocks: &[RamBlock],
) -> Option<(u64, BlockOffset)> {
    let into = address.0.checked_rem(granule)?;
    let start = address.0 - into;
    start.checked_add(granule)?;
    let offset = at.offset.checked_sub(into)?;
    let block = blocks.get(at.block)?;
    (offset.checked_add(granule)? <= block.length).then_some((
        start,
        BlockOffset {
            block: at.block,
            offset,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::VmmVirtual;
    use crate::block::Backing;
    use proptest::prelude::*;

    const GRANULE: u64 = 128 << 10;

    fn blocks(granules: u64) -> Vec<RamBlock> {
        vec![RamBlock {
            backing: Backing::PrivateAnonymous,
            name: String::new(),
            start: VmmVirtual(0x7f00_0000_1000),
            // As in Bochs, RAM starts at any page.
            length: granules * GRANULE + 0x3000,
            file: None,
            listed: None,
        }]
    }

    fn point(address: u64, offset: u64) -> Point {
        (GuestPhysical(address), BlockOffset { block: 0, offset })
    }

    fn place(granule: u64) -> u64 {
        0x1000 + granule * GRANULE
    }

    #[test]
    fn each_piece_lies_where_its_point_does_and_others_nowhere() {
        let points = [
            point(0, place(0)),
            point(5 * GRANULE + 0x1234, place(1) + 0x1234),
            point(6 * GRANULE, place(2)),
            point(6 * GRANULE + 64, place(2) + 64),
            point(2 * GRANULE, place(3)),
        ];
        let layout = Layout::prove_granules(&points, GRANULE, &blocks(8)).expect("no quarrel");
        assert_eq!(layout.ranges().len(), 3);
        let at = |address: u64| layout.translate(GuestPhysical(address));
        assert_eq!(at(7 * GRANULE - 1).expect("proved").at.offset, place(3) - 1);
        assert_eq!(at(3 * GRANULE - 1).expect("proved").at.offset, place(4) - 1);
        assert_eq!(at(GRANULE - 1).expect("proved").source, Source::Proved);
        assert!(at(GRANULE).is_err() && at(3 * GRANULE).is_err() && at(7 * GRANULE).is_err());
    }

    #[test]
    fn what_cannot_be_true_is_refused() {
        let two = [point(0, place(0)), point(8, place(1) + 8)];
        assert!(matches!(
            Layout::prove_granules(&two, GRANULE, &blocks(8)),
            Err(LayoutError::Contradiction { .. })
        ));
        let shared = [point(0, place(0)), point(GRANULE, place(0) + 4096)];
        assert!(matches!(
            Layout::prove_granules(&shared, GRANULE, &blocks(8)),
            Err(LayoutError::Contradiction { .. })
        ));
        for stray in [
            point(4096, 0),
            point(0, place(8)),
            point(u64::MAX, place(1)),
            (
                GuestPhysical(0),
                BlockOffset {
                    block: 1,
                    offset: 0,
                },
            ),
        ] {
            assert!(Layout::prove_granules(&[stray], GRANULE, &blocks(8)).is_err());
        }
        assert!(Layout::prove_granules(&[point(0, 0)], 0, &blocks(8)).is_err());
    }

    proptest! {
        #[test]
        fn any_points_are_survived(points in proptest::collection::vec((any::<u64>(), 0_u64..2 << 20), 0..20)) {
            let points: Vec<Point> = points.into_iter().map(|(address, offset)| point(address, offset)).collect();
            if let Ok(layout) = Layout::prove_granules(&points, GRANULE, &blocks(8)) {
                for (address, at) in points {
                    prop_assert_eq!(layout.translate(address).expect("proved").at, at);
                }
            }
        }
    }
}
