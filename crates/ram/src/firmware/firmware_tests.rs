//! Tests of judging layouts by what lies in memory, over sparse files as RAM.

use super::tables::{Tables, gib_table, root_pointer, small_table, table, upper_table};
use super::*;
use crate::address::VmmVirtual;
use crate::block::{Backing, RamBlock};
use crate::dump::StoredDump;
use crate::layout_rule;
use crate::vmm::Machine;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const BUDGET: Duration = Duration::from_secs(20);
const PC: Machine = Machine::Pc { below_4g: None };

/// Opened RAM of one block with these bytes at these offsets.
fn ram(tables: &Tables, length: u64) -> (tempfile::NamedTempFile, GuestRam) {
    let file = tables.file(length);
    let dump = StoredDump::open(file.path()).expect("raw memory");
    let ram = GuestRam::stored(&dump);
    (file, ram)
}

fn blocks(lengths: &[u64]) -> Vec<RamBlock> {
    let block = |length: &u64| RamBlock {
        backing: Backing::PrivateAnonymous,
        name: String::new(),
        start: VmmVirtual(0x7f00_0000_0000),
        length: *length,
        file: None,
        listed: None,
    };
    lengths.iter().map(block).collect()
}

/// A PC's tables just below `top`, with a root pointer where SeaBIOS puts it.
fn firmware_below(tables: &mut Tables, top: u64) {
    let at = |below: u64| u32::try_from(top - below).expect("below 4 GiB");
    tables.put(u64::from(at(0x2000)), &table(b"APIC", &[1; 84]));
    tables.put(u64::from(at(0x3000)), &table(b"HPET", &[2; 20]));
    let entries = [at(0x2000).to_le_bytes(), at(0x3000).to_le_bytes()].concat();
    tables.put(u64::from(at(0x1000)), &table(b"RSDT", &entries));
    tables.put(0xf_5a00, &root_pointer(at(0x1000), None));
}

/// A direct map as Linux makes it, with its tables at addresses above 4 GiB, in a block
/// that has those from `split` on.
fn direct_map(tables: &mut Tables, split: u64) {
    let place = |address: u64| address - FOUR_GIB + split;
    let high = FOUR_GIB + 64 * MIB;
    let gibs = [0, 1, 4];
    let pointers: Vec<(usize, u64)> = gibs
        .iter()
        .enumerate()
        .map(|(index, gib)| {
            (
                100 + usize::try_from(*gib).expect("few"),
                high + (index as u64 + 2) * PAGE,
            )
        })
        .collect();
    tables.put(place(high), &upper_table(&pointers));
    tables.put(place(high + PAGE), &small_table(0));
    for (index, gib) in gibs.iter().enumerate() {
        let first = if *gib == 0 {
            vec![(0, high + PAGE)]
        } else {
            Vec::new()
        };
        tables.put(
            place(high + (index as u64 + 2) * PAGE),
            &gib_table(*gib, &first),
        );
    }
}

fn sources(layout: &Layout) -> Vec<(u64, u64, Source)> {
    let range = |range: &LayoutRange| (range.extent.start.0, range.at.offset, range.source);
    layout.ranges().iter().map(range).collect()
}

#[test]
fn tables_at_the_end_of_low_ram_show_it_and_the_rest_stays_by_rule() {
    let mut tables = Tables::default();
    firmware_below(&mut tables, 3 * GIB);
    let (_file, ram) = ram(&tables, 6 * GIB);
    let hypotheses = layout_rule::hypotheses(PC, 6 * GIB, &blocks(&[6 * GIB]));
    let layout = judge(&ram, &hypotheses, BUDGET).expect("shown");
    assert_eq!(
        sources(&layout),
        [
            (0, 0, Source::FirmwareTables),
            (0xc_0000, 0xc_0000, Source::FirmwareTables),
            (FOUR_GIB, 3 * GIB, Source::MachineRule),
        ]
    );
}

#[test]
fn the_kernels_tables_show_the_rest() {
    let mut tables = Tables::default();
    firmware_below(&mut tables, 3 * GIB);
    direct_map(&mut tables, 3 * GIB);
    let (_file, ram) = ram(&tables, 6 * GIB);
    let hypotheses = layout_rule::hypotheses(PC, 6 * GIB, &blocks(&[6 * GIB]));
    let layout = judge(&ram, &hypotheses, BUDGET).expect("shown");
    assert_eq!(
        sources(&layout).last(),
        Some(&(FOUR_GIB, 3 * GIB, Source::GuestPageTables))
    );
}

