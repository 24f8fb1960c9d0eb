//! ELF core files of guest RAM: each loadable program header states a guest-physical
//! address (`p_paddr`) and where its bytes lie. The `object` crate reads the headers.

use std::fs::File;

use object::elf::{ET_CORE, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use object::read::{ReadCache, ReadRef};
use object::{Endianness, FileKind};

use super::stored::{DumpError, Segment};

/// The loadable segments that have bytes.
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
    let headers = header
        .program_headers(endian, data)
        .map_err(|_| DumpError::Truncated {
            needed: header.e_phoff(endian).into(),
            length,
        })?;
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
        segments.push(Segment {
            start: header.p_paddr(endian).into(),
            length: size,
            offset,
        });
    }
    Ok(segments)
}
