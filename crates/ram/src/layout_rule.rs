//! Layouts by rule: where a machine that is known puts its RAM. Rules are guesses until
//! something proves them. The splits of QEMU's machines follow its sources
//! (`hw/i386/pc_piix.c`, `pc_q35.c`, `microvm.c`), those of Firecracker its
//! `src/vmm/src/arch/x86_64/layout.rs` (a hole of 768 MiB below 4 GiB in older releases, of
//! 1 GiB in newer ones), that of Cloud Hypervisor its `arch/src/x86_64/layout.rs` (RAM up to 3 GiB).

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
        Machine::Firecracker => return split(blocks, &[3 * GIB, FOUR_GIB - (768 << 20)]),
        Machine::CloudHypervisor => return split(blocks, &[3 * GIB]),
        Machine::Counted => {
            return Layout::new(vec![LayoutRange {
                source: Source::BlockOrder,
                ..range(0, block.length, 0)
            }]);
        }
        Machine::Scattered => return Err(LayoutError::Scattered),
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

/// RAM from 0 up to one of `ends`, the smallest first, and the rest in a block of its own
/// from 4 GiB. Legacy graphics memory does not exist there.
fn split(blocks: &[RamBlock], ends: &[u64]) -> Result<Layout, LayoutError> {
    /// Firecracker leaves a second hole here.
    const SECOND_HOLE: u64 = 256 * GIB;
    let smallest = ends.first().copied().unwrap_or(0);
    match blocks {
        [only] if only.length <= smallest => Layout::new(vec![range(0, only.length, 0)]),
        [low, high] if ends.contains(&low.length) && high.length <= SECOND_HOLE - FOUR_GIB => {
            let high = LayoutRange {
                at: BlockOffset {
                    block: 1,
                    offset: 0,
                },
                ..range(FOUR_GIB, high.length, 0)
            };
            Layout::new(vec![range(0, low.length, 0), high])
        }
        _ => Err(LayoutError::NoRule),
    }
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
    fn small_vmms_split_below_4_gib_where_their_blocks_do() {
        for (machine, low) in [
            (Machine::CloudHypervisor, 3 * GIB),
            (Machine::Firecracker, 3 * GIB),
            (Machine::Firecracker, 0xd000_0000),
        ] {
            let blocks = [block(low), block(GIB)];
            let layout = by_machine(machine, low + GIB, &blocks).expect("a rule");
            let last = layout.translate(GuestPhysical(low - 1)).expect("RAM");
            assert_eq!(
                last.at,
                BlockOffset {
                    block: 0,
                    offset: low - 1
                }
            );
            assert!(layout.translate(GuestPhysical(low)).is_err());
            let high = layout.translate(GuestPhysical(FOUR_GIB)).expect("RAM");
            assert_eq!((high.at.block, high.at.offset), (1, 0));
            assert_eq!(high.source, Source::MachineRule);
        }
        assert_eq!(
            offset_of(Machine::Firecracker, GIB, 0xa_0000),
            Some(0xa_0000)
        );
        let odd = [block(2 * GIB), block(GIB)];
        let rule = by_machine(Machine::CloudHypervisor, 3 * GIB, &odd);
        assert_eq!(rule, Err(LayoutError::NoRule));
    }

    #[test]
    fn counting_from_the_largest_block_is_called_a_guess() {
        let layout = by_machine(Machine::Counted, 0, &[block(GIB), block(2 << 20)]);
        let layout = layout.expect("a guess");
        assert!(layout.is_guess());
        let location = layout
            .translate(GuestPhysical(0x1234))
            .expect("in the block");
        assert_eq!(location.at.offset, 0x1234);
        assert_eq!(location.source, Source::BlockOrder);
        assert!(layout.translate(GuestPhysical(GIB)).is_err());
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
