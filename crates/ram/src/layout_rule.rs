//! Layouts by rule: where a machine that is known puts its RAM. Rules are guesses until
//! something proves them. The splits of QEMU's machines follow its sources
//! (`hw/i386/pc_piix.c`, `pc_q35.c`, `microvm.c`), those of Firecracker its
//! `src/vmm/src/arch/x86_64/layout.rs` (a hole of 768 MiB below 4 GiB in older releases, of
//! 1 GiB in newer ones), that of Cloud Hypervisor its `arch/src/x86_64/layout.rs` (RAM up to 3 GiB).
//! That of VMware follows the memory maps (e820) that guests of its BIOS print: RAM up to
//! 3 GiB and from 4 GiB on, unless `pciHole.start` in the `.vmx` file says otherwise, and its
//! `.vmem` files, which hold both without a gap.

use vmshm_link::{Extent, GuestPhysical};

use crate::address::BlockOffset;
use crate::block::RamBlock;
use crate::firmware::Hypothesis;
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
/// Where machines that nobody described may split their RAM.
const SPLITS: [u64; 8] = [
    FOUR_GIB,
    3 * GIB,
    2 * GIB,
    0xb000_0000,
    0xe000_0000,
    GIB,
    3 * GIB / 2,
    5 * GIB / 2,
];
/// More blocks than this are not asked whether they are the RAM.
const MOST_CANDIDATES: usize = 16;
/// More blocks than this are tried in their own order alone.
const MOST_EXCHANGED: usize = 4;

/// The layout of a machine with `ram_bytes` of RAM in `blocks`.
pub(crate) fn by_machine(
    machine: Machine,
    ram_bytes: u64,
    blocks: &[RamBlock],
) -> Result<Layout, LayoutError> {
    let (low, low_end) = match machine {
        Machine::Uml => {
            // The guest's own kernel lies where the file is not mapped.
            let block = blocks.first().ok_or(LayoutError::NoRule)?;
            return Layout::new(vec![range(block.file_offset(), block.length, 0)]);
        }
        Machine::Pc { below_4g } => (pc_split(ram_bytes, below_4g), GRAPHICS_END),
        Machine::Q35 { below_4g } => (q35_split(ram_bytes, below_4g), GRAPHICS_END),
        // Without shadow memory the firmware's own ROM lies below 1 MiB.
        Machine::Microvm => (ram_bytes.min(3 * GIB), ONE_MIB),
        Machine::Firecracker => return split(blocks, &[3 * GIB, FOUR_GIB - (768 << 20)]),
        Machine::CloudHypervisor => return split(blocks, &[3 * GIB]),
        Machine::Counted => {
            let block = blocks.first().ok_or(LayoutError::NoRule)?;
            return Layout::new(vec![LayoutRange {
                source: Source::BlockOrder,
                ..range(0, block.length, 0)
            }]);
        }
        Machine::Vmware { below_4g } => return vmware_layout(ram_bytes, blocks, 0, below_4g),
        Machine::Scattered => return Err(LayoutError::Scattered),
        Machine::Unknown => return Err(LayoutError::NoRule),
    };
    let boot = boot_blocks(ram_bytes, blocks).ok_or(LayoutError::NoRule)?;
    if ram_bytes > LARGEST_PLAIN {
        return Err(LayoutError::NoRule);
    }
    let order: Vec<usize> = (0..boot).collect();
    pc_layout(blocks, &order, low, low_end)
}

