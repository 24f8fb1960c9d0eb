//! Tests of choosing RAM blocks among mappings as kernels and emulators leave them.

use super::*;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

fn mapping(start: u64, length: u64, permissions: &str, name: &str) -> MemoryMapping {
    MemoryMapping {
        start: VmmVirtual(start),
        length,
        readable: permissions.contains('r'),
        writable: permissions.contains('w'),
        executable: permissions.contains('x'),
        shared: permissions.contains('s'),
        file: name.starts_with('/').then_some(FileIdentity {
            device: (0, 1),
            inode: name.len() as u64,
            offset: 0,
        }),
        name: name.to_owned(),
    }
}

fn wanted(size: u64) -> Vec<WantedBlock> {
    vec![want(size, 0)]
}

fn want(size: u64, turn: usize) -> WantedBlock {
    WantedBlock {
        size,
        file_backed: None,
        path: None,
        turn,
    }
}

/// Where each of the wanted blocks is.
fn places(mappings: &[MemoryMapping], wanted: &[WantedBlock]) -> Vec<u64> {
    let chosen = choose(mappings, wanted);
    chosen.iter().map(|block| block.start.0).collect()
}

/// Memory as QEMU makes it: with an inaccessible page behind it.
fn guarded(start: u64, length: u64) -> [MemoryMapping; 2] {
    [
        mapping(start, length, "rwp", ""),
        mapping(start + length, 4096, "p", ""),
    ]
}

fn place(mappings: &[MemoryMapping], size: u64) -> Option<u64> {
    choose(mappings, &wanted(size))
        .first()
        .map(|block| block.start.0)
}

#[test]
fn the_code_buffer_is_never_ram() {
    let maps = [
        mapping(0x10_0000_0000, 1024 * MIB, "rwxp", ""),
        mapping(
            0x20_0000_0000,
            512 * MIB,
            "rwxs",
            "/memfd:tcg-jit (deleted)",
        ),
    ];
    assert_eq!(place(&maps, 1024 * MIB), None);
    assert_eq!(place(&maps, 512 * MIB), None);
}

#[test]
fn ram_that_the_kernel_joined_with_a_neighbour_is_found_at_its_end() {
    let start = 0x7f00_0000_0000;
    // 4 KiB of something else lie directly below; a guard page follows.
    let maps = [
        mapping(start - 4096, 256 * MIB + 4096, "rwp", ""),
        mapping(start + 256 * MIB, 4096, "p", ""),
    ];
    assert_eq!(place(&maps, 256 * MIB), Some(start));
    // Something else directly above, no guard page: the aligned place is taken.
    let maps = [mapping(start, 256 * MIB + 8192, "rwp", "")];
    assert_eq!(place(&maps, 256 * MIB), Some(start));
}

#[test]
fn ram_that_the_kernel_split_is_put_together() {
    let start = 0x7f00_0000_0000;
    let maps = [
        mapping(start - 64 * MIB, 16 * MIB, "rwp", ""),
        mapping(start, 100 * MIB, "rwp", ""),
        mapping(start + 100 * MIB, 56 * MIB, "rwp", ""),
        mapping(start + 156 * MIB, 100 * MIB, "rwp", ""),
    ];
    assert_eq!(place(&maps, 256 * MIB), Some(start));
}

#[test]
fn ram_that_a_graft_has_split_is_told_from_a_dimm_of_the_same_size() {
    let (start, dimm) = (0x7f00_0000_0000, 0x7e00_0000_0000);
    let graft = "/memfd:vmshm-2.1f (deleted)";
    // Undone again, the pieces stay apart: their pages have another history.
    for (permissions, name) in [("rws", graft), ("rwp", "")] {
        // Something else may lie directly below.
        for below in [0, 4096] {
            let maps = [
                mapping(dimm, 512 * MIB, "rwp", ""),
                mapping(dimm + 512 * MIB, 4096, "p", ""),
                mapping(start - below, 64 * MIB + below, "rwp", ""),
                mapping(start + 64 * MIB, 2 * MIB, permissions, name),
                mapping(start + 66 * MIB, 446 * MIB, "rwp", ""),
                mapping(start + 512 * MIB, 4096, "p", ""),
            ];
            assert_eq!(place(&maps, 512 * MIB), Some(start));
        }
    }
}

#[test]
fn what_was_made_first_lies_highest_whatever_its_place_in_the_guest() {
    let (low, high) = (0x7e00_0000_0000, 0x7f00_0000_0000);
    let maps = [guarded(low, 512 * MIB), guarded(high, 512 * MIB)].concat();
    let wanted = |turns: [usize; 2]| turns.map(|turn| want(512 * MIB, turn));
    assert_eq!(places(&maps, &wanted([0, 1])), [high, low]);
    // The machine's own memory is made after a DIMM's object.
    assert_eq!(places(&maps, &wanted([1, 0])), [low, high]);
}

