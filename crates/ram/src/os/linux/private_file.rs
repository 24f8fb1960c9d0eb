//! What exists of memory that is a private mapping of a file: the pages that the VMM has,
//! and those that lie in the file alone, because the VMM has not touched them yet or the
//! system dropped them. Neither is brought into being.

use std::ops::Range;

use rustix::fd::AsFd;
use rustix::fs::{SeekFrom, fstat, seek};
use rustix::io::Errno;

use super::backing_file::BackingFile;
use super::residency::{FileRuns, Residency};
use crate::address::VmmVirtual;

/// How much of the mapping is asked about at once.
const WINDOW: u64 = 128 << 20;

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
        if self.residency.exists(None, 0, self.start, offset) {
            return true;
        }
        let at = self.file_offset.saturating_add(offset);
        !self.is_all_hole() && seek(self.file.as_fd(), SeekFrom::Data(at)) == Ok(at)
    }

    /// Existing runs inside `range`, as [`Residency::runs`] gives them.
    pub(crate) fn runs(
        &self,
        range: Range<u64>,
        visit: &mut dyn FnMut(Range<u64>) -> bool,
    ) -> Result<(), i32> {
        let of_file = if self.is_all_hole() {
            0..0
        } else {
            range.clone()
        };
        let mut of_file = FileRuns::new(self.file, self.file_offset, of_file);
        let mut next = || of_file.next_run().map_err(Errno::raw_os_error);
        let mut in_file = next()?;
        // A run may go on in the next window.
        let mut last: Option<Range<u64>> = None;
        let mut from = range.start;
        while from < range.end {
            let to = from.saturating_add(WINDOW).min(range.end);
            let mut runs = Vec::new();
            self.residency
                .runs(None, 0, self.start, from..to, &mut |run| {
                    runs.push(run);
                    true
                })?;
            while let Some(run) = in_file.take() {
                if run.start < to {
                    runs.push(run.start..run.end.min(to));
                }
                if run.end > to {
                    in_file = Some(run.start.max(to)..run.end);
                    break;
                }
                in_file = next()?;
            }
            runs.sort_unstable_by_key(|run| run.start);
            for run in runs {
                match &mut last {
                    Some(last) if run.start <= last.end => last.end = last.end.max(run.end),
                    _ => {
                        if let Some(done) = last.replace(run)
                            && !visit(done)
                        {
                            return Ok(());
                        }
                    }
                }
            }
            from = to;
        }
        if let Some(done) = last {
            visit(done);
        }
        Ok(())
    }

    /// A file of huge pages has no holes for the system, even where it has no page.
    fn is_all_hole(&self) -> bool {
        self.file.hugetlb && fstat(self.file.as_fd()).is_ok_and(|stat| stat.st_blocks == 0)
    }
}
