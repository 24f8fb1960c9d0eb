//! A part of a memory file, mapped: the size that was announced, whatever unit the
//! file is made of. Huge pages can only be mapped whole; what lies beyond the part is
//! mapped then, but cannot be reached.

use std::os::fd::AsFd;

use vmshm_shm::{Fault, MapError, Mapping, PAGE_SIZE, Piece, Protection, SharedMemory};

use crate::pin;

/// A mapped part of a file.
#[derive(Debug)]
pub(crate) struct Window {
    mapping: Mapping,
    /// Where the part starts in the mapping.
    inside: u64,
    size: u64,
}

impl Window {
    /// Maps `size` bytes of `file` from `offset` on.
    pub(crate) fn open(
        file: impl AsFd,
        offset: u64,
        size: u64,
        protection: Protection,
    ) -> Result<Self, MapError> {
        let unit = rustix::fs::fstat(&file)
            .ok()
            .and_then(|facts| u64::try_from(facts.st_blksize).ok())
            .filter(|unit| unit.is_power_of_two())
            .map_or(PAGE_SIZE, |unit| unit.max(PAGE_SIZE));
        let first = offset - offset % unit;
        let end = offset
            .checked_add(size)
            .and_then(|end| end.checked_next_multiple_of(unit))
            .ok_or(MapError::BadPiece { index: 0 })?;
        let piece = Piece {
            offset: first,
            length: end - first,
        };
        Ok(Self {
            mapping: Mapping::new(file, &[piece], protection)?,
            inside: offset - first,
            size,
        })
    }

    /// Makes a range present by one call instead of one fault for each page.
    pub(crate) fn prefault(&self, offset: u64, length: u64) {
        let end = offset.saturating_add(length).min(self.size);
        pin::prefault(
            &self.mapping,
            self.inside.saturating_add(offset),
            end.saturating_sub(offset),
        );
    }

    /// The place in the mapping, if the access lies in the part.
    #[inline]
    fn place(&self, offset: u64, length: u64) -> Result<u64, Fault> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size => Ok(self.inside + offset),
            _ => Err(Fault::OutOfBounds {
                offset,
                length,
                size: self.size,
            }),
        }
    }
}

impl SharedMemory for Window {
    #[inline]
    fn size(&self) -> u64 {
        self.size
    }
    #[inline]
    fn load_relaxed(&self, offset: u64) -> Result<u64, Fault> {
        self.mapping.load_relaxed(self.place(offset, 8)?)
    }
    #[inline]
    fn load_acquire(&self, offset: u64) -> Result<u64, Fault> {
        self.mapping.load_acquire(self.place(offset, 8)?)
    }
    #[inline]
    fn store_relaxed(&self, offset: u64, value: u64) -> Result<(), Fault> {
        self.mapping.store_relaxed(self.place(offset, 8)?, value)
    }
    #[inline]
    fn store_release(&self, offset: u64, value: u64) -> Result<(), Fault> {
        self.mapping.store_release(self.place(offset, 8)?, value)
    }
    #[inline]
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.mapping
            .read(self.place(offset, into.len() as u64)?, into)
    }
    #[inline]
    fn prefetch(&self, offset: u64, length: u64) {
        if let Ok(at) = self.place(offset, length) {
            self.mapping.prefetch(at, length);
        }
    }
    #[inline]
    fn prefetch_to_write(&self, offset: u64) {
        if let Ok(at) = self.place(offset, 8) {
            self.mapping.prefetch_to_write(at);
        }
    }
    #[inline]
    fn write(&self, offset: u64, from: &[u8]) -> Result<(), Fault> {
        self.mapping
            .write(self.place(offset, from.len() as u64)?, from)
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::MemfdFlags;

    use super::*;

    #[test]
    fn shows_its_part_and_nothing_else() {
        let file = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).expect("succeeds");
        rustix::fs::ftruncate(&file, 4 * PAGE_SIZE).expect("succeeds");
        let whole = Window::open(&file, 0, 4 * PAGE_SIZE, Protection::ReadWrite).expect("maps");
        let part = Window::open(&file, PAGE_SIZE, 100, Protection::ReadWrite).expect("maps");
        whole.store_relaxed(PAGE_SIZE + 8, 77).expect("succeeds");
        assert_eq!(part.load_relaxed(8), Ok(77));
        assert_eq!(part.size(), 100);
        assert!(part.load_relaxed(96).is_err());
        assert!(part.write(99, &[1, 2]).is_err());
        assert!(part.read(u64::MAX, &mut [0; 2]).is_err());
        let read_only = Window::open(&file, 0, PAGE_SIZE, Protection::Read).expect("maps");
        assert_eq!(read_only.store_relaxed(0, 1), Err(Fault::ReadOnly));
    }
}
