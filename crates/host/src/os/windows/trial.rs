//! For tests: which block a section is.

use std::os::windows::io::AsRawHandle;

use vmshm_channel::Handed;
use vmshm_ram::RamBlock;

/// Whether this block is that section's, of which this process has no other handle yet.
pub(crate) fn is_of(block: &RamBlock, section: &Handed) -> bool {
    let handle = section.as_raw_handle().addr();
    block.name.ends_with(&format!("handle {handle:#x}"))
}