#[test]
fn no_place_is_given_twice() {
    let (low, high) = (0x7e00_0000_0000, 0x7f00_0000_0000);
    let mut maps = guarded(low, 512 * MIB).to_vec();
    // Where aligning the other left a hole, something small lies.
    maps.push(mapping(high - 8192, 8192, "rwp", ""));
    maps.extend(guarded(high, 512 * MIB));
    let wanted = [want(512 * MIB, 0), want(512 * MIB, 1)];
    assert_eq!(places(&maps, &wanted), [high, low]);
}

#[test]
fn a_larger_dimm_that_lies_higher_is_left_alone() {
    let (low, high) = (0x7e00_0000_0000, 0x7f00_0000_0000);
    let maps = [guarded(low, 512 * MIB), guarded(high, 768 * MIB)].concat();
    let wanted = [want(512 * MIB, 1), want(768 * MIB, 0)];
    assert_eq!(places(&maps, &wanted), [low, high]);
    assert_eq!(places(&maps, &wanted[..1]), [low]);
}

#[test]
fn what_is_known_is_not_plugged_too() {
    let start = 0x7f00_0000_0000;
    let whole = 1000 * MIB;
    let mut maps = vec![mapping(start - 4 * MIB, 4 * MIB, "rwp", "")];
    maps.extend(guarded(start, whole));
    let known = choose(&maps, &wanted(whole));
    assert_eq!(known.len(), 1);
    assert_eq!(plugged(&maps, &known), []);
}

#[test]
fn memory_that_was_plugged_stays_one_block_when_it_is_grafted() {
    let dimm = 0x7e00_0000_0000;
    let graft = "/memfd:vmshm-2.1f (deleted)";
    for (permissions, name) in [("rws", graft), ("rwp", "")] {
        // Something else may lie directly below, even as aligned as RAM is.
        for below in [0, 4096, 4 * MIB] {
            let maps = [
                mapping(dimm - below, below, "rwp", ""),
                mapping(dimm, 64 * MIB, "rwp", ""),
                mapping(dimm + 64 * MIB, MIB, permissions, name),
                mapping(dimm + 65 * MIB, 447 * MIB, "rwp", ""),
                mapping(dimm + 512 * MIB, 4096, "p", ""),
            ];
            let found = plugged(&maps, &[]);
            let places: Vec<_> = found.iter().map(|one| (one.start.0, one.length)).collect();
            assert_eq!(places, [(dimm, 512 * MIB)]);
        }
    }
}

#[test]
fn a_graft_belongs_to_the_block_around_it() {
    let start = 0x7f00_0000_0000;
    let maps = [
        mapping(start, 100 * MIB, "rwp", ""),
        mapping(
            start + 100 * MIB,
            56 * MIB,
            "rws",
            "/memfd:vmshm-7 (deleted)",
        ),
        mapping(start + 156 * MIB, 100 * MIB, "rwp", ""),
    ];
    let blocks = choose(&maps, &wanted(256 * MIB));
    assert_eq!(blocks.len(), 1);
    assert_eq!((blocks[0].start.0, blocks[0].length), (start, 256 * MIB));
}

#[test]
fn two_blocks_of_one_size_are_two_places() {
    let maps = [
        mapping(0x7f00_0000_0000, 64 * MIB, "rwp", ""),
        mapping(0x7f10_0000_0000, 64 * MIB, "rwp", ""),
    ];
    let want: Vec<WantedBlock> = wanted(64 * MIB)
        .into_iter()
        .chain(wanted(64 * MIB))
        .collect();
    let blocks = choose(&maps, &want);
    assert_eq!(blocks.len(), 2);
    assert_ne!(blocks[0].start, blocks[1].start);
    let three: Vec<WantedBlock> = want.into_iter().chain(wanted(64 * MIB)).collect();
    assert_eq!(choose(&maps, &three).len(), 2);
}

#[test]
fn a_file_whose_mapping_was_split_is_one_block() {
    let mut parts = [
        mapping(0x6000_0000, 4 * MIB, "rws", "/dev/shm/#1 (deleted)"),
        mapping(0x6040_0000, 60 * MIB, "rwxs", "/dev/shm/#1 (deleted)"),
        mapping(0x7000_0000, MIB, "rwxs", "/dev/shm/#1 (deleted)"),
    ];
    for (part, offset) in parts.iter_mut().zip([0, 4 * MIB, 9 * MIB]) {
        part.file.as_mut().expect("a file").offset = offset;
    }
    let blocks = file_blocks(&parts);
    assert_eq!(blocks.len(), 2);
    assert_eq!(blocks[0].length, 64 * MIB);
}

#[test]
fn what_is_mapped_twice_counts_once() {
    let mut maps = vec![mapping(0x7000_0000_0000, 16 * MIB, "rws", "/ram")];
    for page in 0..5000 {
        let mut alias = mapping(0x7100_0000_0000 + page * 8192, 4096, "rws", "/ram");
        alias.file.as_mut().expect("a file").offset = page * 512;
        maps.push(alias);
    }
    let mut rest = mapping(0x7200_0000_0000, 8 * MIB, "rws", "/ram");
    rest.file.as_mut().expect("a file").offset = 16 * MIB;
    maps.push(rest);
    let starts: Vec<u64> = candidates(&maps)
        .iter()
        .map(|block| block.start.0)
        .collect();
    assert_eq!(starts, [0x7000_0000_0000, 0x7200_0000_0000]);
}

