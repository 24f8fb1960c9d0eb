//! Tests of telling a kernel's page tables from other pages.

use std::time::Duration;

use super::*;
use crate::firmware::tables;
use proptest::prelude::*;

#[test]
fn a_table_tells_by_its_content_which_memory_it_maps() {
    let page = tables::gib_table(5, &[(0, 0x1_2345_6000), (300, 0x7000)]);
    let (gib, smaller) = gib_table(&page).expect("a table");
    assert_eq!(gib, 5);
    let pointers = [
        (0, GuestPhysical(0x1_2345_6000)),
        (300, GuestPhysical(0x7000)),
    ];
    assert_eq!(smaller, pointers);
    assert!(counts_up(&tables::small_table(5 << 30), 5 << 30));
    assert!(!counts_up(&tables::small_table(5 << 30), 6 << 30));
}

#[test]
fn other_pages_are_no_tables() {
    assert!(gib_table(&[0; 4096]).is_none() && upper_table(&[0; 4096]).is_none());
    assert!(gib_table(&[0xff; 4096]).is_none() && upper_table(&[0xff; 4096]).is_none());
    // A process's huge pages lie anywhere.
    let mut mixed = tables::gib_table(1, &[]);
    let other = tables::gib_table(2, &[]);
    mixed[8..16].copy_from_slice(&other[8..16]);
    assert!(gib_table(&mixed).is_none());
    assert!(upper_table(&tables::upper_table(&[(3, 0x5000)])).is_none());
    let table = upper_table(&tables::upper_table(&[(3, 0x5000), (4, 0x6000)]));
    assert_eq!(table.expect("a table").pointers.len(), 2);
}

#[test]
fn forged_tables_are_read_only_as_far_as_is_allowed() {
    const ALLOWED: usize = 10 << 20;
    let mut forged = PageTables::default();
    let pointers: Vec<(usize, u64)> = (0..16).map(|index| (index, 0x5000)).collect();
    let page = tables::gib_table(0, &pointers);
    for number in 0..30_000 {
        let offset = number * 4096;
        forged.look_at(BlockOffset { block: 0, offset }, &page);
    }
    let deadline = Instant::now() + Duration::from_secs(600);
    for (deadline, most) in [(deadline, ALLOWED), (Instant::now(), 0)] {
        let mut total = 0;
        let mut read = |_: GuestPhysical, into: &mut [u8]| {
            total += into.len();
            false
        };
        let mut allowance = Allowance::new(ALLOWED, deadline);
        let found = forged.confirmed(&Layout::default(), &mut allowance, &mut read);
        assert_eq!(found, []);
        assert!(allowance.is_over());
        assert_eq!(total, most);
    }
}

proptest! {
    #[test]
    fn any_page_is_survived(words in proptest::collection::vec(any::<u64>(), 0..512)) {
        let page: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let _ = gib_table(&page);
        let _ = upper_table(&page);
        let _ = counts_up(&page, 0);
    }
}
