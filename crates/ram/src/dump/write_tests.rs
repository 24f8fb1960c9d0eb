//! Tests of writing dumps: from small files made by hand and from this process's own
//! memory, and back through the reader.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{MemfdFlags, ftruncate};
use vmshm_link::{Extent, GuestPhysical};
use vmshm_shm::SharedMemory;

use super::*;
use crate::access::Method;
use crate::layout::{Layout, LayoutRange, Source};
use crate::os::own_process::OwnRam;
use crate::{BlockOffset, GuestRam};

pub(super) const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;
pub(super) const FORMATS: [DumpFormat; 3] = [DumpFormat::Elf, DumpFormat::Lime, DumpFormat::Raw];

/// Writes what `plan` says into a fresh file.
fn written(plan: &DumpPlan, ram: &GuestRam) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    ftruncate(file.as_file(), plan.file_length()).expect("its length");
    let mut last = 0;
    let mut put = |offset: u64, bytes: &[u8]| {
        assert!(offset >= last, "places only rise");
        assert!(!bytes.is_empty());
        last = offset + bytes.len() as u64;
        assert!(last <= plan.file_length());
        file.as_file().write_all_at(bytes, offset)
    };
    plan.write(ram, &mut put, &mut |_| true).expect("written");
    file
}

/// What a dump holds in each page of the guest that is not zero; what the layout does
/// not have of a page counts as zeros.
pub(super) fn content(dump: &StoredDump) -> BTreeMap<u64, Vec<u8>> {
    let ram = GuestRam::stored(dump);
    let mut content = BTreeMap::new();
    for range in dump.layout().ranges() {
        let (block, first) = (range.at.block, range.at.offset);
        let mut read = |offset: u64, end: u64| {
            let mut bytes = vec![1; usize::try_from(end - offset).expect("small")];
            ram.read_at(BlockOffset { block, offset }, &mut bytes)
                .expect("read");
            for (byte, offset) in bytes.iter().zip(offset..) {
                let address = range.extent.start.0 + (offset - first);
                if *byte != 0 {
                    let page = content
                        .entry(address / PAGE * PAGE)
                        .or_insert_with(|| vec![0; 4096]);
                    page[usize::try_from(address % PAGE).expect("small")] = *byte;
                }
            }
        };
        let end = first + range.extent.length;
        ram.resident_runs(block, first..end, &mut |run| {
            read(run.start, run.end);
            true
        })
        .expect("runs");
    }
    content
}

pub(super) fn stored(file: &tempfile::NamedTempFile) -> StoredDump {
    StoredDump::open(file.path()).expect("a dump")
}

pub(super) fn converted(dump: &StoredDump, format: DumpFormat) -> tempfile::NamedTempFile {
    let plan = DumpPlan::new(dump.layout(), format).expect("it fits");
    written(&plan, &GuestRam::stored(dump))
}

/// The addresses of a dump, neighbours joined.
pub(super) fn runs(dump: &StoredDump) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for range in dump.layout().ranges() {
        let (start, length) = (range.extent.start.0, range.extent.length);
        match runs.last_mut() {
            Some(last) if last.0 + last.1 == start => last.1 += length,
            _ => runs.push((start, length)),
        }
    }
    runs
}

/// A file in LiME's format with these ranges.
pub(super) fn lime_file(ranges: &[(u64, Vec<u8>)]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let mut at = 0;
    for (start, bytes) in ranges {
        let header = lime::header(&(*start..start + bytes.len() as u64));
        file.as_file().write_all_at(&header, at).expect("written");
        let data = at + header.len() as u64;
        file.as_file().write_all_at(bytes, data).expect("written");
        at = data + bytes.len() as u64;
    }
    file
}

fn pages(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| vec![*byte; 4096]).collect()
}

