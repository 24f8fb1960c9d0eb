//! Shared memory of this machine for the measured ends: a memfd, mapped.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vmshm_shm::{Mapping, PAGE_SIZE, Protection, SharedMemory};

/// `size` in whole pages.
pub fn size(size: u64) -> u64 {
    size.next_multiple_of(PAGE_SIZE)
}

/// A fresh memfd of `size` bytes, in whole pages, and its mapping.
pub fn shared(bytes: u64) -> Result<(OwnedFd, Mapping)> {
    let file = memfd_create("vmshm-bench", MemfdFlags::CLOEXEC).context("cannot make a memfd")?;
    ftruncate(&file, size(bytes)).context("cannot size a memfd")?;
    let mapping = map(&file, bytes)?;
    // Pages come into being here and not where time is measured.
    for page in (0..mapping.size()).step_by(4096) {
        mapping.store_relaxed(page, 0)?;
    }
    Ok((file, mapping))
}

/// Maps a memfd that [`shared`] made with the same size.
pub fn map(file: impl std::os::fd::AsFd, bytes: u64) -> Result<Mapping> {
    Mapping::whole(file, size(bytes), Protection::ReadWrite).context("cannot map a memfd")
}