#[test]
fn a_rule_that_memory_contradicts_gives_way() {
    let mut tables = Tables::default();
    firmware_below(&mut tables, 2 * GIB);
    direct_map(&mut tables, 2 * GIB);
    let (_file, ram) = ram(&tables, 6 * GIB);
    // By its rule this machine would split at 3 GiB, but its tables say 2 GiB.
    let hypotheses = layout_rule::hypotheses(PC, 6 * GIB, &blocks(&[6 * GIB]));
    let layout = judge(&ram, &hypotheses, BUDGET).expect("shown");
    assert_eq!(
        sources(&layout),
        [
            (0, 0, Source::FirmwareTables),
            (0xc_0000, 0xc_0000, Source::FirmwareTables),
            (FOUR_GIB, 2 * GIB, Source::GuestPageTables),
        ]
    );
    assert!(layout.translate(GuestPhysical(2 * GIB)).is_err());
}

#[test]
fn without_a_rule_only_what_is_shown_is_said() {
    let mut tables = Tables::default();
    firmware_below(&mut tables, 2 * GIB);
    let (_file, ram) = ram(&tables, 6 * GIB);
    let hypotheses = layout_rule::hypotheses(Machine::Unknown, 6 * GIB, &blocks(&[6 * GIB]));
    let layout = judge(&ram, &hypotheses, BUDGET).expect("shown");
    let last = layout.ranges().last().expect("ranges");
    assert_eq!(last.extent.end(), Some(GuestPhysical(2 * GIB)));
    assert_eq!(last.source, Source::FirmwareTables);
    let (_file, empty) = self::ram(&Tables::default(), 6 * GIB);
    assert!(judge(&empty, &hypotheses, BUDGET).is_none());
}

