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
    // What the guest boots with comes first. Where that is several blocks, the first is
    // smaller than the RAM and their order is not certain; where plugged memory lies is
    // the guest's firmware's or its user's choice.
    let Some(block) = blocks.first() else {
        return Err(LayoutError::NoRule);
    };
    let (low, low_end) = match machine {
        Machine::Uml => {
            // The guest's own kernel lies where the file is not mapped.
            return Layout::new(vec![range(block.file_offset(), block.length, 0)]);
        }
        Machine::Pc { below_4g } => (pc_split(ram_bytes, below_4g), GRAPHICS_END),
        Machine::Q35 { below_4g } => (q35_split(ram_bytes, below_4g), GRAPHICS_END),
        // Without shadow memory the firmware's own ROM lies below 1 MiB.
        Machine::Microvm => (ram_bytes.min(3 * GIB), ONE_MIB),
        Machine::Unknown => return Err(LayoutError::NoRule),
    };
    if block.length != ram_bytes || ram_bytes > LARGEST_PLAIN {
        return Err(LayoutError::NoRule);
    }
    let mut ranges = vec![range(0, low.min(GRAPHICS_START), 0)];
    if low > low_end {
        ranges.push(range(low_end, low - low_end, low_end));
    }
    if ram_bytes > low {
        ranges.push(range(FOUR_GIB, ram_bytes - low, low));
    }
    Layout::new(ranges)
}

fn range(start: u64, length: u64, offset: u64) -> LayoutRange {
    LayoutRange {
        extent: Extent {
            start: GuestPhysical(start),
            length,
        },
        at: BlockOffset { block: 0, offset },
        source: Source::MachineRule,
    }
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
    fn several_blocks_or_another_size_have_no_rule() {
        let pc = Machine::Pc { below_4g: None };
        let two = [block(GIB), block(GIB)];
        assert_eq!(by_machine(pc, 2 * GIB, &two), Err(LayoutError::NoRule));
        let plugged = by_machine(pc, GIB, &two).expect("the boot RAM has a rule");
        assert!(plugged.ranges().iter().all(|range| range.at.block == 0));
        assert_eq!(
            by_machine(pc, 2 * GIB, &[block(GIB)]),
            Err(LayoutError::NoRule)
        );
    }
}
