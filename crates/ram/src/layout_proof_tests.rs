//! Tests of what points prove and which contradictions are noticed.

use super::*;
use crate::address::VmmVirtual;
use crate::block::Backing;
use crate::layout_rule::by_machine;
use crate::vmm::Machine;
use proptest::prelude::*;

const PAGE: u64 = 4096;
const GIB: u64 = 1 << 30;

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

fn extent(start: u64, end: u64) -> Extent {
    Extent {
        start: GuestPhysical(start),
        length: end - start,
    }
}

fn point(address: u64, block: usize, offset: u64) -> Point {
    (GuestPhysical(address), BlockOffset { block, offset })
}

/// What a 4 GiB `pc` guest reports as its RAM.
fn pc_ranges() -> Vec<Extent> {
    vec![
        extent(0x1000, 0x9_fc00),
        extent(0x10_0000, 0xbffe_0000),
        extent(4 * GIB, 5 * GIB),
    ]
}

#[test]
fn a_point_proves_its_range_and_the_rule_fills_in_the_rest() {
    let blocks = [block(4 * GIB)];
    let rule = by_machine(Machine::Pc { below_4g: None }, 4 * GIB, &blocks).expect("a rule");
    let points = [point(0x1_0560_0000, 0, 0xc560_0000)];
    let layout = Layout::prove(&points, &pc_ranges(), &blocks, Some(&rule)).expect("a layout");
    let source = |address| {
        layout
            .translate(GuestPhysical(address))
            .map(|found| found.source)
    };
    assert_eq!(source(4 * GIB), Ok(Source::Proved));
    assert_eq!(source(0x10_0000), Ok(Source::MachineRule));
    assert_eq!(source(0x2000), Ok(Source::MachineRule));
    assert!(source(0xa_0000).is_err());
    let weakest = layout.weakest_source(&[extent(4 * GIB, 4 * GIB + PAGE)]);
    assert_eq!(weakest, Ok(Some(Source::Proved)));
}

#[test]
fn a_point_in_one_of_two_blocks_leaves_the_rest_of_their_range_to_the_rule() {
    // Two NUMA nodes of 1 GiB and 3 GiB: their border is inside a reported range.
    let blocks = [block(GIB), block(3 * GIB)];
    let rule = by_machine(Machine::Pc { below_4g: None }, 4 * GIB, &blocks).expect("a rule");
    let points = [point(2 * GIB, 1, GIB)];
    let layout = Layout::prove(&points, &pc_ranges(), &blocks, Some(&rule)).expect("a layout");
    let found = |address| {
        let location = layout.translate(GuestPhysical(address)).expect("RAM");
        (location.at.block, location.at.offset, location.source)
    };
    assert_eq!(found(GIB), (1, 0, Source::Proved));
    assert_eq!(found(GIB - PAGE), (0, GIB - PAGE, Source::MachineRule));
    assert_eq!(found(0x10_0000), (0, 0x10_0000, Source::MachineRule));
    assert_eq!(found(4 * GIB), (1, 2 * GIB, Source::MachineRule));
}

