//! Tests of searching, against a model that looks at every address: with this process
//! as the VMM, and with stored dumps whose ranges lie anywhere.

use std::io::Write;
use std::ops::Range;

use proptest::prelude::*;
use vmshm_link::Extent;
use vmshm_shm::SharedMemory;

use super::*;
use crate::layout::{LayoutRange, Source};
use crate::os::own_process::OwnRam;
use crate::{BlockOffset, Method, StoredDump};

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;

/// Collects what is found.
#[derive(Default)]
struct Collector {
    found: Vec<(u64, usize)>,
    passed: u64,
    enough_at: Option<usize>,
}

impl SearchSink for Collector {
    fn found(&mut self, matches: &[Found]) -> ControlFlow<()> {
        assert!(!matches.is_empty());
        self.found
            .extend(matches.iter().map(|found| (found.address.0, found.pattern)));
        if self.enough_at.is_some_and(|most| self.found.len() >= most) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn passed(&mut self, addresses: u64) {
        self.passed += addresses;
    }
}

fn range(start: u64, block: usize, offset: u64, length: u64) -> LayoutRange {
    LayoutRange {
        extent: Extent {
            start: GuestPhysical(start),
            length,
        },
        at: BlockOffset { block, offset },
        source: Source::Proved,
    }
}

fn patterns(list: &[&[u8]]) -> Patterns {
    Patterns::new(list.iter().map(|pattern| pattern.to_vec()).collect()).expect("patterns")
}

fn search(ram: &GuestRam, layout: &Layout, list: &[&[u8]]) -> (Vec<(u64, usize)>, SearchStats) {
    let mut sink = Collector::default();
    let stats = ram
        .search(
            layout,
            &patterns(list),
            &SearchOptions::default(),
            &mut sink,
        )
        .expect("a search");
    assert_eq!(stats.found, sink.found.len() as u64);
    (sink.found, stats)
}

/// Every address that exists, with its byte, in rising order.
type Memory = Vec<(u64, u8)>;

/// What must be found: no cleverness at all.
fn naive(
    memory: &Memory,
    list: &[Vec<u8>],
    alignment: u64,
    limit: Option<NonZeroU64>,
) -> Vec<(u64, usize)> {
    let limit = limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit.get()).expect("small")
    });
    let mut found = Vec::new();
    for (at, &(address, _)) in memory.iter().enumerate() {
        for (index, pattern) in list.iter().enumerate() {
            let matches = pattern
                .iter()
                .enumerate()
                .all(|(into, byte)| memory.get(at + into) == Some(&(address + into as u64, *byte)));
            if matches && address.is_multiple_of(alignment) {
                found.push((address, index));
            }
        }
    }
    found.truncate(limit);
    found
}

/// How a search is asked for and carried out.
#[derive(Debug, Clone)]
struct Asked {
    list: Vec<Vec<u8>>,
    options: SearchOptions,
    pace: Pace,
}

fn asked() -> impl Strategy<Value = Asked> {
    let letters = proptest::collection::vec(prop_oneof![3 => Just(b'a'), 1 => Just(b'b')], 1..24);
    (
        proptest::collection::vec(letters, 1..5),
        prop_oneof![2 => Just(1_u64), 1 => 1_u64..100, 1 => Just(4096)],
        proptest::option::of(1_u64..200),
        1_usize..4,
        1_usize..9000,
        1_u64..20_000,
    )
        .prop_map(|(list, alignment, limit, threads, buffer, unit)| Asked {
            list,
            options: SearchOptions {
                alignment: NonZeroU64::new(alignment).expect("not 0"),
                limit: limit.and_then(NonZeroU64::new),
                threads: NonZeroUsize::new(threads),
            },
            pace: Pace { buffer, unit },
        })
}

/// Searches as asked, and checks that exactly what is there is found.
fn check(ram: &GuestRam, layout: &Layout, memory: &Memory, asked: &Asked) {
    let ready = Patterns::new(asked.list.clone()).expect("patterns");
    let mut sink = Collector::default();
    let stats = ram
        .search_at_pace(layout, &ready, &asked.options, asked.pace, &mut sink)
        .expect("a search");
    let limit = asked.options.limit;
    let expected = naive(memory, &asked.list, asked.options.alignment.get(), limit);
    assert_eq!(sink.found, expected);
    if !stats.ended_early {
        assert_eq!(stats.searched, memory.len() as u64);
        let addresses: u64 = layout.ranges().iter().map(|r| r.extent.length).sum();
        assert_eq!(sink.passed, addresses);
    }
    assert_eq!(stats.unreadable, 0);
}

