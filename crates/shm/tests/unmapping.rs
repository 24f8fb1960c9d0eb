//! What Linux says of a mapping that is dropped, and of one that fails.
#![cfg(target_os = "linux")]

use std::fs;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vmshm_shm::{MapError, Mapping, PAGE_SIZE, Piece, Protection, SharedMemory};

const PAGES: u64 = 8;

const fn piece(page: u64, pages: u64) -> Piece {
    Piece {
        offset: page * PAGE_SIZE,
        length: pages * PAGE_SIZE,
    }
}

/// How many mappings of this test's file this process has.
fn mappings_named(name: &str) -> usize {
    let maps = fs::read_to_string("/proc/self/maps").expect("a list of mappings");
    maps.lines().filter(|line| line.contains(name)).count()
}

#[test]
fn a_mapping_goes_when_it_is_dropped_and_when_it_fails() {
    const NAME: &str = "vmshm-test-drop";
    let file = memfd_create(NAME, MemfdFlags::CLOEXEC).expect("a memory file");
    ftruncate(&file, PAGES * PAGE_SIZE).expect("resized");
    let pieces = [piece(6, 1), piece(2, 1), piece(4, 1)];
    let memory = Mapping::new(&file, &pieces, Protection::ReadWrite).expect("mapped");
    assert_eq!(mappings_named(NAME), 3);
    let range = memory.address()..memory.address() + memory.size();
    assert_eq!(range.start % PAGE_SIZE, 0);
    drop(memory);
    assert_eq!(mappings_named(NAME), 0);

    // A pipe cannot be mapped: the reservation that was made for it goes again.
    let (pipe, _other) = rustix::pipe::pipe().expect("a pipe");
    let before = reserved();
    for _ in 0..20 {
        let result = Mapping::whole(&pipe, 1 << 40, Protection::Read);
        assert!(matches!(result, Err(MapError::System(_))), "{result:?}");
    }
    assert!(reserved() < before + (1 << 40), "a failed mapping stays");
}

/// Bytes of address space that this process has.
fn reserved() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").expect("figures of this process");
    let pages = statm.split(' ').next().expect("a first figure");
    pages.parse::<u64>().expect("a number") * PAGE_SIZE
}
