//! Where a PC's RAM lies that neither a point nor the machine's rule placed: PCs have one hole
//! below 4 GiB for devices, and their RAM goes on behind it at 4 GiB. How large the hole is
//! follows from a point above it, or from the block's end, where RAM ends.
//!
//! Refuses guests whose reported RAM does not nearly fill one block: with several blocks, or
//! memory that was plugged, there is more than one way.

use vmshm_link::{Extent, GuestPhysical};

use crate::address::BlockOffset;
use crate::block::RamBlock;
use crate::layout::{LayoutRange, Source};

const FOUR_GIB: u64 = 4 << 30;
/// What firmware and the guest's kernel may keep of RAM without reporting it (legacy ROMs,
/// tables, memory of a crash kernel).
const UNREPORTED: u64 = 1 << 30;

/// Places for `rest`, the reported RAM that nothing has placed, beside `placed`, which is all in
/// one block or nothing is answered.
pub(crate) fn around_the_hole(
    reported: &[Extent],
    rest: &[Extent],
    placed: &[LayoutRange],
    blocks: &[RamBlock],
) -> Vec<LayoutRange> {
    places(reported, rest, placed, blocks).unwrap_or_default()
}

fn places(
    reported: &[Extent],
    rest: &[Extent],
    placed: &[LayoutRange],
    blocks: &[RamBlock],
) -> Option<Vec<LayoutRange>> {
    let index = placed.first()?.at.block;
    if placed.iter().any(|range| range.at.block != index) {
        return None;
    }
    let length = blocks.get(index)?.length;
    let mut sum = 0_u64;
    for extent in reported {
        sum = sum.checked_add(extent.length)?;
    }
    if sum > length || length - sum > UNREPORTED.min(length / 4) {
        return None;
    }
    let end = reported.iter().filter_map(Extent::end).max()?.0;
    let above = end.checked_sub(FOUR_GIB).filter(|above| *above > 0)?;
    let is_high = |range: &&LayoutRange| range.extent.start.0 >= FOUR_GIB;
    let hole = match placed.iter().find(is_high) {
        Some(high) => FOUR_GIB.checked_sub(high.extent.start.0 - high.at.offset)?,
        None => length.checked_sub(above)?,
    };
    let offset = |extent: &Extent| {
        let last = extent.end()?.0;
        if extent.start.0 >= FOUR_GIB {
            let offset = hole.checked_add(extent.start.0 - FOUR_GIB)?;
            (offset.checked_add(extent.length)? <= length).then_some(offset)
        } else {
            (last <= hole).then_some(extent.start.0)
        }
    };
    // What is placed already must be where this puts it.
    if placed
        .iter()
        .any(|range| offset(&range.extent) != Some(range.at.offset))
    {
        return None;
    }
    let put = |extent: &Extent| {
        Some(LayoutRange {
            extent: Extent {
                start: GuestPhysical(extent.start.0),
                length: extent.length,
            },
            at: BlockOffset {
                block: index,
                offset: offset(extent)?,
            },
            source: Source::MachineRule,
        })
    };
    rest.iter().map(put).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::VmmVirtual;
    use crate::block::Backing;

    const MIB: u64 = 1 << 20;

    fn block(length: u64) -> RamBlock {
        RamBlock {
            backing: Backing::SharedFile,
            name: String::new(),
            start: VmmVirtual(0x1000),
            length,
            file: None,
            listed: None,
        }
    }

    fn extent(start: u64, length: u64) -> Extent {
        Extent {
            start: GuestPhysical(start),
            length,
        }
    }

    fn placed(extent: Extent, block: usize, offset: u64) -> LayoutRange {
        LayoutRange {
            extent,
            at: BlockOffset { block, offset },
            source: Source::Proved,
        }
    }

    /// 128 MiB below the hole but for the legacy pages, 128 MiB above it.
    fn reported() -> Vec<Extent> {
        vec![
            extent(0, 0x9_f000),
            extent(MIB, 127 * MIB),
            extent(FOUR_GIB, 128 * MIB),
        ]
    }

    #[test]
    fn what_is_above_the_hole_ends_with_the_block() {
        let all = reported();
        let blocks = [block(256 * MIB), block(256 * MIB)];
        let low = [placed(all[1], 1, MIB)];
        let found = around_the_hole(&all, &[all[0], all[2]], &low, &blocks);
        let at: Vec<_> = found
            .iter()
            .map(|range| (range.at.block, range.at.offset))
            .collect();
        assert_eq!(at, [(1, 0), (1, 128 * MIB)]);
    }

    #[test]
    fn a_point_above_the_hole_tells_where_it_starts() {
        let all = reported();
        // Firmware keeps the last MiB below the hole, so that the block is longer.
        let blocks = [block(258 * MIB)];
        let high = [placed(all[2], 0, 129 * MIB)];
        let found = around_the_hole(&all, &all[..2], &high, &blocks);
        let at: Vec<_> = found.iter().map(|range| range.at.offset).collect();
        assert_eq!(at, [0, MIB]);
    }

    #[test]
    fn where_there_is_more_than_one_way_nothing_is_placed() {
        let all = reported();
        let none = |blocks: &[RamBlock], placed: &[LayoutRange]| {
            around_the_hole(&all, &all[2..], placed, blocks).is_empty()
        };
        let low = placed(all[1], 0, MIB);
        // RAM in two blocks, in one far larger, and without anything above 4 GiB.
        assert!(none(&[block(128 * MIB), block(128 * MIB)], &[low]));
        assert!(none(&[block(1024 * MIB)], &[low]));
        assert!(around_the_hole(&all[..2], &all[..1], &[low], &[block(128 * MIB)]).is_empty());
        // What was seen lies elsewhere, or in two blocks.
        assert!(none(&[block(256 * MIB)], &[placed(all[1], 0, 2 * MIB)]));
        let other = placed(all[0], 1, 0);
        assert!(none(&[block(256 * MIB), block(256 * MIB)], &[low, other]));
        assert!(none(&[block(256 * MIB)], &[]));
    }
}
