//! A file of memory on Linux.

use rustix::fd::OwnedFd;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

pub type File = OwnedFd;

/// A new one of some bytes, all zero.
pub fn create(length: u64) -> File {
    let file = memfd_create("vmshm-test", MemfdFlags::CLOEXEC).expect("a memory file");
    ftruncate(&file, length).expect("resized");
    file
}
