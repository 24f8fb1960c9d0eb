//! The formats of stored dumps, and how a file tells which one it has.

use std::fmt;

/// How a dump's file holds guest RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DumpFormat {
    /// An ELF core file whose program headers state guest-physical addresses, as QEMU's
    /// `dump-guest-memory` and Linux's `vmcore` have it.
    Elf,
    /// LiME: a header before each range (the LiME kernel module's `format=lime`).
    Lime,
    /// The bytes alone: guest-physical address is place in the file.
    Raw,
}

impl DumpFormat {
    /// The word that users type.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Elf => "elf",
            Self::Lime => "lime",
            Self::Raw => "raw",
        }
    }

    /// What a raw dump that begins with these bytes is taken for, if not for raw memory.
    /// What is at address 0 is the guest's choice.
    #[must_use]
    pub fn raw_taken_for(head: &[u8]) -> Option<&'static str> {
        match detect(head) {
            Ok(Self::Raw) => None,
            Ok(Self::Elf) => Some("an ELF file"),
            Ok(Self::Lime) => Some("a dump in LiME's format"),
            Err(foreign) => Some(foreign),
        }
    }
}

impl fmt::Display for DumpFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a file's first bytes say: a format, or the name of one that is not understood.
pub(super) fn detect(head: &[u8]) -> Result<DumpFormat, &'static str> {
    const FOREIGN: &[(&[u8], &str)] = &[
        (b"KDUMP   ", "a compressed kdump file"),
        (b"DISKDUMP", "a diskdump file"),
        (b"makedumpfile", "a flattened makedumpfile stream"),
        (b"PAGEDU64", "a Windows crash dump"),
        (b"PAGEDUMP", "a Windows crash dump"),
        (b"\x1f\x8b", "compressed by gzip"),
        (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
        (b"\xfd7zXZ\0", "compressed by xz"),
        (b"BZh", "compressed by bzip2"),
        (b"EVM", "an EnCase memory image"),
        (b"QEVM", "a QEMU migration stream"),
        (b"QFI\xfb", "a qcow2 disk image"),
    ];
    if head.starts_with(b"\x7fELF") {
        return Ok(DumpFormat::Elf);
    }
    if head.starts_with(&super::lime::MAGIC.to_le_bytes()) {
        return Ok(DumpFormat::Lime);
    }
    match FOREIGN.iter().find(|(magic, _)| head.starts_with(magic)) {
        Some((_, name)) => Err(name),
        None => Ok(DumpFormat::Raw),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_by_their_first_bytes() {
        assert_eq!(detect(b"\x7fELF\x02\x01"), Ok(DumpFormat::Elf));
        assert_eq!(detect(b"EMiL\x01\0\0\0"), Ok(DumpFormat::Lime));
        assert_eq!(detect(b"\0\0\0\0"), Ok(DumpFormat::Raw));
        assert_eq!(detect(b""), Ok(DumpFormat::Raw));
        assert_eq!(detect(b"KDUMP   \x06"), Err("a compressed kdump file"));
        assert_eq!(detect(b"\x1f\x8b\x08"), Err("compressed by gzip"));
    }

    #[test]
    fn raw_memory_that_begins_like_another_format_is_told() {
        assert_eq!(DumpFormat::raw_taken_for(&[0; 16]), None);
        assert_eq!(DumpFormat::raw_taken_for(b""), None);
        for head in [&b"\x7fELF"[..], b"EMiL", b"BZh9"] {
            assert!(DumpFormat::raw_taken_for(head).is_some(), "{head:?}");
        }
    }
}