/// A byte that depends on its place, mostly `a`, so that patterns are found.
fn letter(seed: u64, place: u64) -> u8 {
    let mixed = (seed ^ place).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    if mixed >> 61 == 0 { b'b' } else { b'a' }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Blocks with pages missing, mapped in pieces that touch or do not.
    #[test]
    fn in_a_process_exactly_what_exists_is_found(
        seed in any::<u64>(),
        resident in proptest::collection::vec(prop_oneof![3 => Just(true), 1 => Just(false)], 12),
        pieces in proptest::collection::vec((0_usize..2, 0_u64..6, 1_u64..4, prop_oneof![2 => Just(0_u64), 1 => 1_u64..3]), 1..6),
        asked in asked(),
    ) {
        let blocks = [OwnRam::new(6 * PAGE), OwnRam::new(6 * PAGE)];
        for (index, own) in blocks.iter().enumerate() {
            for page in 0..6_u64 {
                if resident[index * 6 + usize::try_from(page).expect("small")] {
                    let bytes: Vec<u8> = (page * PAGE..(page + 1) * PAGE)
                        .map(|place| letter(seed ^ index as u64, place))
                        .collect();
                    own.mapping.write(page * PAGE, &bytes).expect("write");
                }
            }
        }
        let mut vmm = blocks[0].vmm.clone();
        vmm.blocks = blocks.iter().map(|own| own.vmm.blocks[own.block].clone()).collect();
        let mut ranges = Vec::new();
        let mut memory = Memory::new();
        let mut address = 3 * PAGE;
        for (block, first, count, gap) in pieces {
            address += gap * PAGE;
            let count = count.min(6 - first);
            ranges.push(range(address, block, first * PAGE, count * PAGE));
            for page in first..first + count {
                if resident[block * 6 + usize::try_from(page).expect("small")] {
                    let start = address + (page - first) * PAGE;
                    memory.extend((0..PAGE).map(|into| {
                        (start + into, letter(seed ^ block as u64, page * PAGE + into))
                    }));
                }
            }
            address += count * PAGE;
        }
        let layout = Layout::new(ranges).expect("a layout");
        let before: Vec<i64> = blocks.iter().map(OwnRam::pages).collect();
        for method in [Method::Map, Method::Copy] {
            let ram = GuestRam::open(&vmm, method).expect("opens");
            check(&ram, &layout, &memory, &asked);
        }
        let after: Vec<i64> = blocks.iter().map(OwnRam::pages).collect();
        prop_assert_eq!(before, after, "a search must not bring pages into being");
    }

    /// Ranges of any length, many shorter than a pattern.
    #[test]
    fn in_a_dump_exactly_what_it_holds_is_found(
        seed in any::<u64>(),
        pieces in proptest::collection::vec((1_u64..600, prop_oneof![2 => Just(0_u64), 1 => 1_u64..9000]), 1..20),
        asked in asked(),
    ) {
        let mut bytes = Vec::new();
        let mut memory = Memory::new();
        let mut address = 1000;
        for (length, gap) in pieces {
            address += gap;
            bytes.extend(lime_header(&(address..address + length)));
            for at in address..address + length {
                bytes.push(letter(seed, at));
                memory.push((at, letter(seed, at)));
            }
            address += length;
        }
        let file = dump_file(&bytes);
        let dump = StoredDump::open(file.path()).expect("a dump");
        check(&GuestRam::stored(&dump), dump.layout(), &memory, &asked);
    }
}

fn lime_header(range: &Range<u64>) -> Vec<u8> {
    let mut header = b"EMiL\x01\0\0\0".to_vec();
    header.extend(range.start.to_le_bytes());
    header.extend((range.end - 1).to_le_bytes());
    header.extend([0; 8]);
    header
}

fn dump_file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(bytes).expect("written");
    file
}

#[test]
fn matches_across_pages_buffers_and_units_are_found_once() {
    let own = OwnRam::new(40 * MIB);
    let filler = vec![b'-'; 1 << 20];
    for at in (0..40 * MIB).step_by(1 << 20) {
        own.mapping.write(at, &filler).expect("write");
    }
    let planted = [
        0,
        PAGE - 3,
        (256 << 10) - 1,
        16 * MIB - 5,
        32 * MIB,
        40 * MIB - 9,
    ];
    for at in planted {
        own.mapping.write(at, b"[planted]").expect("write");
    }
    // From a page inside the block on, at an address far from its offset.
    let start = 0x1_0000_0000 - 3 * PAGE;
    let layout = Layout::new(vec![range(start, own.block, 0, 40 * MIB)]).expect("a layout");
    let expected: Vec<(u64, usize)> = planted.iter().map(|at| (start + at, 0)).collect();
    for method in [Method::Map, Method::Copy] {
        let (found, stats) = search(&own.open(method), &layout, &[b"[planted]"]);
        assert_eq!(found, expected);
        assert_eq!(stats.searched, 40 * MIB);
    }
}

