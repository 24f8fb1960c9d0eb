//! Tells which pages of a RAM block exist. Windows does not tell whether a page that is not in
//! a working set was ever written, so every page that can be read counts as existing; looking
//! at one that nobody has touched may bring it into being, as a page of zeros. Of a section
//! that is only reserved, the pages that were committed exist.

use std::ops::Range;

use super::backing_file::BackingFile;
use super::process::Process;
use crate::address::VmmVirtual;

/// The way to tell existing pages from absent ones.
#[derive(Debug)]
pub(crate) enum Residency {
    /// No way: every page is taken to exist.
    Unknown,
    /// By what is committed of a section.
    Committed,
}

impl Residency {
    /// The way for the file of a stored dump.
    pub(crate) const fn of_stored() -> Self {
        Self::Unknown
    }

    /// Whether the file tells, and reading what does not exist is harmless: never here.
    pub(crate) const fn is_by_file(&self) -> bool {
        false
    }

    /// Whether there is a way.
    pub(crate) const fn is_known(&self) -> bool {
        !matches!(self, Self::Unknown)
    }

    /// Chooses the way for a block.
    pub(crate) fn choose(_process: &Process, file: Option<&BackingFile>) -> Self {
        if file.is_some_and(BackingFile::is_reserved) {
            Self::Committed
        } else {
            Self::Unknown
        }
    }

    /// Whether the page at `offset` of the block exists; yes where that cannot be told.
    pub(crate) fn exists(
        &self,
        file: Option<&BackingFile>,
        file_offset: u64,
        start: VmmVirtual,
        offset: u64,
    ) -> bool {
        let mut found = false;
        let told = self.runs(file, file_offset, start, offset..offset + 1, &mut |_| {
            found = true;
            false
        });
        told.is_err() || found
    }

    /// Existing runs inside `range` (offsets into the block, whole pages), in order.
    /// `visit` gets each run and says whether to go on. The error is the system's code.
    pub(crate) fn runs(
        &self,
        file: Option<&BackingFile>,
        file_offset: u64,
        _start: VmmVirtual,
        range: Range<u64>,
        visit: &mut dyn FnMut(Range<u64>) -> bool,
    ) -> Result<(), i32> {
        match (self, file) {
            (Self::Committed, Some(file)) => {
                let of_file =
                    range.start.saturating_add(file_offset)..range.end.saturating_add(file_offset);
                file.committed_runs(of_file, &mut |run| {
                    visit(run.start - file_offset..run.end - file_offset)
                })
            }
            _ => {
                if !range.is_empty() {
                    visit(range);
                }
                Ok(())
            }
        }
    }
}
