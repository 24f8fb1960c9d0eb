//! Layouts by rule: where a machine that is known puts its RAM. Rules are guesses until
//! something proves them. The splits of QEMU's machines follow its sources
//! (`hw/i386/pc_piix.c`, `pc_q35.c`, `microvm.c`).

use vmshm_link::{Extent, GuestPhysical};

use crate::address::BlockOffset;
use crate::block::RamBlock;
use crate::layout::{Layout, LayoutError, LayoutRange, Source};
use crate::vmm::Machine;

const GIB: u64 = 1 << 30;
const FOUR_GIB: u64 = 4 * GIB;
/// Above this QEMU may move the high part on some processors.
const LARGEST_PLAIN: u64 = 900 * GIB;
/// Old graphics memory: never RAM.
const GRAPHICS_START: u64 = 0xa_0000;
const GRAPHICS_END: u64 = 0xc_0000;
const ONE_MIB: u64 = 0x10_0000;
/// The layout of a machine with `ram_bytes` of RAM in `blocks`.
pub(crate) fn by_machine(
    machine: Machine,
    ram_bytes: u64,
    blocks: &[RamBlock],
) -> Result<Layout, LayoutError> {
    if machine == Machine::Uml {
        // The guest's own kernel lies where the file is not mapped.
        let block = blocks.first().ok_or(LayoutError::NoRule)?;
        return Layout::new(vec![LayoutRange {
            extent: Extent {
                start: GuestPhysical(block.file_offset()),
                length: block.length,
            },
            at: BlockOffset::default(),
            source: Source::MachineRule,
        }]);
    }
    let (low, low_end) = match machine {
        Machine::Pc { below_4g } => (pc_split(ram_bytes, below_4g), GRAPHICS_END),
        Machine::Q35 { below_4g } => (q35_split(ram_bytes, below_4g), GRAPHICS_END),
        // Without shadow memory the firmware's own ROM lies below 1 MiB.
        Machine::Microvm => (ram_bytes.min(3 * GIB), ONE_MIB),
        _ => return Err(LayoutError::NoRule),
    };
    let boot = boot_blocks(ram_bytes, blocks).ok_or(LayoutError::NoRule)?;
    if ram_bytes > LARGEST_PLAIN {
        return Err(LayoutError::NoRule);
    }
    let order: Vec<usize> = (0..boot).collect();
    pc_layout(blocks, &order, low, low_end)
}

/// How many blocks, from the first on, are the RAM that the guest boots with; memory
/// that was plugged comes behind them, and where it appears is the guest's firmware's or
/// its user's choice.
fn boot_blocks(ram_bytes: u64, blocks: &[RamBlock]) -> Option<usize> {
    let mut sum = 0_u64;
    for (index, block) in blocks.iter().enumerate() {
        sum = sum.checked_add(block.length)?;
        if sum >= ram_bytes {
            return (sum == ram_bytes).then_some(index + 1);
        }
    }
    None
}

/// Whether the first of the blocks are all of the RAM that the guest boots with.
pub(crate) fn are_boot_ram(ram_bytes: u64, blocks: &[RamBlock]) -> bool {
    boot_blocks(ram_bytes, blocks).is_some()
}

/// A PC's layout: blocks one after the other, `low` bytes of them below 4 GiB and the
/// rest from there on, with a hole from the graphics memory to `hole_end`.
fn pc_layout(
    blocks: &[RamBlock],
    order: &[usize],
    low: u64,
    hole_end: u64,
) -> Result<Layout, LayoutError> {
    let mut ranges = Vec::new();
    let mut before = 0_u64;
    for &block in order {
        let length = blocks.get(block).map_or(0, |block| block.length);
        let after = before.checked_add(length).ok_or(LayoutError::NoRule)?;
        for (part_start, part_end, start) in [
            (0, low.min(GRAPHICS_START), 0),
            (hole_end, low, hole_end),
            (low, u64::MAX, FOUR_GIB),
        ] {
            let (from, to) = (before.max(part_start), after.min(part_end));
            if from < to {
                ranges.push(LayoutRange {
                    extent: Extent {
                        start: GuestPhysical(start + (from - part_start)),
                        length: to - from,
                    },
                    at: BlockOffset {
                        block,
                        offset: from - before,
                    },
                    source: Source::MachineRule,
                });
            }
        }
        before = after;
    }
    Layout::new(ranges)
}

