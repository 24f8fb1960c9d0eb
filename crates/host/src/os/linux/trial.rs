//! For tests: which block a memory file is.

use rustix::fs::fstat;
use vmshm_channel::Handed;
use vmshm_ram::RamBlock;

/// Whether this block is that memory file's.
pub(crate) fn is_of(block: &RamBlock, file: &Handed) -> bool {
    let inode = fstat(file).expect("it is there").st_ino;
    block.file.is_some_and(|found| found.inode == inode)
}
