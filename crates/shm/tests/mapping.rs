//! Mappings of a memory file: pieces in any order, reading only, and what is refused.
#[cfg(target_os = "linux")]
#[path = "mapping/memory_file.rs"]
mod memory_file;
#[cfg(windows)]
#[path = "mapping/section.rs"]
mod memory_file;

use memory_file::{File, create};
use vmshm_shm::{Fault, MapError, Mapping, PAGE_SIZE, Piece, Protection, SharedMemory};

const PAGES: u64 = 8;

/// A memory file of some pages, each filled with its number plus one.
fn numbered_pages() -> File {
    let file = create(PAGES * PAGE_SIZE);
    for page in 0..PAGES {
        let byte = u8::try_from(page + 1).expect("small");
        put(&file, page * PAGE_SIZE, &[byte; 4096]);
    }
    file
}

/// Writes to the file behind the back of whoever has mapped parts of it.
fn put(file: &File, offset: u64, bytes: &[u8]) {
    let all = Mapping::whole(file, PAGES * PAGE_SIZE, Protection::ReadWrite).expect("mapped");
    all.write(offset, bytes).expect("inside");
}

/// What the file has at a place.
fn get(file: &File, offset: u64, bytes: &mut [u8]) {
    let all = Mapping::whole(file, PAGES * PAGE_SIZE, Protection::Read).expect("mapped");
    all.read(offset, bytes).expect("inside");
}

const fn piece(page: u64, pages: u64) -> Piece {
    Piece {
        offset: page * PAGE_SIZE,
        length: pages * PAGE_SIZE,
    }
}

fn bytes_at(memory: &Mapping, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    memory.read(offset, &mut bytes).expect("inside");
    bytes
}

#[test]
fn pieces_in_odd_order_are_one_memory() {
    let file = numbered_pages();
    let pieces = [piece(5, 2), piece(0, 1), piece(3, 1), piece(1, 2)];
    let memory = Mapping::new(&file, &pieces, Protection::ReadWrite).expect("mapped");
    assert_eq!(memory.size(), 6 * PAGE_SIZE);
    for (page, number) in [6, 7, 1, 4, 2, 3].into_iter().enumerate() {
        let at = page as u64 * PAGE_SIZE;
        assert_eq!(bytes_at(&memory, at, 4096), vec![number; 4096]);
        let word = u64::from_le_bytes([number; 8]);
        assert_eq!(memory.load_relaxed(at + 4088), Ok(word));
    }
    // A copy over the seams, in and out, reaches each page where it belongs.
    assert_eq!(bytes_at(&memory, 2 * PAGE_SIZE - 2, 4), [7, 7, 1, 1]);
    memory
        .write(2 * PAGE_SIZE - 300, &[0xee; 600])
        .expect("inside");
    let mut found = [0; 300];
    get(&file, 7 * PAGE_SIZE - 300, &mut found);
    assert_eq!(found, [0xee; 300]);
    get(&file, 0, &mut found);
    assert_eq!(found, [0xee; 300]);
    get(&file, 300, &mut found);
    assert_eq!(found, [1; 300]);
}

#[test]
fn one_page_may_be_mapped_twice_and_holders_see_each_other() {
    let file = numbered_pages();
    let pieces = [piece(2, 1), piece(2, 1)];
    let memory = Mapping::new(&file, &pieces, Protection::ReadWrite).expect("mapped");
    let other = Mapping::whole(&file, PAGES * PAGE_SIZE, Protection::Read).expect("mapped");
    memory.store_release(8, 0x1234).expect("inside");
    assert_eq!(memory.load_acquire(PAGE_SIZE + 8), Ok(0x1234));
    assert_eq!(other.load_acquire(2 * PAGE_SIZE + 8), Ok(0x1234));
    put(&file, 2 * PAGE_SIZE + 8, &[0x55; 8]);
    assert_eq!(memory.load_acquire(8), Ok(0x5555_5555_5555_5555));
}

#[test]
fn a_mapping_for_reading_answers_stores_and_does_not_make_them() {
    let file = numbered_pages();
    let memory = Mapping::whole(&file, PAGE_SIZE, Protection::Read).expect("mapped");
    assert_eq!(memory.store_relaxed(0, 9), Err(Fault::ReadOnly));
    assert_eq!(memory.store_release(0, 9), Err(Fault::ReadOnly));
    assert_eq!(memory.write(0, &[9]), Err(Fault::ReadOnly));
    assert_eq!(memory.write(0, &[9; 400]), Err(Fault::ReadOnly));
    assert_eq!(bytes_at(&memory, 0, 4096), vec![1; 4096]);
    assert_eq!(memory.load_acquire(0), Ok(0x0101_0101_0101_0101));
}