/// RAM below 4 GiB on `pc`.
fn pc_split(ram_bytes: u64, below_4g: Option<u64>) -> u64 {
    let limit = below_4g.filter(|limit| *limit > 0).unwrap_or(0xe000_0000);
    let low = if ram_bytes >= limit {
        limit.min(3 * GIB)
    } else {
        limit
    };
    ram_bytes.min(low)
}

/// RAM below 4 GiB on `q35`.
fn q35_split(ram_bytes: u64, below_4g: Option<u64>) -> u64 {
    let limit = below_4g.filter(|limit| *limit > 0).unwrap_or(FOUR_GIB);
    let low = if ram_bytes >= 0xb000_0000 {
        2 * GIB
    } else {
        0xb000_0000
    };
    ram_bytes.min(low.min(limit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::VmmVirtual;
    use crate::block::{Backing, RamBlock};

    fn block(length: u64) -> RamBlock {
        RamBlock {
            backing: Backing::PrivateAnonymous,
            name: String::new(),
            start: VmmVirtual(0x7f00_0000_0000),
            length,
            file: None,
            listed: None,
        }
    }

    fn offset_of(machine: Machine, ram: u64, address: u64) -> Option<u64> {
        let layout = by_machine(machine, ram, &[block(ram)]).ok()?;
        let location = layout.translate(GuestPhysical(address)).ok()?;
        Some(location.at.offset)
    }

    #[test]
    fn machines_split_where_qemu_splits_them() {
        let pc = Machine::Pc { below_4g: None };
        let q35 = Machine::Q35 { below_4g: None };
        // As measured: a 4 GiB pc has guest-physical 0x105600000 at 0xc5600000.
        assert_eq!(offset_of(pc, FOUR_GIB, 0x1_0560_0000), Some(0xc560_0000));
        assert_eq!(offset_of(pc, FOUR_GIB, 0xc000_0000), None);
        assert_eq!(offset_of(pc, 0xdff0_0000, 0xdfef_f000), Some(0xdfef_f000));
        assert_eq!(offset_of(q35, FOUR_GIB, FOUR_GIB), Some(2 * GIB));
        assert_eq!(offset_of(q35, 0xaff0_0000, 0xafef_f000), Some(0xafef_f000));
        assert_eq!(
            offset_of(Machine::Microvm, 6 * GIB, FOUR_GIB),
            Some(3 * GIB)
        );
        let lowered = Machine::Pc {
            below_4g: Some(2 * GIB),
        };
        assert_eq!(offset_of(lowered, FOUR_GIB, FOUR_GIB), Some(2 * GIB));
        assert_eq!(offset_of(pc, GIB, GRAPHICS_START), None);
        assert_eq!(offset_of(pc, GIB, 0), Some(0));
        assert_eq!(offset_of(pc, 64 << 10, 0x8000), Some(0x8000));
    }

    #[test]
    fn several_blocks_follow_each_other_and_plugged_ones_are_left_out() {
        let pc = Machine::Pc { below_4g: None };
        let nodes = [block(2 * GIB), block(4 * GIB), block(GIB)];
        let layout = by_machine(pc, 6 * GIB, &nodes).expect("a rule");
        let at = |address| {
            layout
                .translate(GuestPhysical(address))
                .map(|place| place.at)
        };
        let place = |block, offset| Ok(BlockOffset { block, offset });
        assert_eq!(at(0x1000), place(0, 0x1000));
        assert_eq!(at(2 * GIB), place(1, 0));
        assert_eq!(at(3 * GIB - 1), place(1, GIB - 1));
        assert_eq!(at(FOUR_GIB), place(1, GIB));
        assert_eq!(at(7 * GIB - 1), place(1, 4 * GIB - 1));
        assert!(at(7 * GIB).is_err(), "plugged memory has no rule");
        assert_eq!(
            by_machine(pc, 2 * GIB, &[block(GIB)]),
            Err(LayoutError::NoRule)
        );
    }
}
