//! Test support: this process as a VMM, with a memory file mapped as its guest RAM.

use rustix::fd::OwnedFd;
use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
use vmshm_shm::{Mapping, Piece};

use crate::access::Method;
use crate::guest_ram::GuestRam;
use crate::vmm::{Vmm, find_by_pid};
use crate::{BlockOffset, Protection};

/// Guest RAM of this process.
pub(crate) struct OwnRam {
    pub(crate) file: OwnedFd,
    pub(crate) mapping: Mapping,
    pub(crate) vmm: Vmm,
    /// Which of the blocks it is.
    pub(crate) block: usize,
}

impl OwnRam {
    /// Maps a fresh memory file of `size` bytes and finds it from outside. Nothing where
    /// the system has no memory for `flags`.
    pub(crate) fn try_new(size: u64, flags: MemfdFlags) -> Option<Self> {
        Self::try_from_offset(0, size, flags)
    }

    /// As [`try_new`](Self::try_new), with `offset` bytes of the file before what is mapped.
    pub(crate) fn try_from_offset(offset: u64, size: u64, flags: MemfdFlags) -> Option<Self> {
        let file = memfd_create("guest-ram", flags | MemfdFlags::CLOEXEC).ok()?;
        ftruncate(&file, offset + size).ok()?;
        let piece = Piece {
            offset,
            length: size,
        };
        let mapping = Mapping::new(&file, &[piece], Protection::ReadWrite).ok()?;
        let inode = fstat(&file).ok()?.st_ino;
        let mut vmm = find_by_pid(std::process::id()).ok()?;
        // Other tests of this process map and unmap theirs at the same time.
        vmm.blocks
            .retain(|block| block.file.is_some_and(|file| file.inode == inode));
        let block = vmm.blocks.len().checked_sub(1)?;
        Some(Self {
            file,
            mapping,
            vmm,
            block,
        })
    }

    pub(crate) fn new(size: u64) -> Self {
        Self::try_new(size, MemfdFlags::empty()).expect("a memory file that is found as RAM")
    }

    pub(crate) fn open(&self, method: Method) -> GuestRam {
        GuestRam::open(&self.vmm, method).expect("the RAM of this process opens")
    }

    pub(crate) fn at(&self, offset: u64) -> BlockOffset {
        BlockOffset {
            block: self.block,
            offset,
        }
    }

    /// How many 4 KiB pages of the file exist.
    pub(crate) fn pages(&self) -> i64 {
        fstat(&self.file).expect("stat").st_blocks / 8
    }
}
