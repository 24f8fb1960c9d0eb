//! Beacon and directory as any bytes at all: nothing panics, whatever is accepted keeps
//! its promises, and right pages read back as written.

use std::cell::Cell;
use std::sync::Arc;

use proptest::array::uniform16;
use proptest::collection::vec;
use proptest::prelude::*;
use vmshm_link::address::{Extent, GuestPhysical};
use vmshm_link::beacon::{
    Beacon, BeaconError, KeeperState, MAX_DIRECTORY_EXTENTS, PAGE, Signs, brand,
};
use vmshm_link::directory::{
    self, Budget, DIRECTORY_SIZE, Header, MAX_NAME, MAX_RAM_RANGES, REGIONS, RegionEntry,
    RegionKind, is_valid_name, is_valid_size, read_region, regions, write_region,
};
use vmshm_link::fields::{Text, put_word, word_at};
use vmshm_link::mix::checksum;
use vmshm_shm::{Fault, LocalMemory, SharedMemory};

use crate::material::memories::{Access, Watched, Watcher};
use crate::material::nasty_word;

const PAGE_BYTES: usize = 4096;
const CHECKSUM_AT: usize = 0x30;
const LIVE: std::ops::Range<usize> = 0x80..0x100;
/// Offset of the first entry of the region table, and of the entry's checksum.
const FIRST_ENTRY: u64 = PAGE;
const ENTRY: usize = 256;

/// Puts words into a page of zeros (or of the given bytes).
fn with_words(mut page: Vec<u8>, words: &[(usize, u64)]) -> Vec<u8> {
    for (index, value) in words {
        let places = page.len() / 8;
        put_word(&mut page, index % places * 8, *value);
    }
    page
}

/// A page as somebody who knows the checksum would forge it.
fn sealed(page: &[u8]) -> [u8; PAGE_BYTES] {
    let mut page: [u8; PAGE_BYTES] = page.try_into().expect("a page");
    page[..16].copy_from_slice(&brand());
    let mut quiet = page;
    quiet[CHECKSUM_AT..CHECKSUM_AT + 8].fill(0);
    quiet[LIVE].fill(0);
    put_word(&mut page, CHECKSUM_AT, checksum(&quiet));
    page
}

fn sample_beacon() -> Beacon {
    let extent = |start, length| Extent {
        start: GuestPhysical(start),
        length,
    };
    let extents = [extent(0x20_0000, 31 * PAGE), extent(0x1_0000_0000, PAGE)];
    Beacon::new(GuestPhysical(0x40_0000), [7; 16], 99, &extents).expect("a right beacon")
}

fn check_beacon(page: &[u8; PAGE_BYTES]) -> Result<(), TestCaseError> {
    let Ok(beacon) = Beacon::from_page(page) else {
        return Ok(());
    };
    prop_assert!(beacon.own.is_aligned_to(PAGE) && beacon.own.checked_add(PAGE).is_some());
    prop_assert!(beacon.epoch != 0);
    prop_assert!((1..=MAX_DIRECTORY_EXTENTS).contains(&beacon.directory().len()));
    for extent in beacon.directory() {
        prop_assert!(extent.end().is_some() && extent.length >= PAGE);
        prop_assert!(extent.start.is_aligned_to(PAGE) && extent.length % PAGE == 0);
    }
    prop_assert!(beacon.directory_length() <= 1 << 30);
    prop_assert_eq!(Beacon::from_page(&beacon.to_page()).expect("again"), beacon);
    Ok(())
}

fn extent() -> impl Strategy<Value = Extent> {
    (0_u64..1 << 40, 1_u64..4096).prop_map(|(page, pages)| Extent {
        start: GuestPhysical(page * PAGE),
        length: pages * PAGE,
    })
}

