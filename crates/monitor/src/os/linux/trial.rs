//! For tests: memory that looks like a guest's.

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vmshm_channel::Handed;

/// A file of so many bytes, all zero; sparse.
pub fn memory_file(size: u64) -> Handed {
    let file = memfd_create("memory", MemfdFlags::CLOEXEC).expect("succeeds");
    ftruncate(&file, size).expect("succeeds");
    file
}