#[test]
fn plugged_memory_is_told_by_its_length() {
    let blocks = [block(GIB), block(256 << 20), block(512 << 20)];
    let rule = by_machine(Machine::Pc { below_4g: None }, GIB, &blocks).expect("a rule");
    let points = [point(0x20_0000, 0, 0x20_0000)];
    let plugged = extent(4 * GIB, 4 * GIB + (256 << 20));
    let ranges = [extent(0x10_0000, GIB - 0x2_0000), plugged];
    let layout = Layout::prove(&points, &ranges, &blocks, Some(&rule)).expect("a layout");
    let location = layout
        .translate(GuestPhysical(4 * GIB + PAGE))
        .expect("RAM");
    assert_eq!((location.at.block, location.at.offset), (1, PAGE));
    assert_eq!(location.source, Source::MachineRule);

    // Two that touch are told apart as they are reported.
    let second = extent(plugged.start.0 + plugged.length, 4 * GIB + (768 << 20));
    let two = [ranges[0], plugged, second];
    let layout = Layout::prove(&points, &two, &blocks, Some(&rule)).expect("a layout");
    let block_at = |address| {
        layout
            .translate(GuestPhysical(address))
            .map(|found| found.at.block)
    };
    assert_eq!(block_at(second.start.0 - PAGE), Ok(1));
    assert_eq!(block_at(second.start.0), Ok(2));

    // The agent's own pages may be in it, of which the rule knows nothing.
    let inside = [point(4 * GIB + PAGE, 1, PAGE)];
    let layout = Layout::prove(&inside, &ranges, &blocks, Some(&rule)).expect("a layout");
    let source = |address| {
        layout
            .translate(GuestPhysical(address))
            .map(|found| found.source)
    };
    assert_eq!(source(4 * GIB), Ok(Source::Proved));
    assert_eq!(source(0x20_0000), Ok(Source::MachineRule));

    // Two of one length could be exchanged.
    let twins = [block(GIB), block(256 << 20), block(256 << 20)];
    let layout = Layout::prove(&points, &ranges, &twins, Some(&rule)).expect("a layout");
    assert!(layout.translate(GuestPhysical(4 * GIB)).is_err());
}

#[test]
fn a_rule_that_a_point_refutes_is_not_used() {
    let blocks = [block(4 * GIB)];
    // The command line said pc, but RAM splits as on q35.
    let rule = by_machine(Machine::Pc { below_4g: None }, 4 * GIB, &blocks).expect("a rule");
    let ranges = [extent(0x10_0000, 2 * GIB), extent(4 * GIB, 6 * GIB)];
    let points = [point(4 * GIB + PAGE, 0, 2 * GIB + PAGE)];
    let layout = Layout::prove(&points, &ranges, &blocks, Some(&rule)).expect("a layout");
    // The rule would have put RAM up to 3 GiB; what the point says of the hole holds.
    let low = layout.translate(GuestPhysical(0x20_0000)).expect("RAM");
    assert_eq!(
        (low.at.offset, low.source),
        (0x20_0000, Source::MachineRule)
    );
    assert!(layout.translate(GuestPhysical(0x9000_0000)).is_err());
    // Nothing is known where the guest's RAM does not fill the block.
    let larger = [block(16 * GIB)];
    let layout = Layout::prove(&points, &ranges, &larger, Some(&rule)).expect("a layout");
    assert_eq!(layout.ranges().len(), 1);
}

#[test]
fn one_reported_range_may_span_two_blocks() {
    let blocks = [block(GIB), block(GIB)];
    let ranges = [extent(0x10_0000, 2 * GIB)];
    let points = [point(0x20_0000, 1, 0x20_0000), point(GIB + PAGE, 0, PAGE)];
    let layout = Layout::prove(&points, &ranges, &blocks, None).expect("a layout");
    let at = |address| layout.translate(GuestPhysical(address)).expect("RAM").at;
    assert_eq!(
        at(GIB - 1),
        BlockOffset {
            block: 1,
            offset: GIB - 1
        }
    );
    assert_eq!(
        at(GIB),
        BlockOffset {
            block: 0,
            offset: 0
        }
    );
}

#[test]
fn contradictions_are_noticed() {
    let blocks = [block(4 * GIB), block(GIB)];
    let prove = |points: &[Point]| Layout::prove(points, &pc_ranges(), &blocks, None);
    let is_contradiction = |result: Result<Layout, LayoutError>| {
        matches!(result, Err(LayoutError::Contradiction { .. }))
    };
    // Two distances in one range.
    assert!(is_contradiction(prove(&[
        point(0x20_0000, 0, 0x20_0000),
        point(0x40_0000, 0, 0x60_0000)
    ])));
    // Two addresses at one place.
    assert!(is_contradiction(prove(&[
        point(0x20_0000, 0, 0x20_0000),
        point(4 * GIB, 0, 0x20_0000)
    ])));
    // One address at two places.
    assert!(is_contradiction(prove(&[
        point(0x20_0000, 0, 0x20_0000),
        point(0x20_0000, 1, 0x20_0000)
    ])));
    // Two ranges on the same bytes.
    assert!(is_contradiction(prove(&[
        point(0x20_0000, 0, 0x20_0000),
        point(4 * GIB, 0, 0x40_0000)
    ])));
    // Two blocks at the same addresses.
    assert!(is_contradiction(prove(&[
        point(0x20_0000, 0, 0x20_0000),
        point(0x40_0000, 1, 0x40_0000)
    ])));
}