#[test]
fn a_dump_in_each_format_reads_as_the_one_it_was_made_of() {
    let source = lime_file(&[
        (0x1000, pages(&[1, 0, 2])),
        (0x9_fc00, vec![7; 1024]),
        (0x1_0000_0000, pages(&[0, 0, 3, 4])),
    ]);
    let source = stored(&source);
    for format in FORMATS {
        let file = converted(&source, format);
        let dump = stored(&file);
        assert_eq!(dump.format(), format);
        assert!(content(&dump) == content(&source), "{format}");
        if format != DumpFormat::Raw {
            assert_eq!(runs(&dump), runs(&source), "{format}");
        }
        let again = converted(&dump, format);
        if format != DumpFormat::Raw {
            let bytes = |file: &tempfile::NamedTempFile| std::fs::read(file.path()).expect("read");
            assert!(bytes(&again) == bytes(&file), "a dump of a dump is equal");
        }
    }
}

#[test]
fn the_headers_of_an_elf_core_say_what_readers_need() {
    use object::elf::{EM_X86_64, ET_CORE, FileHeader64, PT_LOAD};
    use object::read::elf::{FileHeader, ProgramHeader};
    let source = lime_file(&[
        (0, pages(&[1, 0])),
        (0x10_0000, pages(&[2])),
        (0x9_f000, vec![5; 99]),
    ]);
    let file = converted(&stored(&source), DumpFormat::Elf);
    let bytes = std::fs::read(file.path()).expect("read");
    let header = FileHeader64::<object::Endianness>::parse(&*bytes).expect("a header");
    let endian = header.endian().expect("an order");
    assert_eq!(header.e_type(endian), ET_CORE);
    assert_eq!(header.e_machine(endian), EM_X86_64);
    let segments = header.program_headers(endian, &*bytes).expect("headers");
    let found: Vec<_> = segments
        .iter()
        .map(|segment| {
            assert_eq!(segment.p_type(endian), PT_LOAD);
            assert_eq!(segment.p_filesz(endian), segment.p_memsz(endian));
            assert_eq!(
                segment.p_offset(endian) % PAGE,
                segment.p_paddr(endian) % PAGE
            );
            (segment.p_paddr(endian), segment.p_filesz(endian))
        })
        .collect();
    assert_eq!(found, [(0, 8192), (0x9_f000, 99), (0x10_0000, 4096)]);
}

#[test]
fn ranges_of_different_blocks_without_a_hole_between_become_one() {
    let source = lime_file(&[(0x2000, pages(&[2])), (0x1000, pages(&[1]))]);
    let source = stored(&source);
    assert_eq!(source.layout().ranges().len(), 2);
    for format in [DumpFormat::Elf, DumpFormat::Lime] {
        let file = converted(&source, format);
        let dump = stored(&file);
        assert_eq!(dump.layout().ranges().len(), 1);
        assert!(content(&dump) == content(&source));
    }
}

fn layout_of(own: &OwnRam, pieces: &[(u64, u64, u64)]) -> Layout {
    let range = |&(start, offset, length): &(u64, u64, u64)| LayoutRange {
        extent: Extent {
            start: GuestPhysical(start),
            length,
        },
        at: own.at(offset),
        source: Source::MachineRule,
    };
    Layout::new(pieces.iter().map(range).collect()).expect("a layout")
}