/// The layouts of such a machine, each with another block where the rule cannot know which
/// of several is the RAM: of these one is right. Each is by the rule alone what it would be
/// if there were no other block.
pub(crate) fn alternatives(machine: Machine, ram_bytes: u64, blocks: &[RamBlock]) -> Vec<Layout> {
    if !matches!(machine, Machine::Vmware { .. } | Machine::Counted) {
        return by_machine(machine, ram_bytes, blocks).into_iter().collect();
    }
    let candidates = blocks.iter().take(MOST_CANDIDATES).enumerate();
    let with = |(index, block): (usize, &RamBlock)| {
        let alone = by_machine(machine, ram_bytes, std::slice::from_ref(block)).ok()?;
        let ranges = alone.ranges().iter().map(|range| LayoutRange {
            at: BlockOffset {
                block: index,
                offset: range.at.offset,
            },
            ..*range
        });
        Layout::new(ranges.collect()).ok()
    };
    candidates.filter_map(with).collect()
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

/// One of several blocks that may be a VMware guest's RAM: without gaps from address 0 up to
/// `low`, and from 4 GiB on. Which of several it is the rule cannot know.
fn vmware_layout(
    ram_bytes: u64,
    blocks: &[RamBlock],
    chosen: usize,
    low: u64,
) -> Result<Layout, LayoutError> {
    let block = blocks.get(chosen).ok_or(LayoutError::NoRule)?;
    let size = match ram_bytes {
        0 => block.length,
        told => told.min(block.length),
    };
    let source = if blocks.len() > 1 {
        Source::BlockOrder
    } else {
        Source::MachineRule
    };
    let parts = [
        range(0, size.min(low), 0),
        range(FOUR_GIB, size.saturating_sub(low), low),
    ];
    let there = parts.into_iter().filter(|part| part.extent.length > 0);
    let of_block = there.map(|part| LayoutRange {
        at: BlockOffset {
            block: chosen,
            offset: part.at.offset,
        },
        source,
        ..part
    });
    Layout::new(of_block.collect())
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

/// Every way in which a machine may have laid out its RAM, the likeliest first: by its
/// rule, by that with equal blocks exchanged, and as any PC may do it.
pub(crate) fn hypotheses(machine: Machine, ram_bytes: u64, blocks: &[RamBlock]) -> Vec<Hypothesis> {
    let mut all: Vec<Hypothesis> = Vec::new();
    let mut add = |layout: Result<Layout, LayoutError>, by_rule| {
        if let Ok(layout) = layout
            && all.iter().all(|other| other.layout != layout)
        {
            all.push(Hypothesis { layout, by_rule });
        }
    };
    add(by_machine(machine, ram_bytes, blocks), true);
    if let Machine::Vmware { below_4g } = machine {
        for chosen in 1..blocks.len().min(MOST_CANDIDATES) {
            add(vmware_layout(ram_bytes, blocks, chosen, below_4g), true);
        }
        return all;
    }
    if machine == Machine::Uml || ram_bytes > LARGEST_PLAIN {
        return all;
    }
    let Some(boot) = boot_blocks(ram_bytes, blocks) else {
        return all;
    };
    let given = match machine {
        Machine::Pc { below_4g } => Some(pc_split(ram_bytes, below_4g)),
        Machine::Q35 { below_4g } => Some(q35_split(ram_bytes, below_4g)),
        Machine::Microvm => Some(ram_bytes.min(3 * GIB)),
        _ => None,
    };
    let orders = orders(boot);
    for order in &orders {
        if let Some(low) = given {
            add(pc_layout(blocks, order, low, GRAPHICS_END), false);
        }
    }
    for order in &orders {
        for split in SPLITS {
            let low = split.min(ram_bytes);
            add(pc_layout(blocks, order, low, GRAPHICS_END), false);
        }
    }
    all
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

/// The orders in which so many blocks may follow each other.
fn orders(blocks: usize) -> Vec<Vec<usize>> {
    if blocks > MOST_EXCHANGED {
        return vec![(0..blocks).collect()];
    }
    let mut orders: Vec<Vec<usize>> = vec![Vec::new()];
    for _ in 0..blocks {
        let longer = orders.iter().flat_map(|order| {
            let free = (0..blocks).filter(|block| !order.contains(block));
            free.map(|block| {
                let mut next = order.clone();
                next.push(block);
                next
            })
        });
        orders = longer.collect();
    }
    orders
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
    fn vmwares_ram_has_no_gap_and_goes_on_at_4_gib() {
        let machine = Machine::Vmware { below_4g: 3 * GIB };
        assert_eq!(offset_of(machine, 8 * GIB, 3 * GIB - 1), Some(3 * GIB - 1));
        assert_eq!(offset_of(machine, 8 * GIB, 3 * GIB), None);
        assert_eq!(offset_of(machine, 8 * GIB, FOUR_GIB), Some(3 * GIB));
        assert_eq!(offset_of(machine, 8 * GIB, 9 * GIB - 1), Some(8 * GIB - 1));
        assert_eq!(offset_of(machine, 8 * GIB, 9 * GIB), None);
        assert_eq!(
            offset_of(machine, GIB, GRAPHICS_START),
            Some(GRAPHICS_START)
        );
        // The section may be larger than the RAM, and never smaller.
        let larger = by_machine(machine, GIB, &[block(2 * GIB)]).expect("a rule");
        assert!(larger.translate(GuestPhysical(GIB)).is_err());
        assert_eq!(larger.ranges()[0].source, Source::MachineRule);
        // Which of several it is the rule does not know, and each is tried.
        let several = [block(GIB), block(GIB), block(GIB)];
        let first = by_machine(machine, GIB, &several).expect("a guess");
        assert!(first.is_guess());
        let all = hypotheses(machine, GIB, &several);
        let blocks: Vec<usize> = all
            .iter()
            .map(|one| one.layout.ranges()[0].at.block)
            .collect();
        assert_eq!(blocks, [0, 1, 2]);
        assert_eq!(by_machine(machine, GIB, &[]), Err(LayoutError::NoRule));
    }

    #[test]
    fn where_the_rule_cannot_know_the_block_each_is_as_if_it_was_alone() {
        let machine = Machine::Vmware { below_4g: GIB };
        let several = [block(2 * GIB), block(2 * GIB)];
        let all = alternatives(machine, 2 * GIB, &several);
        assert_eq!(all.len(), 2);
        for (index, layout) in all.iter().enumerate() {
            assert!(!layout.is_guess());
            let high = layout.translate(GuestPhysical(FOUR_GIB)).expect("there");
            assert_eq!((high.at.block, high.at.offset), (index, GIB));
        }
        let counted = alternatives(Machine::Counted, 0, &several);
        assert!(counted.len() == 2 && counted.iter().all(Layout::is_guess));
        let pc = Machine::Pc { below_4g: None };
        assert_eq!(alternatives(pc, 2 * GIB, &several[..1]).len(), 1);
        assert!(alternatives(Machine::Unknown, 0, &several).is_empty());
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

    #[test]
    fn equal_blocks_are_tried_in_every_order() {
        let blocks = [block(GIB), block(GIB)];
        let all = hypotheses(Machine::Pc { below_4g: None }, 2 * GIB, &blocks);
        assert!(all[0].by_rule && !all[1].by_rule);
        let first = |layout: &Layout| layout.ranges()[0].at.block;
        assert!(all.iter().any(|one| first(&one.layout) == 1));
        assert_eq!(orders(3).len(), 6);
        assert_eq!(orders(9).len(), 1);
    }
}
