//! Memory that looks like a guest's.

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vmshm_channel::Handed;

pub fn memory_file(size: u64) -> Handed {
    let file = memfd_create("guest", MemfdFlags::CLOEXEC).expect("succeeds");
    ftruncate(&file, size).expect("succeeds");
    file
}