#[test]
fn only_pages_that_exist_and_are_not_zero_take_room() {
    let own = OwnRam::new(64 * MIB);
    own.mapping.write(3 * MIB, &pages(&[1, 2])).expect("write");
    own.mapping
        .write(40 * MIB, &pages(&[0, 3, 0]))
        .expect("write");
    let before = own.pages();
    // The last half of RAM lies above a hole.
    let layout = layout_of(&own, &[(0, 0, 32 * MIB), (4096 * MIB, 32 * MIB, 32 * MIB)]);
    for method in [Method::Map, Method::Copy] {
        let ram = own.open(method);
        for format in FORMATS {
            let plan = DumpPlan::new(&layout, format).expect("it fits");
            assert_eq!(plan.ram_bytes(), 64 * MIB);
            assert_eq!(plan.existing_bytes(&ram).expect("asked"), 5 * PAGE);
            let file = written(&plan, &ram);
            let dump = stored(&file);
            let found: Vec<_> = content(&dump).into_keys().collect();
            let expected = [3 * MIB, 3 * MIB + PAGE, (4096 + 8) * MIB + PAGE];
            assert_eq!(found, expected, "{format}");
            let room = file.as_file().metadata().expect("known").blocks() * 512;
            assert!(room <= 16 * PAGE, "{format} takes {room} bytes");
        }
    }
    assert_eq!(own.pages(), before, "no page came into being");
}

#[test]
fn huge_pages_are_dumped_too() {
    let Some(own) = OwnRam::try_new(4 * MIB, MemfdFlags::HUGETLB) else {
        eprintln!("skipped: no huge pages can be had");
        return;
    };
    if own.mapping.write(2 * MIB + 5, b"huge").is_err() {
        eprintln!("skipped: no huge pages can be had");
        return;
    }
    let layout = layout_of(&own, &[(0, 0, 4 * MIB)]);
    let plan = DumpPlan::new(&layout, DumpFormat::Raw).expect("it fits");
    let file = written(&plan, &own.open(Method::Auto));
    let mut bytes = [0; 4];
    file.as_file()
        .read_exact_at(&mut bytes, 2 * MIB + 5)
        .expect("read");
    assert_eq!(&bytes, b"huge");
}

#[test]
fn it_stops_when_the_output_fails_or_the_caller_says_so() {
    let source = lime_file(&[(0, vec![1; 5 << 20])]);
    let source = stored(&source);
    let ram = GuestRam::stored(&source);
    let plan = DumpPlan::new(source.layout(), DumpFormat::Raw).expect("it fits");
    let full = || io::Error::from(io::ErrorKind::StorageFull);
    let error = plan
        .write(&ram, &mut |_, _| Err(full()), &mut |_| true)
        .expect_err("full");
    assert!(matches!(error, DumpWriteError::Output(_)), "{error}");
    let mut seen = Vec::new();
    let error = plan
        .write(&ram, &mut |_, _| Ok(()), &mut |done| {
            seen.push(done);
            done < 2 * MIB
        })
        .expect_err("stopped");
    assert!(matches!(error, DumpWriteError::Stopped), "{error}");
    assert_eq!(seen, [0, MIB, 2 * MIB]);
}

#[test]
fn the_end_of_the_vm_is_noticed_although_its_file_is_still_there() {
    use std::process::{Command, Stdio};
    let file = tempfile::NamedTempFile::new().expect("a file");
    ftruncate(file.as_file(), 4 * MIB).expect("its length");
    file.as_file()
        .write_all_at(&pages(&[1; 1024]), 0)
        .expect("written");
    // A process that maps the file, as a VMM does.
    let script = "import mmap,sys; f=open(sys.argv[1],'r+b'); m=mmap.mmap(f.fileno(),0); print(flush=True); sys.stdin.read()";
    let child = Command::new("python3")
        .args(["-c", script])
        .arg(file.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("skipped: there is no python3 to map a file with");
        return;
    };
    let mut line = [0];
    io::Read::read_exact(child.stdout.as_mut().expect("piped"), &mut line).expect("it runs");
    let vmm = crate::find_by_pid(child.id()).expect("it is there");
    let name = file.path().display().to_string();
    let block = vmm.blocks.iter().position(|block| block.name == name);
    let at = BlockOffset {
        block: block.expect("its file is found"),
        offset: 0,
    };
    let ram = GuestRam::open(&vmm, Method::Auto).expect("opens");
    let layout = Layout::new(vec![LayoutRange {
        extent: Extent {
            start: GuestPhysical(0),
            length: 4 * MIB,
        },
        at,
        source: Source::MachineRule,
    }])
    .expect("a layout");
    let plan = DumpPlan::new(&layout, DumpFormat::Lime).expect("it fits");
    let mut calls = 0;
    let error = plan
        .write(&ram, &mut |_, _| Ok(()), &mut |_| {
            calls += 1;
            if calls == 3 {
                child.kill().expect("killed");
                child.wait().expect("ended");
            }
            true
        })
        .expect_err("it ended");
    assert!(matches!(error, DumpWriteError::Gone), "{error}");
    assert_eq!(calls, 3);
}

