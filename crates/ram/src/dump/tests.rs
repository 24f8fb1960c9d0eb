//! Tests of reading stored dumps, with small files made by hand.

use super::*;
use crate::{GuestRam, Source};
use std::io::{Seek, SeekFrom, Write};
use vmshm_link::GuestPhysical;

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(bytes).expect("written");
    file
}

/// Writes into the middle of a file.
fn put(file: &tempfile::NamedTempFile, bytes: &[u8], at: u64) {
    let mut file = file.as_file();
    file.seek(SeekFrom::Start(at)).expect("a place");
    file.write_all(bytes).expect("written");
}

fn lime_range(start: u64, bytes: &[u8]) -> Vec<u8> {
    let mut all = lime::header(&(start..start + bytes.len() as u64)).to_vec();
    all.extend_from_slice(bytes);
    all
}

fn byte_at(dump: &StoredDump, address: u64) -> u8 {
    let location = dump
        .layout()
        .translate(GuestPhysical(address))
        .expect("in the layout");
    let mut byte = [0];
    GuestRam::stored(dump)
        .read_at(location.at, &mut byte)
        .expect("read");
    byte[0]
}

#[test]
fn a_lime_dump_reads_at_the_addresses_that_its_headers_state() {
    let mut bytes = lime_range(0x1000, &[1; 4096]);
    bytes.extend(lime_range(0x1_0000_0000, &[2; 8192]));
    let file = file(&bytes);
    let dump = StoredDump::open(file.path()).expect("a dump");
    assert_eq!(dump.format(), DumpFormat::Lime);
    assert_eq!(dump.ram_bytes(), 12288);
    assert_eq!(byte_at(&dump, 0x1fff), 1);
    assert_eq!(byte_at(&dump, 0x1_0000_1fff), 2);
    assert!(dump.layout().translate(GuestPhysical(0x2000)).is_err());
    assert_eq!(dump.layout().ranges()[0].source, Source::DumpHeaders);
}

#[test]
fn a_raw_dump_is_memory_from_address_zero() {
    let file = file(b"memory");
    let dump = StoredDump::open(file.path()).expect("a dump");
    assert_eq!(dump.format(), DumpFormat::Raw);
    assert_eq!(byte_at(&dump, 2), b'm');
    assert_eq!(dump.layout().ranges()[0].source, Source::FileOrder);
}

#[test]
fn what_is_cut_short_or_damaged_is_refused_with_the_reason() {
    let whole = lime_range(0x1000, &[1; 4096]);
    for length in [17, 31, 32, 40, 4127] {
        let file = file(&whole[..length]);
        let error = StoredDump::open(file.path()).expect_err("cut short");
        assert!(matches!(error, DumpError::Truncated { .. }), "{error}");
    }
    let mut overlapping = whole.clone();
    overlapping.extend(lime_range(0x1800, &[1; 4096]));
    let mut backwards = whole.clone();
    backwards[8..16].copy_from_slice(&0x9000_u64.to_le_bytes());
    let mut endless = whole.clone();
    endless[8..24].fill(0);
    endless[16..24].fill(0xff);
    let mut strange = whole.clone();
    strange.extend([7; 40]);
    for bytes in [overlapping, backwards, endless, strange] {
        let file = file(&bytes);
        StoredDump::open(file.path()).expect_err("damaged");
    }
    for bytes in [
        &b""[..],
        b"\x7fELF",
        b"\x7fELF\x02\x01\x01",
        b"\x1f\x8b\x08\0",
    ] {
        let file = file(bytes);
        StoredDump::open(file.path()).expect_err("no dump");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let error = StoredDump::open(directory.path()).expect_err("no file");
    assert!(matches!(error, DumpError::NoFile(_)), "{error}");
}

/// An ELF core with these ranges: address, place in the file, length there and in memory.
fn elf_core(ranges: &[(u64, u64, u64, u64)], length: u64) -> tempfile::NamedTempFile {
    let mut head = b"\x7fELF\x02\x01\x01".to_vec();
    head.resize(16, 0);
    head.extend(4_u16.to_le_bytes());
    head.extend(62_u16.to_le_bytes());
    head.extend(1_u32.to_le_bytes());
    for word in [0_u64, 64, 0] {
        head.extend(word.to_le_bytes());
    }
    head.extend(0_u32.to_le_bytes());
    let count = u16::try_from(ranges.len()).expect("few");
    for half in [64_u16, 56, count, 64, 0, 0] {
        head.extend(half.to_le_bytes());
    }
    for (address, place, in_file, in_memory) in ranges {
        head.extend(1_u32.to_le_bytes());
        head.extend(7_u32.to_le_bytes());
        // Its virtual address is one at which nobody reads.
        let virtual_address = 0xffff_8880_0000_0000 + address;
        for word in [*place, virtual_address, *address, *in_file, *in_memory, 0] {
            head.extend(word.to_le_bytes());
        }
    }
    let file = file(&head);
    file.as_file().set_len(length).expect("sparse");
    file
}

#[test]
fn an_elf_core_may_name_the_same_memory_more_than_once() {
    // As QEMU's dumps with paging: a virtual mapping, one that goes beyond it, the RAM.
    let file = elf_core(
        &[
            (0x2000, 0x1_2000, 0x1000, 0x1000),
            (0x1000, 0x1_1000, 0x1800, 0x4000),
            (0, 0x1_0000, 0x8000, 0x8000),
        ],
        0x1_8000,
    );
    for page in 0..8_u8 {
        let at = 0x1_0000 + u64::from(page) * 0x1000;
        let bytes = [page + 1; 0x1000];
        put(&file, &bytes, at);
    }
    let dump = StoredDump::open(file.path()).expect("a dump");
    assert_eq!(dump.ram_bytes(), 0x8000);
    for page in 0..8_u8 {
        let address = u64::from(page) * 0x1000;
        for address in [address, address + 0x7ff, address + 0x800, address + 0xfff] {
            assert_eq!(byte_at(&dump, address), page + 1, "{address:#x}");
        }
    }
}

#[test]
fn the_number_of_ranges_that_a_file_states_is_not_believed_before_it_is_checked() {
    let count = u32::try_from(stored::MOST_SEGMENTS).expect("it fits") + 1;
    let file = elf_core(&[], 64 + 64 + u64::from(count) * 56);
    let put = |bytes: &[u8], at| put(&file, bytes, at);
    // Section headers behind the file's header: the first has the number of ranges.
    put(&64_u64.to_le_bytes(), 0x28);
    put(&128_u64.to_le_bytes(), 0x20);
    put(&0xffff_u16.to_le_bytes(), 0x38);
    put(&1_u16.to_le_bytes(), 0x3c);
    put(&count.to_le_bytes(), 64 + 44);
    let error = StoredDump::open(file.path()).expect_err("too many");
    assert!(matches!(error, DumpError::Damaged { .. }), "{error}");
}

proptest::proptest! {
    #[test]
    fn no_bytes_at_all_make_it_panic(
        head in proptest::sample::select(vec![&b"\x7fELF\x02\x01\x01"[..], b"\x7fELF\x01\x02\x01", b"EMiL\x01\0\0\0", b""]),
        rest in proptest::collection::vec(proptest::num::u8::ANY, 0..300),
    ) {
        let mut bytes = head.to_vec();
        bytes.extend(rest);
        let file = file(&bytes);
        let _ = StoredDump::open(file.path());
    }
}