proptest! {
    #[test]
    fn any_page_is_judged_as_a_beacon_without_harm(
        bytes in vec(any::<u8>(), PAGE_BYTES),
        words in vec((0_usize..48, nasty_word()), 0..40),
    ) {
        let raw: [u8; PAGE_BYTES] = bytes.clone().try_into().expect("a page");
        prop_assert_eq!(Beacon::from_page(&raw), Err(BeaconError::NoBrand));
        check_beacon(&sealed(&bytes))?;
        let zeros = with_words(vec![0; PAGE_BYTES], &words);
        check_beacon(&sealed(&zeros))?;
        let mut high = sample_beacon().to_page();
        put_word(&mut high, 0x18, 0_u64.wrapping_sub(PAGE));
        prop_assert_eq!(Beacon::from_page(&sealed(&high)), Err(BeaconError::Field("own address")));
        let forged = with_words(sample_beacon().to_page().to_vec(), &words);
        check_beacon(&sealed(&forged))?;
        let _ = Signs::from_page(&forged);
        let _ = Signs::from_page(&bytes);
        let _ = Signs::from_page(&bytes[..0x90]);
    }

    #[test]
    fn a_right_beacon_reads_back_as_written(
        own in 0_u64..1 << 50,
        boot_id in uniform16(any::<u8>()),
        epoch in 1_u64..,
        extents in vec(extent(), 1..=MAX_DIRECTORY_EXTENTS),
        live in vec(any::<u64>(), 16),
    ) {
        let own = GuestPhysical(own * PAGE);
        let beacon = Beacon::new(own, boot_id, epoch, &extents).expect("right");
        let mut page = beacon.to_page();
        for (index, value) in live.iter().enumerate() {
            put_word(&mut page, LIVE.start + 8 * index, *value);
        }
        prop_assert_eq!(Beacon::from_page(&page), Ok(beacon));
        prop_assert_eq!(beacon.directory(), &extents[..]);
    }

    #[test]
    fn signs_tell_what_the_words_say_and_refuse_states_that_do_not_exist(
        words in vec(nasty_word(), 4),
    ) {
        let mut page = vec![0; PAGE_BYTES];
        for (word, at) in words.iter().zip([0x80, 0x88, 0xc0, 0xc8]) {
            put_word(&mut page, at, *word);
        }
        match Signs::from_page(&page) {
            Ok(signs) => {
                prop_assert_eq!(signs.state.to_word(), words[1]);
                prop_assert_eq!(signs.keeper_pulse, words[0]);
                prop_assert_eq!((signs.agent_pulse, signs.generation), (words[2], words[3]));
                prop_assert!(!signs.moved_since(&signs));
            }
            Err(_) => prop_assert!(KeeperState::from_word(words[1]).is_err()),
        }
    }

    #[test]
    fn any_bytes_are_judged_as_a_header_without_harm(
        words in vec((0_usize..300, nasty_word()), 0..60),
        ranges in vec(extent(), 0..200),
        forge in any::<bool>(),
    ) {
        const HEADER_BYTES: usize = 0x100 + 16 * MAX_RAM_RANGES;
        let memory = LocalMemory::new(usize::try_from(DIRECTORY_SIZE).expect("small"));
        Header::new(5, 50, "1", "6.1", &ranges).write(&memory).expect("written");
        let mut bytes = vec![0; HEADER_BYTES];
        memory.read(0, &mut bytes).expect("inside");
        let mut bytes = with_words(bytes, &words);
        if forge {
            put_word(&mut bytes, 0, u64::from_le_bytes(*b"vmshmdir"));
            put_word(&mut bytes, 0x10, 0);
            let sum = checksum(&bytes);
            put_word(&mut bytes, 0x10, sum);
        }
        memory.write(0, &bytes).expect("inside");
        if let Ok(header) = Header::read(&memory) {
            let mut floor = 0;
            for range in header.ram_ranges() {
                prop_assert!(range.start.0 >= floor && range.length > 0);
                floor = range.end().expect("no overflow").0;
            }
            header.write(&memory).expect("written");
            prop_assert_eq!(Header::read(&memory).expect("again"), header);
        }
    }

    #[test]
    fn a_right_header_reads_back_as_written(
        epoch in any::<u64>(),
        poll in any::<u64>(),
        version in "[ -~]{0,40}",
        release in ".{0,120}",
        gaps in vec((1_u64..9, 1_u64..9), 0..MAX_RAM_RANGES),
    ) {
        let mut at = 0;
        let ranges: Vec<Extent> = gaps.iter().map(|(gap, pages)| {
            let start = at + gap * PAGE;
            at = start + pages * PAGE;
            Extent { start: GuestPhysical(start), length: pages * PAGE }
        }).collect();
        let memory = LocalMemory::new(usize::try_from(DIRECTORY_SIZE).expect("small"));
        let header = Header::new(epoch, poll, &version, &release, &ranges);
        header.write(&memory).expect("written");
        prop_assert_eq!(Header::read(&memory), Ok(header));
        let budget = Budget { pinned: epoch, limit: poll };
        budget.write(&memory).expect("written");
        prop_assert_eq!(Budget::read(&memory), Ok(budget));
    }

    #[test]
    fn any_bytes_are_judged_as_a_region_without_harm(
        words in vec((0_usize..16, nasty_word()), 0..20),
        name in "[a-z.-]{0,70}",
        forge in any::<bool>(),
    ) {
        let memory = LocalMemory::new(usize::try_from(DIRECTORY_SIZE).expect("small"));
        let entry = RegionEntry {
            id: 3,
            kind: RegionKind::Raw,
            size: PAGE,
            ready: true,
            record: 0,
            ended: None,
            name: Text::new(&name),
        };
        write_region(&memory, 0, Some(&entry)).expect("written");
        let mut bytes = vec![0; ENTRY];
        memory.read(FIRST_ENTRY, &mut bytes).expect("inside");
        let mut bytes = with_words(bytes, &words);
        if forge {
            put_word(&mut bytes, 0, 0);
            let sum = checksum(&bytes);
            put_word(&mut bytes, 0, sum);
        }
        memory.write(FIRST_ENTRY, &bytes).expect("inside");
        match read_region(&memory, 0) {
            Ok(Some(found)) => {
                prop_assert!(found.id != 0 && is_valid_size(found.size));
                prop_assert!(is_valid_name(found.name.as_str()));
                write_region(&memory, 0, Some(&found)).expect("written");
                prop_assert_eq!(read_region(&memory, 0), Ok(Some(found)));
            }
            Ok(None) => prop_assert_eq!((word_at(&bytes, 0), word_at(&bytes, 8)), (0, 0)),
            Err(_) => {}
        }
        prop_assert!(regions(&memory).count() <= REGIONS);
    }

    #[test]
    fn right_regions_read_back_as_written(
        entries in vec((1_u64.., 0_u64..9, 1_u64..1 << 34, any::<bool>(), "[a-z0-9_][a-z0-9._-]{0,63}"), 0..=REGIONS),
    ) {
        let memory = LocalMemory::new(usize::try_from(DIRECTORY_SIZE).expect("small"));
        let entries: Vec<RegionEntry> = entries.iter().map(|(id, kind, pages, ready, name)| {
            RegionEntry {
                id: *id,
                kind: RegionKind::from_word(*kind),
                size: pages * PAGE,
                ready: *ready,
                record: 0,
                ended: None,
                name: Text::new(name),
            }
        }).collect();
        for (index, entry) in entries.iter().enumerate() {
            write_region(&memory, index, Some(entry)).expect("written");
        }
        let found: Result<Vec<_>, _> = regions(&memory).collect();
        prop_assert_eq!(found.expect("right"), entries.clone());
        for index in 0..entries.len() {
            write_region(&memory, index, None).expect("written");
            prop_assert_eq!(read_region(&memory, index), Ok(None));
        }
        prop_assert_eq!(regions(&memory).count(), 0);
    }
}