#[test]
fn accesses_beyond_the_pieces_are_refused() {
    let file = numbered_pages();
    let memory = Mapping::new(&file, &[piece(1, 1)], Protection::ReadWrite).expect("mapped");
    let outside = Fault::OutOfBounds {
        offset: PAGE_SIZE,
        length: 8,
        size: PAGE_SIZE,
    };
    assert_eq!(memory.load_relaxed(PAGE_SIZE), Err(outside));
    assert_eq!(memory.store_relaxed(PAGE_SIZE, 1), Err(outside));
    assert!(memory.read(PAGE_SIZE - 1, &mut [0; 2]).is_err());
    assert!(memory.write(1, &[0; 4096]).is_err());
    assert!(memory.read(u64::MAX, &mut [0; 2]).is_err());
}

#[test]
fn pieces_that_are_no_runs_of_pages_are_refused_by_number() {
    let file = numbered_pages();
    let bad = |offset, length| Piece { offset, length };
    for wrong in [
        bad(0, 0),
        bad(0, 100),
        bad(100, PAGE_SIZE),
        bad(0, PAGE_SIZE + 1),
        bad(0, u64::MAX),
        bad(0_u64.wrapping_sub(PAGE_SIZE), PAGE_SIZE),
        bad(0_u64.wrapping_sub(PAGE_SIZE), 2 * PAGE_SIZE),
    ] {
        let result = Mapping::new(&file, &[piece(0, 1), wrong], Protection::Read);
        assert_eq!(
            result.err(),
            Some(MapError::BadPiece { index: 1 }),
            "{wrong:?}"
        );
    }
    let none = Mapping::new(&file, &[], Protection::Read);
    assert_eq!(none.err(), Some(MapError::BadPiece { index: 0 }));
    // Each is possible, but not their sum.
    let huge = bad(0, 1 << 63);
    let result = Mapping::new(&file, &[huge, huge], Protection::Read);
    assert_eq!(result.err(), Some(MapError::BadPiece { index: 1 }));
}

#[test]
fn a_mapping_may_move_to_another_thread() {
    let file = numbered_pages();
    let memory = Mapping::whole(&file, PAGE_SIZE, Protection::ReadWrite).expect("mapped");
    let other = Mapping::whole(&file, PAGE_SIZE, Protection::ReadWrite).expect("mapped");
    let writer = std::thread::spawn(move || {
        for number in 1..=1000 {
            other.store_relaxed(8, number).expect("inside");
            other.store_release(0, number).expect("inside");
        }
    });
    let mut seen = 0x0101_0101_0101_0101;
    while seen != 1000 {
        seen = memory.load_acquire(0).expect("inside");
        let data = memory.load_relaxed(8).expect("inside");
        assert!(data >= seen || seen == 0x0101_0101_0101_0101);
    }
    writer.join().expect("no panic");
}

#[test]
fn the_start_of_a_file_of_large_pages_is_mapped_whole_and_shown_in_part() {
    let file = numbered_pages();
    for (length, unit) in [(PAGE_SIZE, 4 * PAGE_SIZE), (5 * PAGE_SIZE, 4 * PAGE_SIZE)] {
        let mut memory = Mapping::start(&file, length, unit, Protection::Read).expect("mapped");
        memory.populate().expect("usable");
        assert_eq!(memory.size(), length);
        assert_eq!(bytes_at(&memory, length - 1, 1).len(), 1);
        assert!(memory.load_relaxed(length).is_err());
    }
    let mut writable = Mapping::start(&file, PAGE_SIZE, 0, Protection::ReadWrite).expect("mapped");
    writable.populate().expect("usable");
    writable.store_relaxed(8, u64::MAX).expect("writable");
    writable
        .store_relaxed(8, 0x0101_0101_0101_0101)
        .expect("writable");
    assert_eq!(bytes_at(&writable, 0, 4096), vec![1; 4096]);
    let refused = Mapping::start(&file, u64::MAX, PAGE_SIZE, Protection::Read);
    assert!(matches!(refused, Err(MapError::BadPiece { index: 0 })));
    assert!(Mapping::start(&file, 0, PAGE_SIZE, Protection::Read).is_err());
}