#[test]
fn of_an_unknown_process_code_and_libraries_are_left_out() {
    let maps = [
        mapping(0x5000_0000_0000, 8 * MIB, "rwp", "/usr/bin/program"),
        mapping(0x6000_0000_0000, 8 * MIB, "rxp", "/usr/bin/program"),
        mapping(0x7000_0000_0000, 2 * MIB, "rwp", ""),
        mapping(0x7100_0000_0000, 8 * MIB, "rws", "/memfd:guest (deleted)"),
        mapping(0x7200_0000_0000, 8 * MIB, "rwp", "[stack]"),
        mapping(0x7300_0000_0000, 4096, "rwp", ""),
    ];
    let starts: Vec<u64> = candidates(&maps)
        .iter()
        .map(|block| block.start.0)
        .collect();
    assert_eq!(starts, [0x7100_0000_0000, 0x7000_0000_0000]);
}

fn any_mapping() -> impl Strategy<Value = (u64, u64, String, String)> {
    let name = prop_oneof![
        Just(String::new()),
        Just("/memfd:a (deleted)".to_owned()),
        Just("/memfd:vmshm-1 (deleted)".to_owned()),
        Just("/a".to_owned()),
        Just("[heap]".to_owned()),
    ];
    (0..4_u64, 1..64_u64, "r?w?x?s?", name)
}

proptest! {
    #[test]
    fn whatever_is_chosen_lies_inside_the_mappings(
        parts in proptest::collection::vec(any_mapping(), 0..12),
        size in 1..96_u64,
    ) {
        let mut at = 0x7f00_0000_0000;
        let mut maps = Vec::new();
        for (gap, length, permissions, name) in parts {
            at += gap * MIB;
            maps.push(mapping(at, length * MIB, &permissions, &name));
            at += length * MIB;
        }
        let want: Vec<WantedBlock> = wanted(size * MIB).into_iter().chain(wanted(size * MIB)).collect();
        let blocks = choose(&maps, &want);
        for block in &blocks {
            prop_assert_eq!(block.length, size * MIB);
            let mut covered = block.start.0;
            for map in &maps {
                if map.start.0 <= covered && covered < map.end().0 && map.readable && map.writable {
                    covered = map.end().0;
                }
            }
            prop_assert!(block.file.is_some() || covered >= block.start.0 + block.length);
        }
        if let [one, other] = blocks.as_slice() {
            prop_assert!(one.start.0 + one.length <= other.start.0 || other.start.0 + other.length <= one.start.0);
        }
        let _ = candidates(&maps);
    }
}

#[test]
fn tens_of_thousands_of_mappings_take_no_longer_than_their_number() {
    let count = 40_000_u64;
    let start = 0x7f00_0000_0000;
    // Neighbours that differ only in advice, as allocators and emulators leave them.
    let mappings: Vec<MemoryMapping> = (0..count)
        .map(|number| mapping(start + number * 8192, 8192, "rw-p", ""))
        .collect();
    let begun = std::time::Instant::now();
    // No part has that size, no neighbours together have it, and the run is too short.
    assert_eq!(place(&mappings, 3 * 4096 + count * 8192), None);
    assert_eq!(place(&mappings, 300 * 8192 + 4096), Some(start));
    assert_eq!(place(&mappings, 300 * 8192), Some(start));
    let took = begun.elapsed();
    println!("{count} mappings in {took:?}");
    // Generous: the square of the number takes far longer.
    assert!(took < std::time::Duration::from_secs(2), "{took:?}");
}

#[test]
fn grafts_at_the_ends_of_a_file_and_inside_belong_to_the_block() {
    let mapping = |start: u64, length: u64, name: &str, inode: u64, offset: u64| MemoryMapping {
        start: VmmVirtual(start),
        length,
        readable: true,
        writable: true,
        executable: false,
        shared: true,
        file: Some(FileIdentity {
            device: (0, 1),
            inode,
            offset,
        }),
        name: format!("/memfd:{name} (deleted)"),
    };
    let mappings = [
        mapping(0x10000, 0x1000, "vmshm-1.a", 7, 0),
        mapping(0x11000, 0x2000, "ram", 9, 0x1000),
        mapping(0x13000, 0x1000, "vmshm-1.a", 7, 0x1000),
        mapping(0x14000, 0x1000, "ram", 9, 0x4000),
        mapping(0x15000, 0x1000, "vmshm-2.a", 8, 0),
    ];
    let blocks = file_blocks(&mappings);
    assert_eq!(blocks.len(), 1);
    assert_eq!(
        (blocks[0].start, blocks[0].length),
        (VmmVirtual(0x10000), 0x6000)
    );
    assert_eq!(blocks[0].file_offset(), 0);
    assert!(are_still_there(&mappings, &blocks));
}
