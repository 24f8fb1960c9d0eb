//! The files behind shared memory: sealed memfds, one per allocation, made of
//! ordinary or of 2 MiB pages. They can neither grow nor shrink afterwards.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;
use vmshm_shm::PAGE_SIZE;

/// Size of the huge pages that are used.
pub(crate) const HUGE_PAGE: u64 = 2 << 20;

/// What a memory file is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pages {
    /// 4 KiB pages of shared memory (larger ones where the kernel chooses so).
    Ordinary,
    /// 2 MiB pages of hugetlb.
    Huge,
}

impl Pages {
    /// The unit in which such a file is allocated.
    pub(crate) const fn unit(self) -> u64 {
        match self {
            Self::Ordinary => PAGE_SIZE,
            Self::Huge => HUGE_PAGE,
        }
    }
}

/// A sealed memfd.
#[derive(Debug)]
pub(crate) struct MemoryFile {
    fd: OwnedFd,
    length: u64,
    pages: Pages,
}

impl MemoryFile {
    /// Makes `vmshm-<name>` of `length` bytes, rounded up to whole pages; nothing is
    /// allocated yet.
    pub(crate) fn new(name: &str, length: u64, pages: Pages) -> Result<Self, Errno> {
        let length = length
            .checked_next_multiple_of(pages.unit())
            .ok_or(Errno::FBIG)?;
        let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        if pages == Pages::Huge {
            flags |= MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        }
        let fd = rustix::fs::memfd_create(format!("vmshm-{name}"), flags)?;
        rustix::fs::ftruncate(&fd, length)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Self { fd, length, pages })
    }

    /// Size in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// What it is made of.
    pub(crate) fn pages(&self) -> Pages {
        self.pages
    }

    /// Allocates and zeroes the pages of a range.
    pub(crate) fn allocate(&self, offset: u64, length: u64) -> Result<(), Errno> {
        retry(|| rustix::fs::fallocate(&self.fd, FallocateFlags::empty(), offset, length))
    }

    /// How many bytes of it are allocated.
    pub(crate) fn allocated(&self) -> Result<u64, Errno> {
        /// The unit in which file systems count.
        const BLOCK: u64 = 512;
        let blocks = rustix::fs::fstat(&self.fd)?.st_blocks;
        Ok(u64::try_from(blocks).unwrap_or(0).saturating_mul(BLOCK))
    }

    /// Gives the pages of a range back; reading them would make new ones.
    pub(crate) fn punch(&self, offset: u64, length: u64) -> Result<(), Errno> {
        if length == 0 {
            return Ok(());
        }
        retry(|| {
            rustix::fs::fallocate(
                &self.fd,
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                offset,
                length,
            )
        })
    }
}

impl AsFd for MemoryFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Allocation of shared memory is cut short by any signal, and gives back what it
/// did; the range is small enough to start over.
fn retry(mut call: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_sealed_and_whole_pages() {
        let file = MemoryFile::new("test", 5000, Pages::Ordinary).expect("succeeds");
        assert_eq!(file.length(), 8192);
        assert!(rustix::fs::ftruncate(file.as_fd(), 4096).is_err());
        assert!(rustix::fs::ftruncate(file.as_fd(), 1 << 20).is_err());
        let seals = rustix::fs::fcntl_get_seals(file.as_fd()).expect("succeeds");
        assert!(seals.contains(SealFlags::SEAL));
    }

    #[test]
    fn allocates_and_punches() {
        let file = MemoryFile::new("test", 16 << 12, Pages::Ordinary).expect("succeeds");
        let allocated = || file.allocated().expect("succeeds");
        assert_eq!(allocated(), 0);
        file.allocate(0, 4 << 12).expect("succeeds");
        assert_eq!(allocated(), 4 << 12);
        file.punch(0, 3 << 12).expect("succeeds");
        assert_eq!(allocated(), 1 << 12);
        file.punch(0, 0).expect("succeeds");
    }
}
