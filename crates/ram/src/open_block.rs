//! One RAM block and the means to reach it: its file, and the way to tell which of its
//! pages exist. It checks no bounds; whoever asks has.

use std::sync::Arc;

use vmshm_shm::{MapError, Protection, SharedMemory};

use crate::address::{BlockOffset, VmmVirtual};
use crate::block::RamBlock;
use crate::os::{BackingFile, Residency, code};
use crate::view::View;

/// A block and the means to reach it.
#[derive(Debug)]
pub(crate) struct OpenBlock {
    pub(crate) block: RamBlock,
    pub(crate) file: Option<Arc<BackingFile>>,
    pub(crate) residency: Residency,
}

impl OpenBlock {
    /// Where the VMM has a place of this block.
    pub(crate) fn address(&self, at: BlockOffset) -> VmmVirtual {
        VmmVirtual(self.block.start.0 + at.offset)
    }
}

/// Writes to a file, through a mapping where it is made of huge pages.
pub(crate) fn write_file(file: &BackingFile, offset: u64, from: &[u8]) -> Result<(), i32> {
    if !file.hugetlb {
        return file.write_at(offset, from);
    }
    let page = file.page_size();
    let first = offset - offset % page;
    let length = (offset - first + from.len() as u64).next_multiple_of(page);
    let view =
        View::mapped(&[(file, first, length)], Protection::ReadWrite).map_err(
            |error| match error {
                MapError::System(error) => error.raw_os_error(),
                MapError::BadPiece { .. } => code::BAD_DESCRIPTOR,
            },
        )?;
    view.write(offset - first, from)
        .map_err(|_| code::BAD_DESCRIPTOR)
}
