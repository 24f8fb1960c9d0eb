//! Tests of the choice among sections: the named one, the one of the right size, several of
//! them, and what is refused.

use super::*;
use crate::block::Backing;
use crate::mapping::FileIdentity;

const MIB: u64 = 1 << 20;

fn section(handle: u64, length: u64) -> HeldSection {
    HeldSection {
        handle,
        identity: FileIdentity {
            device: (0, 1234),
            inode: handle,
            offset: 0,
        },
        length,
        name: String::new(),
        writable: true,
    }
}

fn held(sections: &[(u64, u64)]) -> HeldSections {
    HeldSections {
        sections: sections
            .iter()
            .map(|(handle, length)| section(*handle, *length))
            .collect(),
        refused: None,
    }
}

fn handles(chosen: &Chosen) -> Vec<u64> {
    let inode = |block: &RamBlock| block.file.map_or(0, |file| file.inode);
    chosen.blocks.iter().map(inode).collect()
}

#[test]
fn the_named_section_is_taken_before_all_others() {
    let mut own = section(8, 64 * MIB);
    own.name = r"\Sessions\1\BaseNamedObjects\VMwareMem1234Memory".to_owned();
    let all = held(&[(4, 64 * MIB), (8, 64 * MIB), (12, 64 * MIB)]);
    let chosen = choose(&all, &NamedSection::Held(own.clone()), Some(64 * MIB));
    assert_eq!(handles(&chosen), [8]);
    assert_eq!(
        chosen.evidence,
        [Evidence::NamedSection, Evidence::SectionOfSize]
    );
    assert_eq!(chosen.blocks[0].name, own.name);
    assert_eq!(chosen.blocks[0].backing, Backing::Section);
    // Without a configuration the name alone says it.
    let chosen = choose(&all, &NamedSection::Held(own.clone()), None);
    assert_eq!(chosen.evidence, [Evidence::NamedSection]);
    // It cannot be smaller than what it has to hold.
    let chosen = choose(
        &held(&[(8, 64 * MIB)]),
        &NamedSection::Held(own),
        Some(MIB << 10),
    );
    assert_eq!(handles(&chosen), [0; 0]);
    let told = 1024 * MIB;
    let largest = 64 * MIB;
    assert_eq!(
        chosen.obstacle,
        Some(Obstacle::SectionsTooSmall { largest, told })
    );
}

#[test]
fn of_unnamed_ones_the_right_size_counts_and_equals_are_all_candidates() {
    let all = held(&[
        (4, 128 * MIB),
        (8, 64 * MIB),
        (12, 64 * MIB),
        (16, 64 * MIB),
        (20, 4096),
    ]);
    let chosen = choose(&all, &NamedSection::Absent, Some(64 * MIB));
    assert_eq!(handles(&chosen), [8, 12, 16]);
    assert_eq!(
        chosen.evidence,
        [Evidence::SectionOfSize, Evidence::SeveralSections]
    );
    let chosen = choose(&all, &NamedSection::Absent, Some(128 * MIB));
    assert_eq!(handles(&chosen), [4]);
    assert_eq!(chosen.evidence, [Evidence::SectionOfSize]);
    // None is exact: the next larger ones first.
    let chosen = choose(&all, &NamedSection::Absent, Some(60 * MIB));
    assert_eq!(handles(&chosen), [8, 12, 16, 4]);
    assert!(chosen.evidence.contains(&Evidence::LargeSections));
    // Nothing is told: the largest first, and what is too small for any guest never.
    let chosen = choose(&all, &NamedSection::Absent, None);
    assert_eq!(handles(&chosen), [4, 8, 12, 16]);
}

#[test]
fn places_of_sections_never_meet_each_other_nor_a_programs_memory() {
    let all = held(&[(4, 1 << 41), (8, 1 << 41), (0xffc, 1 << 41)]);
    let chosen = choose(&all, &NamedSection::Absent, None);
    let mut places: Vec<(u64, u64)> = chosen
        .blocks
        .iter()
        .map(|block| (block.start.0, block.start.0 + block.length))
        .collect();
    places.sort_unstable();
    assert!(places.iter().all(|place| place.0 >= 1 << 63));
    assert!(places.windows(2).all(|pair| pair[0].1 <= pair[1].0));
}

#[test]
fn a_foreign_name_is_left_aside_and_said() {
    let all = held(&[(4, 64 * MIB)]);
    let chosen = choose(&all, &NamedSection::Foreign, Some(64 * MIB));
    assert_eq!(handles(&chosen), [4]);
    assert_eq!(chosen.evidence[0], Evidence::ForeignSection);
    let unclear = NamedSection::Unclear { code: 5 };
    let chosen = choose(&HeldSections::default(), &unclear, None);
    assert_eq!(chosen.evidence, [Evidence::UnclearSection]);
    assert_eq!(chosen.obstacle, Some(Obstacle::NoBlock));
}

#[test]
fn handles_that_cannot_be_copied_are_the_reason() {
    let refused = HeldSections {
        sections: vec![section(4, 8 * MIB)],
        refused: Some((3, 5)),
    };
    let chosen = choose(&refused, &NamedSection::Absent, Some(64 * MIB));
    let obstacle = chosen.obstacle.expect("nothing fits");
    assert_eq!(obstacle, Obstacle::SectionsRefused { count: 3, code: 5 });
    assert!(obstacle.hint().is_some());
    assert!(
        choose(&refused, &NamedSection::Absent, None)
            .obstacle
            .is_none()
    );
}