#[test]
fn points_outside_ram_are_refused() {
    let blocks = [block(4 * GIB)];
    let stray = |address, at: u64| {
        let result = Layout::prove(&[point(address, 0, at)], &pc_ranges(), &blocks, None);
        assert!(
            matches!(result, Err(LayoutError::StrayPoint { .. })),
            "{result:?}"
        );
    };
    stray(0xa_0000, 0xa_0000);
    stray(6 * GIB, 0);
    stray(0x20_0000, 4 * GIB);
    let no_block = Layout::prove(&[point(0x20_0000, 3, 0)], &pc_ranges(), &blocks, None);
    assert!(matches!(no_block, Err(LayoutError::StrayPoint { .. })));
}

#[test]
fn without_reported_ranges_only_what_was_seen_counts() {
    let blocks = [block(4 * GIB)];
    let layout =
        Layout::prove(&[point(0x20_0800, 0, 0x800)], &[], &blocks, None).expect("a layout");
    assert_eq!(layout.ranges().len(), 1);
    assert_eq!(layout.ranges()[0].extent, extent(0x20_0000, 0x20_1000));
    assert_eq!(layout.ranges()[0].at.offset, 0);
    let wrong = [extent(0, 0x1000), extent(0x800, 0x2000)];
    assert!(Layout::prove(&[], &wrong, &blocks, None).is_err());
}

proptest! {
    /// A true layout is never contradicted, and every point keeps its place.
    #[test]
    fn true_points_are_accepted(
        low_pages in 16..4096_u64,
        high_pages in 1..4096_u64,
        picks in proptest::collection::vec((any::<bool>(), 0..4096_u64), 1..20),
    ) {
        let blocks = [block((low_pages + high_pages) * PAGE)];
        let ranges = [
            extent(0x10 * PAGE, (0x10 + low_pages) * PAGE),
            extent(4 * GIB, 4 * GIB + high_pages * PAGE),
        ];
        let points: Vec<Point> = picks
            .iter()
            .map(|&(high, page)| {
                if high {
                    let page = page % high_pages;
                    point(4 * GIB + page * PAGE, 0, (low_pages + page) * PAGE)
                } else {
                    let page = page % low_pages;
                    point((0x10 + page) * PAGE, 0, page * PAGE)
                }
            })
            .collect();
        let layout = Layout::prove(&points, &ranges, &blocks, None).expect("no contradiction");
        for point in &points {
            let location = layout.translate(point.0).expect("RAM");
            prop_assert_eq!(location.at, point.1);
            prop_assert_eq!(location.source, Source::Proved);
        }
    }

    /// Whatever is claimed, nothing panics, and what is proved lies inside the blocks.
    #[test]
    fn any_claim_is_survived(
        points in proptest::collection::vec((any::<u64>(), 0..3_usize, any::<u64>()), 0..6),
        near in proptest::collection::vec((0..0x4000_u64, 0..2_usize, 0..0x4000_u64), 0..6),
        ranges in proptest::collection::vec((any::<u64>(), any::<u64>()), 0..4),
        small in proptest::collection::vec((0..0x4000_u64, 0..0x4000_u64), 0..4),
    ) {
        let blocks = [block(0x4000), block(u64::MAX / 2)];
        let points: Vec<Point> = points
            .into_iter()
            .chain(near)
            .map(|(address, block, offset)| point(address, block, offset))
            .collect();
        let ranges: Vec<Extent> = ranges
            .into_iter()
            .chain(small)
            .map(|(start, length)| Extent { start: GuestPhysical(start), length })
            .collect();
        if let Ok(layout) = Layout::prove(&points, &ranges, &blocks, None) {
            for range in layout.ranges() {
                prop_assert!(range.at.offset + range.extent.length <= blocks[range.at.block].length);
            }
        }
    }
}
