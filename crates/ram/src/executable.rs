//! Tells what a VMM's executable is by what is inside it, since names say little.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::time::SystemTime;

use crate::os::file_number;

/// What an executable file turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExecutableKind {
    /// A Linux kernel built for user mode: it has the sections only such a kernel has.
    UserModeLinux,
    /// A QEMU system emulator: it holds that program's version text.
    QemuSystem,
    /// Something else.
    Other,
    /// It could not be read.
    Unknown,
}

/// The largest executable that is searched for a text.
const LARGEST_SEARCHED: u64 = 256 << 20;
const UML_SECTION: &[u8] = b".uml.setup.init\0";
const QEMU_TEXT: &[u8] = b"QEMU emulator version ";

impl ExecutableKind {
    /// Whether the file is a user-mode Linux kernel. Cheap: reads the section names.
    pub(crate) fn uml_or_other(path: &Path) -> Self {
        match fs::metadata(path) {
            Ok(metadata) if !metadata.is_file() => return Self::Other,
            Ok(_) => {}
            Err(_) => return Self::Unknown,
        }
        let Ok(file) = File::open(path) else {
            return Self::Unknown;
        };
        match section_names(&file) {
            Some(names) if memchr::memmem::find(&names, UML_SECTION).is_some() => {
                Self::UserModeLinux
            }
            _ => Self::Other,
        }
    }

    /// Whether the file is a QEMU system emulator.
    pub(crate) fn qemu_or_other(path: &Path) -> Self {
        match holds_constant(path, QEMU_TEXT) {
            Some(true) => Self::QemuSystem,
            Some(false) => Self::Other,
            None => Self::Unknown,
        }
    }
}

/// Whether an executable has a text among its constants; nothing where it cannot be
/// read. Reads the constants once and remembers the answer.
pub(crate) fn holds_constant(path: &Path, text: &'static [u8]) -> Option<bool> {
    type Key = (u64, u64, SystemTime, &'static [u8]);
    static KNOWN: OnceLock<Mutex<HashMap<Key, bool>>> = OnceLock::new();
    let metadata = fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > LARGEST_SEARCHED {
        return Some(false);
    }
    let (device, number) = file_number(path, &metadata);
    let key = (device, number, metadata.modified().ok()?, text);
    let known = KNOWN.get_or_init(Mutex::default);
    if let Ok(map) = known.lock()
        && let Some(answer) = map.get(&key)
    {
        return Some(*answer);
    }
    let file = File::open(path).ok()?;
    let constants = section(&file, b".rodata").unwrap_or(0..metadata.len());
    let answer = holds(&file, constants, text);
    if let Ok(mut map) = known.lock() {
        map.insert(key, answer);
    }
    Some(answer)
}

/// The sections of a 64-bit little-endian ELF file.
struct Sections {
    /// The headers, one after the other.
    headers: Vec<u8>,
    entry_size: usize,
    /// All names, each ended by a NUL.
    names: Vec<u8>,
}

impl Sections {
    fn read(file: &File) -> Option<Self> {
        const LARGEST_TABLE: u64 = 1 << 20;
        const SMALLEST_ENTRY: u16 = 64;
        let mut header = [0_u8; 64];
        read_exact_at(file, &mut header, 0).ok()?;
        if !header.starts_with(b"\x7fELF\x02\x01") {
            return None;
        }
        let headers_at = number(&header, 0x28)?;
        let entry_size = half(&header, 0x3a)?;
        let count = half(&header, 0x3c)?;
        let names_index = half(&header, 0x3e)?;
        if entry_size < SMALLEST_ENTRY {
            return None;
        }
        let entry_size = usize::from(entry_size);
        let mut headers = vec![0_u8; entry_size * usize::from(count)];
        read_exact_at(file, &mut headers, headers_at).ok()?;
        let names = headers.get(usize::from(names_index) * entry_size..)?;
        let names_at = number(names, 0x18)?;
        let size = number(names, 0x20)?.min(LARGEST_TABLE);
        let mut names = vec![0_u8; usize::try_from(size).ok()?];
        read_exact_at(file, &mut names, names_at).ok()?;
        Some(Self {
            headers,
            entry_size,
            names,
        })
    }
}

fn section_names(file: &File) -> Option<Vec<u8>> {
    Some(Sections::read(file)?.names)
}

/// Where in the file a section lies.
fn section(file: &File, wanted: &[u8]) -> Option<Range<u64>> {
    let sections = Sections::read(file)?;
    sections
        .headers
        .chunks_exact(sections.entry_size)
        .find_map(|header| {
            let name_at = u32::from_le_bytes(*header.first_chunk()?);
            let name = sections.names.get(usize::try_from(name_at).ok()?..)?;
            let name = name.split(|byte| *byte == 0).next()?;
            let start = number(header, 0x18)?;
            let end = start.checked_add(number(header, 0x20)?)?;
            (name == wanted).then_some(start..end)
        })
}

fn read_at(mut file: &File, into: &mut [u8], at: u64) -> io::Result<usize> {
    file.seek(SeekFrom::Start(at))?;
    file.read(into)
}

fn read_exact_at(mut file: &File, into: &mut [u8], at: u64) -> io::Result<()> {
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(into)
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Whether a part of the file holds a text; stops at the first.
fn holds(file: &File, part: Range<u64>, text: &[u8]) -> bool {
    const AT_ONCE: usize = 256 << 10;
    let mut buffer = vec![0_u8; AT_ONCE];
    let mut at = part.start;
    while at < part.end {
        let room = usize::try_from(part.end - at).map_or(AT_ONCE, |left| left.min(AT_ONCE));
        let Ok(count) = read_at(file, &mut buffer[..room], at) else {
            return false;
        };
        if memchr::memmem::find(&buffer[..count], text).is_some() {
            return true;
        }
        if count <= text.len() {
            return false;
        }
        // The text may lie across the border.
        at += (count - text.len()) as u64;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_is_neither_and_nonsense_is_survived() {
        let own = std::env::current_exe().expect("own path");
        assert_eq!(ExecutableKind::uml_or_other(&own), ExecutableKind::Other);
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("odd");
        let mut odd = vec![0xff_u8; 64];
        odd[..6].copy_from_slice(b"\x7fELF\x02\x01");
        fs::write(&path, &odd).expect("write");
        assert_eq!(ExecutableKind::uml_or_other(&path), ExecutableKind::Other);
        fs::write(&path, b"short").expect("write");
        assert_eq!(ExecutableKind::uml_or_other(&path), ExecutableKind::Other);
        assert_eq!(ExecutableKind::qemu_or_other(&path), ExecutableKind::Other);
        fs::write(&path, b"... QEMU emulator version %s ...").expect("write");
        assert_eq!(
            ExecutableKind::qemu_or_other(&path),
            ExecutableKind::QemuSystem
        );
        assert_eq!(
            ExecutableKind::uml_or_other(&directory.path().join("absent")),
            ExecutableKind::Unknown
        );
    }
}
