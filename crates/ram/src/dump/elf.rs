//! ELF core files of guest RAM: each loadable program header states a guest-physical
//! address (`p_paddr`) and where its bytes lie. The `object` crate reads and writes the
//! headers.
//!
//! No note (`PT_NOTE`) is written: notes hold the processors' registers, which nobody
//! knows who looks at memory alone, and readers of physical memory want none.

use std::fs::File;

use object::elf::{ELFOSABI_NONE, EM_X86_64, ET_CORE, PF_R, PF_W, PF_X, PN_XNUM, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use object::read::{ReadCache, ReadRef};
use object::write::elf as written;
use object::{Endianness, FileKind};

use super::overlap::without_overlaps;
use super::plan::{PAGE, PlannedRange};
use super::stored::{DumpError, MOST_SEGMENTS, Place, Segment};

/// Most program headers that an ELF file's header can count by itself.
pub(super) const MOST_RANGES: usize = PN_XNUM as usize - 1;
/// Bytes of the file's header, and of each program header.
const FILE_HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;

/// How long the headers of a file with so many ranges are.
pub(super) const fn head_length(ranges: usize) -> u64 {
    FILE_HEADER + PROGRAM_HEADER * ranges as u64
}

/// The headers of a file with these ranges; nothing where there are too many.
pub(super) fn head(ranges: &[PlannedRange]) -> Option<Vec<u8>> {
    let count = u32::try_from(ranges.len())
        .ok()
        .filter(|_| ranges.len() <= MOST_RANGES)?;
    let mut bytes = Vec::new();
    let mut writer = written::Writer::new(Endianness::Little, true, &mut bytes);
    writer.reserve_file_header();
    writer.reserve_program_headers(count);
    writer
        .write_file_header(&written::FileHeader {
            os_abi: ELFOSABI_NONE,
            abi_version: 0,
            e_type: ET_CORE,
            e_machine: EM_X86_64,
            e_entry: 0,
            e_flags: 0,
        })
        .ok()?;
    writer.write_align_program_headers();
    for range in ranges {
        writer.write_program_header(&written::ProgramHeader {
            p_type: PT_LOAD,
            p_flags: PF_R | PF_W | PF_X,
            p_offset: range.offset,
            // As in QEMU's dumps without paging: readers by virtual address see memory
            // as it is without paging, too.
            p_vaddr: range.start,
            p_paddr: range.start,
            p_filesz: range.length,
            // Volatility takes no range whose two sizes differ.
            p_memsz: range.length,
            p_align: PAGE,
        });
    }
    Some(bytes)
}

/// The loadable segments that have bytes, each without what earlier ones have. What a segment has in memory behind its bytes
/// in the file are zeros. A segment with no bytes in the file is no RAM: VirtualBox lists
/// its devices' memory so.
pub(super) fn segments(file: &File, length: u64) -> Result<Vec<Segment>, DumpError> {
    let cache = ReadCache::new(file.try_clone().map_err(DumpError::Read)?);
    match FileKind::parse(&cache) {
        Ok(FileKind::Elf64) => read::<object::elf::FileHeader64<Endianness>, _>(&cache, length),
        Ok(FileKind::Elf32) => read::<object::elf::FileHeader32<Endianness>, _>(&cache, length),
        _ => Err(damaged("its ELF header is not valid")),
    }
}

const fn damaged(what: &'static str) -> DumpError {
    DumpError::Damaged { at: 0, what }
}

fn read<'data, H, R>(data: R, length: u64) -> Result<Vec<Segment>, DumpError>
where
    H: FileHeader<Endian = Endianness>,
    R: ReadRef<'data>,
{
    let header = H::parse(data).map_err(|_| damaged("its ELF header is not valid"))?;
    let endian = header
        .endian()
        .map_err(|_| damaged("its byte order is not valid"))?;
    if header.e_type(endian) != ET_CORE {
        return Err(DumpError::Foreign {
            what: "an ELF file, but no core file",
        });
    }
    let cut = || DumpError::Truncated {
        needed: header.e_phoff(endian).into(),
        length,
    };
    // The number may stand elsewhere in the file and be anything; all of them are read at
    // once.
    let count = header.phnum(endian, data).map_err(|_| cut())?;
    if count > MOST_SEGMENTS {
        return Err(damaged("it has more ranges than any machine"));
    }
    let headers = header.program_headers(endian, data).map_err(|_| cut())?;
    let mut segments = Vec::new();
    for header in headers {
        if header.p_type(endian) != PT_LOAD {
            continue;
        }
        let (offset, size): (u64, u64) = (
            header.p_offset(endian).into(),
            header.p_filesz(endian).into(),
        );
        if size == 0 {
            continue;
        }
        match offset.checked_add(size) {
            Some(end) if end <= length => {}
            end => {
                return Err(DumpError::Truncated {
                    needed: end.unwrap_or(u64::MAX),
                    length,
                });
            }
        }
        let start: u64 = header.p_paddr(endian).into();
        segments.push(Segment {
            start,
            length: size,
            place: Place::At(offset),
        });
        let in_memory: u64 = header.p_memsz(endian).into();
        if in_memory > size {
            if in_memory - size > i64::MAX as u64 {
                return Err(damaged("a range of it is larger than any memory"));
            }
            segments.push(Segment {
                start: start
                    .checked_add(size)
                    .ok_or_else(|| damaged("a range of it goes beyond the end of all addresses"))?,
                length: in_memory - size,
                place: Place::Zeros,
            });
        }
    }
    without_overlaps(segments)
        .ok_or_else(|| damaged("a range of it goes beyond the end of all addresses"))
}
