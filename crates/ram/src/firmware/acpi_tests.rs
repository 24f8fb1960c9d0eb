//! Tests of following root pointers, over tables made by hand.

use std::time::{Duration, Instant};

use super::*;
use crate::firmware::tables::{Tables, root_pointer, table};
use proptest::prelude::*;

fn walk_over(tables: &Tables, root: &[u8]) -> Walk {
    let root = RootPointer::parse(root).expect("a root pointer");
    let mut allowance = Allowance::new(usize::MAX, Instant::now() + Duration::from_secs(600));
    walk(&root, &mut allowance, &mut |at, into| {
        tables.read(at.0, into)
    })
}

#[test]
fn tables_that_are_where_pointers_say_are_confirmed() {
    let mut tables = Tables::default();
    let mut facp = vec![0; 240];
    facp[4..8].copy_from_slice(&0x9000_u32.to_le_bytes());
    tables.put(0x9000, &table(b"DSDT", &[0; 100]));
    tables.put(0x8000, &table(b"FACP", &facp));
    tables.put(0x7000, &table(b"RSDT", &[0x00, 0x80, 0, 0]));
    let found = walk_over(&tables, &root_pointer(0x7000, None));
    assert_eq!(found.confirmed, [0x7000, 0x8000, 0x9000].map(GuestPhysical));
    assert_eq!(found.refuted, 0);
}

#[test]
fn the_second_version_leads_to_wide_pointers_and_memory_is_read_from_affinities() {
    let mut srat = vec![0; 12];
    for (flags, start) in [(1_u32, 0_u64), (3, 1 << 40), (0, 1 << 41), (1, 1 << 32)] {
        let mut entry = [0; 40];
        entry[0..2].copy_from_slice(&[1, 40]);
        entry[8..16].copy_from_slice(&start.to_le_bytes());
        entry[16..24].copy_from_slice(&0x1000_0000_u64.to_le_bytes());
        entry[28..32].copy_from_slice(&flags.to_le_bytes());
        srat.extend(entry);
    }
    let mut tables = Tables::default();
    tables.put(0x1_2345_0000, &table(b"SRAT", &srat));
    tables.put(0x7000, &table(b"XSDT", &0x1_2345_0000_u64.to_le_bytes()));
    let found = walk_over(&tables, &root_pointer(0, Some(0x7000)));
    assert_eq!(found.confirmed.len(), 2);
    let starts: Vec<_> = found.memory.iter().map(|extent| extent.start.0).collect();
    assert_eq!(starts, [0, 1 << 32], "what may be plugged is not there");
}

#[test]
fn wrong_checksums_and_signatures_and_pointers_out_of_range_prove_nothing() {
    let mut root = root_pointer(0x7000, None);
    root[9] ^= 1;
    assert_eq!(RootPointer::parse(&root), None);
    assert_eq!(RootPointer::parse(&root_pointer(0x7000, None)[..19]), None);
    let mut bad = table(b"RSDT", &[0; 8]);
    bad[40] ^= 1;
    for at_7000 in [bad, table(b"SSDT", &[0; 8]), vec![0xff; 64]] {
        let mut tables = Tables::default();
        tables.put(0x7000, &at_7000);
        let found = walk_over(&tables, &root_pointer(0x7000, None));
        assert_eq!((found.confirmed.len(), found.refuted), (0, 1));
    }
    let found = walk_over(
        &Tables::default(),
        &root_pointer(0xffff_ffff, Some(u64::MAX)),
    );
    assert_eq!((found.confirmed.len(), found.refuted), (0, 2));
}

#[test]
fn tables_that_list_each_other_or_themselves_are_not_followed_in_circles() {
    let mut tables = Tables::default();
    let itself: Vec<u8> = std::iter::repeat_n(0x7000_u32.to_le_bytes(), 200)
        .flatten()
        .collect();
    tables.put(0x7000, &table(b"RSDT", &itself));
    let found = walk_over(&tables, &root_pointer(0x7000, None));
    assert_eq!(found.confirmed, [GuestPhysical(0x7000)]);
    assert_eq!(found.refuted, 200);
    // One long table listed again and again is not summed up for ever.
    let long = table(b"SSDT", &vec![0; 900_000]);
    tables.put(0x10_0000, &long);
    let again: Vec<u8> = std::iter::repeat_n(0x10_0000_u32.to_le_bytes(), 200)
        .flatten()
        .collect();
    tables.put(0x7000, &table(b"RSDT", &again));
    let found = walk_over(&tables, &root_pointer(0x7000, None));
    assert!(found.refuted > 180, "{}", found.refuted);
}

proptest! {
    #[test]
    fn any_bytes_are_survived(
        root in proptest::collection::vec(any::<u8>(), 0..40),
        body in proptest::collection::vec(any::<u8>(), 0..300),
        signature in prop::sample::select(vec![*b"RSDT", *b"XSDT", *b"FACP", *b"SRAT"]),
        entry in 0_u32..0x9000,
    ) {
        let _ = RootPointer::parse(&root);
        let mut tables = Tables::default();
        tables.put(0x8000, &table(&signature, &body));
        tables.put(0x7000, &table(b"RSDT", &[0x8000_u32.to_le_bytes(), entry.to_le_bytes()].concat()));
        let found = walk_over(&tables, &root_pointer(0x7000, Some(u64::from(entry))));
        prop_assert!(found.confirmed.len() < 8);
    }
}
