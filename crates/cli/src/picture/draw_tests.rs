//! Tests of the picture's layout over inspections made by hand.

use super::*;
use crate::picture::shapes::Shape;
use crate::picture::{png, svg};
use proptest::prelude::*;
use std::path::PathBuf;
use vmshm_link::Extent;
use vmshm_link::directory::{RegionEntry, RegionKind};
use vmshm_link::fields::Text;
use vmshm_ram::{BlockOffset, DumpFormat, Layout, LayoutRange, Source};

fn inspection(ranges: &[(u64, u64)], regions: &[(&str, u64, u64)]) -> Inspection {
    let mut at = 0;
    let ranges = ranges.iter().map(|&(start, length)| {
        let range = LayoutRange {
            extent: Extent {
                start: GuestPhysical(start),
                length,
            },
            at: BlockOffset {
                block: 0,
                offset: at,
            },
            source: Source::MachineRule,
        };
        at += length;
        range
    });
    let region = |&(name, start, length): &(&str, u64, u64)| vmshm_host::inspect::RegionView {
        entry: RegionEntry {
            id: 1,
            kind: RegionKind::Raw,
            size: length,
            ready: true,
            record: 0,
            ended: None,
            name: Text::new(name),
        },
        extents: Some(vec![Extent {
            start: GuestPhysical(start),
            length,
        }]),
    };
    Inspection {
        name: "test <vm>".to_owned(),
        identity: Identity::Stored {
            path: PathBuf::from("file"),
            format: DumpFormat::Raw,
        },
        ram_bytes: 1 << 30,
        blocks: Vec::new(),
        layout: Layout::new(ranges.collect()).expect("a layout"),
        guest_os: None,
        agent: None,
        beacon: regions.first().map(|(_, start, _)| GuestPhysical(*start)),
        regions: regions.iter().map(region).collect(),
        notes: Vec::new(),
    }
}

/// Nothing is drawn outside the sheet.
fn assert_inside(drawing: &Drawing) {
    let inside = |x: f64, y: f64| {
        assert!((-1.0..=drawing.width + 1.0).contains(&x), "x = {x}");
        assert!((-1.0..=drawing.height + 1.0).contains(&y), "y = {y}");
    };
    for shape in &drawing.shapes {
        match shape {
            Shape::Rectangle {
                x,
                y,
                width,
                height,
                ..
            } => {
                inside(*x, *y);
                inside(x + width, y + height);
            }
            Shape::Polygon { points, .. } => points.iter().for_each(|(x, y)| inside(*x, *y)),
            Shape::Line { from, to, .. } => {
                inside(from.0, from.1);
                inside(to.0, to.1);
            }
            Shape::Text { x, y, .. } => inside(*x, *y),
        }
    }
}

#[test]
fn every_region_is_named_and_nothing_leaves_the_sheet() {
    let regions = [
        ("one", 0x1000, 0x1000),
        ("two", 0x2000, 0x1000),
        ("far", 3 << 30, 1 << 29),
    ];
    let found = inspection(&[(0, 2 << 30), (3 << 30, 1 << 30)], &regions);
    let drawing = draw(&found);
    assert_inside(&drawing);
    let text = svg::write(&drawing);
    for name in ["one", "two", "far", "beacon", "no RAM", "test &lt;vm&gt;"] {
        assert!(text.contains(&format!(">{name}<")), "{name}");
    }
    assert!(
        png::render(&text)
            .expect("rendered")
            .starts_with(b"\x89PNG")
    );
}

#[test]
fn a_vm_of_which_nothing_is_known_is_drawn_too() {
    let drawing = draw(&inspection(&[], &[]));
    assert_inside(&drawing);
    assert!(svg::write(&drawing).contains("is not known"));
}

#[test]
fn a_picture_of_very_many_ranges_and_regions_stays_small() {
    let ranges: Vec<_> = (0..3000)
        .map(|number| (number * 0x20_0000, 0x10_0000))
        .collect();
    let regions: Vec<_> = (0..60)
        .map(|number| ("region", number * 0x20_0000, 0x1000))
        .collect();
    let drawing = draw(&inspection(&ranges, &regions));
    assert_inside(&drawing);
    assert!(drawing.height < 3000.0, "{}", drawing.height);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_layout_is_drawn(
        starts in proptest::collection::btree_set(0_u64..(1 << 52), 0..12),
        lengths in proptest::collection::vec(1_u64..(1 << 40), 12),
        region in any::<(u64, u64)>(),
    ) {
        let starts: Vec<u64> = starts.into_iter().map(|start| start << 11).collect();
        let ranges: Vec<(u64, u64)> = starts
            .iter()
            .zip(lengths)
            .enumerate()
            .map(|(index, (start, length))| {
                let next = starts.get(index + 1).copied().unwrap_or(u64::MAX);
                (*start, length.min(next - start))
            })
            .collect();
        let found = inspection(&ranges, &[("r", region.0, region.1.max(1))]);
        assert_inside(&draw(&found));
        let _ = crate::picture::map(&found);
    }
}

#[test]
fn a_great_many_ranges_are_a_picture_of_bounded_size() {
    let ranges = |count: u64| {
        let ranges: Vec<_> = (0..count).map(|index| (index << 13, 4096)).collect();
        draw(&inspection(&ranges, &[])).shapes.len()
    };
    let (many, more) = (ranges(20_000), ranges(100_000));
    assert!(many < 30_000, "{many}");
    assert!(more <= many + 100, "{more}");
    let mixed: Vec<_> = (0..5000).map(|index| (index << 13, 4096)).collect();
    let mixed = [mixed, vec![(1 << 30, 1 << 30)]].concat();
    assert_inside(&draw(&inspection(&mixed, &[])));
}