#[test]
fn what_a_format_cannot_hold_is_refused() {
    let error = DumpPlan::new(&Layout::default(), DumpFormat::Elf).expect_err("nothing");
    assert!(matches!(error, DumpWriteError::Empty), "{error}");
    let range = |start: u64, length: u64| LayoutRange {
        extent: Extent {
            start: GuestPhysical(start),
            length,
        },
        at: BlockOffset::default(),
        source: Source::DumpHeaders,
    };
    let high = Layout::new(vec![range(1 << 63, PAGE)]).expect("a layout");
    let error = DumpPlan::new(&high, DumpFormat::Raw).expect_err("too far up");
    assert!(matches!(error, DumpWriteError::TooLong { .. }), "{error}");
    assert!(error.hint().is_some());
    assert!(DumpPlan::new(&high, DumpFormat::Elf).is_ok());
    assert!(DumpPlan::new(&high, DumpFormat::Lime).is_ok());
    let long = Layout::new(vec![range(0, u64::MAX)]).expect("a layout");
    for format in FORMATS {
        DumpPlan::new(&long, format).expect_err("longer than any file");
    }
    let many = Layout::new((0..70_000).map(|n| range(n * 2 * PAGE, PAGE)).collect());
    let many = many.expect("a layout");
    let error = DumpPlan::new(&many, DumpFormat::Elf).expect_err("too many");
    assert!(
        matches!(error, DumpWriteError::TooManyRanges { .. }),
        "{error}"
    );
    assert!(DumpPlan::new(&many, DumpFormat::Lime).is_ok());
}

#[test]
fn a_range_that_is_longer_in_memory_than_in_the_file_ends_in_zeros() {
    let source = lime_file(&[(0x1000, pages(&[1])), (0x10_0000, pages(&[2, 3]))]);
    let file = converted(&stored(&source), DumpFormat::Elf);
    // The first program header's p_memsz, behind the file's header of 64 bytes.
    let set = |value: u64| {
        let file = File::options()
            .write(true)
            .open(file.path())
            .expect("opens");
        file.write_all_at(&value.to_le_bytes(), 64 + 40)
            .expect("written");
    };
    set(0x5000);
    let dump = stored(&file);
    assert_eq!(runs(&dump), [(0x1000, 0x5000), (0x10_0000, 0x2000)]);
    assert_eq!(dump.ram_bytes(), 0x7000);
    assert!(content(&dump) == content(&stored(&source)));
    let ram = GuestRam::stored(&dump);
    let tail = dump.layout().translate(GuestPhysical(0x2fff)).expect("RAM");
    let mut bytes = [1; 0x3000];
    ram.read_at(tail.at, &mut bytes).expect("read");
    assert!(bytes.iter().all(|byte| *byte == 0));
    // And as much of it as was there goes into another dump.
    let again = converted(&dump, DumpFormat::Lime);
    let again = stored(&again);
    assert_eq!(runs(&again), runs(&dump));
    assert!(content(&again) == content(&dump));
    // Where it runs into the next range, that one's bytes count.
    set(0x10_0000);
    let dump = stored(&file);
    assert_eq!(runs(&dump), [(0x1000, 0x10_1000)]);
    assert!(content(&dump) == content(&stored(&source)));
    set(u64::MAX);
    StoredDump::open(file.path()).expect_err("it goes beyond all addresses");
}