#[test]
fn the_memory_map_of_the_boot_protocol_shows_what_nothing_else_does() {
    let mut tables = Tables::default();
    firmware_below(&mut tables, 3 * GIB);
    let mut parameters = vec![0; 4096];
    parameters[0x1e8] = 2;
    parameters[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    parameters[0x202..0x206].copy_from_slice(b"HdrS");
    for (index, (start, length)) in [(0x10_0000, 3 * GIB - 0x12_0000), (FOUR_GIB, 3 * GIB)]
        .iter()
        .enumerate()
    {
        let at = 0x2d0 + index * 20;
        parameters[at..at + 8].copy_from_slice(&u64::to_le_bytes(*start));
        parameters[at + 8..at + 16].copy_from_slice(&u64::to_le_bytes(*length));
        parameters[at + 16] = 1;
    }
    tables.put(0x9_0000, &parameters);
    let (_file, ram) = ram(&tables, 6 * GIB);
    let hypotheses = layout_rule::hypotheses(PC, 6 * GIB, &blocks(&[6 * GIB]));
    let layout = judge(&ram, &hypotheses, BUDGET).expect("shown");
    let all_shown = |range: &LayoutRange| range.source == Source::FirmwareTables;
    assert!(layout.ranges().iter().all(all_shown), "{layout:?}");
}

#[test]
fn ten_thousand_false_root_pointers_do_not_hide_the_right_one() {
    let mut tables = Tables::default();
    // As EFI leaves it: not in the first MiB.
    let at = 900 * MIB;
    tables.put(at + 0x1000, &table(b"XSDT", &(at + 0x2000).to_le_bytes()));
    tables.put(at + 0x2000, &table(b"APIC", &[1; 84]));
    tables.put(at, &root_pointer(0, Some(at + 0x1000)));
    let mut false_ones = Vec::new();
    for number in 0..10_000_u32 {
        let mut root = root_pointer(0x1000_0000 + number * 64, None).to_vec();
        // All but the last few have a wrong checksum, too.
        root[10] ^= u8::from(number < 9_500);
        root.resize(64, 0);
        false_ones.extend(root);
    }
    tables.put(16 * MIB, &false_ones);
    let (_file, ram) = ram(&tables, GIB);
    let hypotheses = layout_rule::hypotheses(PC, GIB, &blocks(&[GIB]));
    let layout = judge(&ram, &hypotheses, BUDGET).expect("shown");
    let shown = layout.translate(GuestPhysical(at)).expect("RAM");
    assert_eq!(shown.source, Source::FirmwareTables);
    // What lies far behind the tables is not shown by them.
    let end = layout.translate(GuestPhysical(GIB - 1)).expect("RAM");
    assert_eq!(end.source, Source::MachineRule);
}

/// More root pointers than are followed, close together, each with a right checksum.
fn forged_roots(tables: &mut Tables, at: u64, rsdt: u32) {
    let mut forged = Vec::new();
    for _ in 0..30_000 {
        let root = root_pointer(rsdt, None);
        forged.extend_from_slice(&root[..32]);
    }
    tables.put(at, &forged);
}

#[test]
fn no_more_roots_are_followed_than_is_said() {
    let mut tables = Tables::default();
    forged_roots(&mut tables, 16 * MIB, 0x10_0000);
    let (_file, ram) = ram(&tables, 64 * MIB);
    let roots = roots_anywhere(&ram, Instant::now() + BUDGET);
    assert_eq!(roots.len(), MOST_ROOTS);
    let hypotheses = layout_rule::hypotheses(PC, 64 * MIB, &blocks(&[64 * MIB]));
    assert!(judge(&ram, &hypotheses, BUDGET).is_none());
}

#[test]
fn forged_roots_and_tables_are_read_only_as_far_as_is_allowed() {
    const ALLOWED: usize = 4 << 20;
    let mut tables = Tables::default();
    tables.put(0x10_0000, &table(b"SSDT", &vec![0; 900_000]));
    let again: Vec<u8> = std::iter::repeat_n(0x10_0000_u32.to_le_bytes(), 200)
        .flatten()
        .collect();
    tables.put(0x7000, &table(b"RSDT", &again));
    let pointer = RootPointer::parse(&root_pointer(0x7000, None)).expect("a root pointer");
    let root = Root {
        pointer,
        place: None,
    };
    let mut total = 0;
    let mut read = |at: GuestPhysical, into: &mut [u8]| {
        total += into.len();
        tables.read(at.0, into)
    };
    let mut allowance = Allowance::new(ALLOWED, Instant::now() + BUDGET);
    let mut support = Support::default();
    let found = follow(&[root; 30_000], &mut allowance, &mut read, &mut support);
    assert!(allowance.is_over());
    // What was shown until then was shown.
    assert_eq!(found, [0x7000, 0x10_0000].map(GuestPhysical));
    assert!((1..=ALLOWED).contains(&total), "{total}");
}

#[test]
fn after_the_deadline_nothing_is_followed() {
    let pointer = RootPointer::parse(&root_pointer(0x7000, None)).expect("a root pointer");
    let root = Root {
        pointer,
        place: None,
    };
    let mut read = |_: GuestPhysical, _: &mut [u8]| unreachable!("nothing may be read");
    let mut allowance = Allowance::new(MOST_BYTES, Instant::now());
    let mut support = Support::default();
    let found = follow(&[root], &mut allowance, &mut read, &mut support);
    assert_eq!(found, []);
}

#[test]
fn two_blocks_of_one_size_are_told_apart() {
    // Both lie in one file here; the second half is the guest's first GiB.
    let mut tables = Tables::default();
    let mut lime = Vec::new();
    for start in [0_u64, GIB] {
        let mut header = vec![0; 32];
        header[..4].copy_from_slice(&0x4c69_4d45_u32.to_le_bytes());
        header[4] = 1;
        header[8..16].copy_from_slice(&(start + 0x10_0000_0000).to_le_bytes());
        header[16..24].copy_from_slice(&(start + 0x10_0000_0000 + GIB - 1).to_le_bytes());
        lime.push(header);
    }
    tables.put(0, &lime[0]);
    tables.put(32 + GIB, &lime[1]);
    let second = 64 + GIB;
    let mut guest = Tables::default();
    firmware_below(&mut guest, 2 * GIB);
    // The guest's low GiB is in the second block, its high one in the first.
    for (at, length) in [
        (0xf_5a00, 36),
        (2 * GIB - 0x1000, 44),
        (2 * GIB - 0x2000, 120),
        (2 * GIB - 0x3000, 56),
    ] {
        let mut bytes = vec![0; length];
        assert!(guest.read(at, &mut bytes));
        let place = if at < GIB { second + at } else { 32 + at - GIB };
        tables.put(place, &bytes);
    }
    let (_file, ram) = ram(&tables, 64 + 2 * GIB);
    assert_eq!(ram.blocks().count(), 2);
    let hypotheses = layout_rule::hypotheses(PC, 2 * GIB, &blocks(&[GIB, GIB]));
    let layout = judge(&ram, &hypotheses, BUDGET).expect("shown");
    let high = layout
        .translate(GuestPhysical(2 * GIB - 0x1000))
        .expect("RAM");
    assert_eq!((high.at.block, high.source), (0, Source::FirmwareTables));
    assert!(
        layout
            .ranges()
            .iter()
            .all(|range| range.source != Source::MachineRule)
    );
}
