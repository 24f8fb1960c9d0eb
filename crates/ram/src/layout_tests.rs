//! Tests of translating addresses, against a page-by-page model.

use super::*;
use proptest::prelude::*;

const PAGE: u64 = 4096;

fn range(start: u64, length: u64, block: usize, offset: u64) -> LayoutRange {
    LayoutRange {
        extent: Extent {
            start: GuestPhysical(start),
            length,
        },
        at: BlockOffset { block, offset },
        source: Source::MachineRule,
    }
}

fn extent(start: u64, length: u64) -> Extent {
    Extent {
        start: GuestPhysical(start),
        length,
    }
}

#[test]
fn errors_name_the_nearest_ranges() {
    let layout = Layout::new(vec![
        range(0x10000, 0x1000, 0, 0),
        range(0x20000, 0x1000, 0, 0x1000),
    ])
    .expect("a layout");
    let error = |address| {
        layout
            .translate(GuestPhysical(address))
            .expect_err("no RAM")
            .to_string()
    };
    assert_eq!(
        error(0x15000),
        "address 0x15000 is in a hole of the guest's RAM, between 0x11000 and 0x20000"
    );
    assert_eq!(
        error(0x21000),
        "address 0x21000 is past the guest's RAM, which ends at 0x21000"
    );
    assert_eq!(
        error(0xfff),
        "address 0xfff is before the guest's RAM, which starts at 0x10000"
    );
    assert_eq!(
        Layout::default().translate(GuestPhysical(0)),
        Err(LayoutError::Empty)
    );
}

#[test]
fn extents_may_cross_ranges_but_not_holes() {
    let layout = Layout::new(vec![
        range(0, 0x2000, 0, 0x5000),
        range(0x2000, 0x2000, 1, 0),
        range(0x8000, 0x1000, 0, 0),
    ])
    .expect("a layout");
    let pieces = layout.pieces(&[extent(0x1000, 0x2000)]).expect("pieces");
    assert_eq!(
        pieces,
        [
            BlockPiece {
                at: BlockOffset {
                    block: 0,
                    offset: 0x6000
                },
                length: 0x1000
            },
            BlockPiece {
                at: BlockOffset {
                    block: 1,
                    offset: 0
                },
                length: 0x1000
            },
        ]
    );
    assert!(layout.pieces(&[extent(0x3000, 0x2000)]).is_err());
    assert!(layout.pieces(&[extent(0x3000, 0)]).is_err());
    assert!(layout.pieces(&[extent(u64::MAX, 2)]).is_err());
    assert_eq!(layout.weakest_source(&[]), Ok(None));
}

#[test]
fn wrong_ranges_are_refused() {
    assert!(Layout::new(vec![range(0, 0x2000, 0, 0), range(0x1000, 0x1000, 0, 0)]).is_err());
    assert!(Layout::new(vec![range(0, 0, 0, 0)]).is_err());
    assert!(Layout::new(vec![range(u64::MAX, 2, 0, 0)]).is_err());
    assert!(Layout::new(vec![range(0, 2, 0, u64::MAX)]).is_err());
}

proptest! {
    #[test]
    fn translation_agrees_with_a_page_table(
        parts in proptest::collection::vec((0..3_u64, 1..5_u64, 0..3_usize, 0..64_u64), 0..8),
        first in 0..48_u64,
        count in 1..12_u64,
    ) {
        let mut model: Vec<Option<(usize, u64)>> = Vec::new();
        let mut ranges = Vec::new();
        for (gap, pages, block, offset) in parts {
            model.extend((0..gap).map(|_| None));
            ranges.push(range(model.len() as u64 * PAGE, pages * PAGE, block, offset * PAGE));
            model.extend((0..pages).map(|page| Some((block, offset + page))));
        }
        let layout = Layout::new(ranges).expect("disjoint by construction");
        let lookup = |page: u64| usize::try_from(page).ok().and_then(|page| model.get(page).copied().flatten());
        let expected: Option<Vec<(usize, u64)>> = (first..first + count).map(lookup).collect();
        let got = layout.pieces(&[extent(first * PAGE, count * PAGE)]);
        match (expected, got) {
            (None, got) => prop_assert!(got.is_err()),
            (Some(expected), got) => {
                let mut pages = Vec::new();
                for piece in got.expect("all pages are RAM") {
                    for page in 0..piece.length / PAGE {
                        pages.push((piece.at.block, piece.at.offset / PAGE + page));
                    }
                }
                prop_assert_eq!(pages, expected);
            }
        }
        if let Some((block, offset)) = lookup(first) {
            let at = BlockOffset { block, offset: offset * PAGE };
            let back = layout.guest_physical(at).expect("some address");
            prop_assert_eq!(layout.translate(back).expect("RAM").at, at);
        }
    }
}