#[test]
fn where_addresses_touch_a_match_goes_on_and_at_a_hole_it_ends() {
    let own = OwnRam::new(16 * PAGE);
    // The halves of the pattern lie apart in the block.
    own.mapping.write(10 * PAGE - 4, b"left").expect("write");
    own.mapping.write(2 * PAGE, b"right").expect("write");
    let ram = own.open(Method::Map);
    let joined = Layout::new(vec![
        range(MIB, own.block, 9 * PAGE, PAGE),
        range(MIB + PAGE, own.block, 2 * PAGE, PAGE),
    ])
    .expect("a layout");
    assert_eq!(
        search(&ram, &joined, &[b"leftright"]).0,
        [(MIB + PAGE - 4, 0)]
    );
    let apart = Layout::new(vec![
        range(MIB, own.block, 9 * PAGE, PAGE),
        range(MIB + 2 * PAGE, own.block, 2 * PAGE, PAGE),
    ])
    .expect("a layout");
    assert_eq!(search(&ram, &apart, &[b"leftright"]).0, []);
}

#[test]
fn pages_that_were_never_touched_are_neither_searched_nor_made() {
    let own = OwnRam::new(64 * MIB);
    own.mapping.write(5 * MIB, b"only this").expect("write");
    let layout = Layout::new(vec![range(0, own.block, 0, 64 * MIB)]).expect("a layout");
    let before = own.pages();
    for method in [Method::Map, Method::Copy] {
        let ram = own.open(method);
        let (found, stats) = search(&ram, &layout, &[b"only this"]);
        assert_eq!((found, stats.searched), (vec![(5 * MIB, 0)], PAGE));
        // Zeros exist in that one page alone.
        let (found, _) = search(&ram, &layout, &[&[0; 4087]]);
        assert_eq!(found, [(5 * MIB + 9, 0)]);
    }
    assert_eq!(own.pages(), before, "a search brought pages into being");
}

#[test]
fn a_sink_that_has_enough_ends_the_search() {
    let own = OwnRam::new(4 * MIB);
    own.mapping.write(0, &vec![b'x'; 4 << 20]).expect("write");
    let layout = Layout::new(vec![range(0, own.block, 0, 4 * MIB)]).expect("a layout");
    let mut sink = Collector {
        enough_at: Some(1),
        ..Collector::default()
    };
    let options = SearchOptions::default();
    let stats = own
        .open(Method::Map)
        .search(&layout, &patterns(&[b"x"]), &options, &mut sink)
        .expect("a search");
    assert!(stats.ended_early);
    // One batch, and no second one.
    assert!(sink.found.len() < 10_000, "{}", sink.found.len());
}

#[test]
fn what_cannot_be_read_is_passed_over_and_counted() {
    let bytes: Vec<u8> = (0..8 * PAGE).map(|at| letter(7, at)).collect();
    let file = dump_file(&bytes);
    let dump = StoredDump::open(file.path()).expect("a dump");
    let ram = GuestRam::stored(&dump);
    // The headers were right when it was opened; now it is shorter. Its file system
    // tells so by a hole, or the reads do.
    file.as_file().set_len(5 * PAGE + 100).expect("cut");
    let (found, stats) = search(&ram, dump.layout(), &[b"ab"]);
    let whole: Memory = (0..5 * PAGE).zip(bytes.iter().copied()).collect();
    let expected = naive(&whole, &[b"ab".to_vec()], 1, None);
    assert_eq!(found.get(..expected.len()), Some(&*expected));
    assert!(stats.searched >= 5 * PAGE && stats.searched <= 6 * PAGE);
    assert!(stats.unreadable <= PAGE);
}

#[test]
fn nothing_that_can_be_read_is_an_error_and_not_an_empty_answer() {
    let own = OwnRam::new(PAGE);
    let ram = own.open(Method::Map);
    let mut sink = Collector::default();
    let ready = patterns(&[b"x"]);
    let options = SearchOptions::default();
    let empty = ram.search(&Layout::default(), &ready, &options, &mut sink);
    assert_eq!(empty, Err(SearchError::Layout(LayoutError::Empty)));
    let outside = Layout::new(vec![range(0, own.block, MIB, PAGE)]).expect("a layout");
    let unread = ram.search(&outside, &ready, &options, &mut sink);
    assert!(
        matches!(unread, Err(SearchError::Ram(RamError::Outside { .. }))),
        "{unread:?}"
    );
    assert!(empty.expect_err("empty").hint().is_some());
}