#[test]
fn indices_and_addresses_beyond_the_directory_are_refused() {
    let memory = LocalMemory::new(usize::try_from(DIRECTORY_SIZE).expect("small"));
    for index in [REGIONS, REGIONS + 1, usize::MAX] {
        assert!(read_region(&memory, index).is_err());
        assert!(write_region(&memory, index, None).is_err());
    }
    let short = LocalMemory::new(PAGE_BYTES);
    assert!(Header::read(&short).is_err());
    assert!(directory::write_page_addresses(&short, &[]).is_err());
    let own = GuestPhysical(0x7000);
    let extent = Extent {
        start: own,
        length: PAGE,
    };
    assert_eq!(directory::write_page_addresses(&short, &[extent]), Ok(()));
    assert_eq!(directory::verify_page_address(&short, 0, own), Ok(()));
    assert!(directory::verify_page_address(&short, 0, GuestPhysical(0)).is_err());
    assert!(directory::verify_page_address(&short, PAGE, own).is_err());
    assert!(directory::write_page_addresses(&short, &[extent, extent]).is_err());
}

#[test]
fn a_name_is_at_most_64_plain_characters() {
    assert_eq!(MAX_NAME, 64);
    for name in ["", ".a", "-a", "a b", "ä", "a/b", "a\0", &"a".repeat(65)] {
        assert!(!is_valid_name(name), "{name:?}");
    }
    for name in ["a", "A.b-c_9", "_", &"a".repeat(64)] {
        assert!(is_valid_name(name), "{name:?}");
    }
}

/// An agent that is in the middle of writing its header, and done by the third look.
#[derive(Debug)]
struct Writing {
    looks: Cell<u32>,
    header: Header,
}

impl Watcher for Writing {
    fn before(&self, memory: &LocalMemory, access: Access) -> Result<(), Fault> {
        if matches!(access, Access::Load { .. }) {
            self.looks.set(self.looks.get() + 1);
            if self.looks.get() == 3 {
                self.header.write(memory).expect("written");
            }
        }
        Ok(())
    }
}

#[test]
fn a_header_that_is_being_written_is_looked_at_again() {
    let memory = Arc::new(LocalMemory::new(
        usize::try_from(DIRECTORY_SIZE).expect("small"),
    ));
    let range = |length| {
        [Extent {
            start: GuestPhysical(PAGE),
            length,
        }]
    };
    let header = |length| Header::new(1, 100, "1", "6.1", &range(length));
    header(PAGE).write(&*memory).expect("written");
    // Half of the new header, over the old one's checksum.
    memory.store_relaxed(0x108, 5 * PAGE).expect("stored");
    assert!(Header::read(&*memory).is_err(), "nobody completes it");
    let written = header(5 * PAGE);
    let watched = Watched::new(
        &memory,
        Writing {
            looks: Cell::new(0),
            header: written.clone(),
        },
    );
    assert_eq!(Header::read(&watched), Ok(written));
    assert_eq!(watched.watcher.looks.get(), 3);
}
