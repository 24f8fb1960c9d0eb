//! What exists of memory that is a private mapping of a file. Windows tells of no page whether
//! it exists, so all do; and no block is ever of this kind here.

use std::ops::Range;

use super::backing_file::BackingFile;
use super::residency::Residency;
use crate::address::VmmVirtual;

/// A private mapping and the file below it.
#[derive(Debug)]
pub(crate) struct PrivateFile<'a> {
    /// Tells which pages the VMM has.
    pub(crate) residency: &'a Residency,
    /// Where the VMM has the block.
    pub(crate) start: VmmVirtual,
    pub(crate) file: &'a BackingFile,
    /// Where in the file the block begins.
    pub(crate) file_offset: u64,
}

impl PrivateFile<'_> {
    /// Whether the page at `offset` of the block exists.
    pub(crate) fn exists(&self, offset: u64) -> bool {
        self.residency
            .exists(Some(self.file), self.file_offset, self.start, offset)
    }

    /// Existing runs inside `range`, as [`Residency::runs`] gives them.
    pub(crate) fn runs(
        &self,
        range: Range<u64>,
        visit: &mut dyn FnMut(Range<u64>) -> bool,
    ) -> Result<(), i32> {
        self.residency
            .runs(Some(self.file), self.file_offset, self.start, range, visit)
    }
}
