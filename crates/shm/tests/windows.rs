//! What only Windows has: windows over scattered pages, and sections that are not whole.
#![cfg(windows)]

#[path = "mapping/section.rs"]
mod section;

use section::{create, section};
use vmshm_shm::{MapError, Mapping, PAGE_SIZE, Piece, Protection, SharedMemory};
use windows_sys::Win32::System::Memory::SEC_RESERVE;

#[test]
fn scattered_pages_are_one_memory_wherever_views_may_start() {
    const PAGES: u64 = 300;
    let side_by_side = vmshm_shm::lays_views_side_by_side();
    println!("views side by side in pages of 4 KiB: {side_by_side}");
    let file = create(PAGES * PAGE_SIZE);
    let all = Mapping::whole(&file, PAGES * PAGE_SIZE, Protection::ReadWrite).expect("mapped");
    for page in 0..PAGES {
        all.store_relaxed(page * PAGE_SIZE + 8, page)
            .expect("inside");
    }
    // Every other page, the last one first.
    let numbers: Vec<u64> = (0..PAGES).rev().step_by(2).collect();
    let pieces: Vec<Piece> = numbers
        .iter()
        .map(|page| Piece {
            offset: page * PAGE_SIZE,
            length: PAGE_SIZE,
        })
        .collect();
    let memory = Mapping::new(&file, &pieces, Protection::ReadWrite).expect("mapped");
    assert_eq!(memory.size(), pieces.len() as u64 * PAGE_SIZE);
    for (index, page) in numbers.iter().enumerate() {
        let at = index as u64 * PAGE_SIZE;
        assert_eq!(memory.load_acquire(at + 8), Ok(*page));
        memory.store_release(at + 16, page + 1000).expect("inside");
        assert_eq!(all.load_acquire(page * PAGE_SIZE + 16), Ok(page + 1000));
    }
    // A copy over all seams.
    let bytes: Vec<u8> = (0..=250).cycle().take(pieces.len() * 4096).collect();
    memory.write(0, &bytes).expect("inside");
    let mut back = vec![0; bytes.len()];
    memory.read(0, &mut back).expect("inside");
    assert!(back == bytes);
    assert!(memory.read(1, &mut back).is_err());
    assert!(memory.load_relaxed(memory.size()).is_err());
    assert!(memory.load_relaxed(4).is_err());
    let mut page = vec![0; 4096];
    all.read(numbers[7] * PAGE_SIZE, &mut page).expect("inside");
    assert!(page == bytes[7 * 4096..8 * 4096]);
}

#[test]
fn a_section_that_is_smaller_than_stated_is_refused() {
    let file = create(4 * PAGE_SIZE);
    let result = Mapping::whole(&file, 64 * PAGE_SIZE, Protection::Read);
    assert!(matches!(result, Err(MapError::System(_))), "{result:?}");
}

#[test]
fn pages_that_are_only_reserved_are_refused() {
    let file = section(64 * PAGE_SIZE, SEC_RESERVE);
    let result = Mapping::whole(&file, 64 * PAGE_SIZE, Protection::Read);
    assert!(matches!(result, Err(MapError::System(_))), "{result:?}");
}
