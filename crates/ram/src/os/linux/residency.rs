//! Tells which pages of a RAM block exist, without bringing any into being: by the
//! file's holes where the block has a file, else by the VMM's page table.

use std::ops::Range;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, SeekFrom, open, seek};
use rustix::io::{Errno, pread};

use super::backing_file::BackingFile;
use super::process::Process;
use crate::address::VmmVirtual;

const PAGE: u64 = 4096;
/// Page-table entries that are read at once: 128 MiB of memory.
const ENTRIES_AT_ONCE: u64 = 32768;
/// The page is in memory.
const PRESENT: u64 = 1 << 63;
/// The page is in swap.
const SWAPPED: u64 = 1 << 62;

/// The way to tell existing pages from absent ones.
#[derive(Debug)]
pub(crate) enum Residency {
    /// By `SEEK_DATA` and `SEEK_HOLE`.
    FileHoles,
    /// By `/proc/PID/pagemap`.
    PageTable(OwnedFd),
    /// No way: every page is taken to exist.
    Unknown,
}

impl Residency {
    /// The way for the file of a stored dump.
    pub(crate) const fn of_stored() -> Self {
        Self::FileHoles
    }

    /// Whether the file tells: where a run of existing pages ends is found only by walking to
    /// its end, and reading a hole is cheaper than asking, and harmless.
    pub(crate) const fn is_by_file(&self) -> bool {
        matches!(self, Self::FileHoles)
    }

    /// Whether there is a way.
    pub(crate) const fn is_known(&self) -> bool {
        !matches!(self, Self::Unknown)
    }

    /// Chooses the way for a block.
    pub(crate) fn choose(process: &Process, file: Option<&BackingFile>) -> Self {
        if file.is_some_and(|file| !file.hugetlb) {
            return Self::FileHoles;
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
        match open(process.path("pagemap"), flags, Mode::empty()) {
            Ok(descriptor) => Self::PageTable(descriptor),
            Err(error) => {
                tracing::debug!(pid = process.pid(), %error, "pagemap cannot be read");
                Self::Unknown
            }
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
        match (self, file) {
            (Self::FileHoles, Some(file)) => {
                let at = file_offset.saturating_add(offset);
                seek(file.as_fd(), SeekFrom::Data(at)) == Ok(at)
            }
            (Self::PageTable(pagemap), _) => {
                let mut entry = [0_u8; 8];
                let at = start.0.saturating_add(offset) / PAGE * 8;
                let known = pread(pagemap, &mut entry, at) == Ok(entry.len());
                !known || u64::from_ne_bytes(entry) & (PRESENT | SWAPPED) != 0
            }
            _ => true,
        }
    }

    /// Existing runs inside `range` (offsets into the block, whole pages), in order.
    /// `file_offset` and `start` say where the block begins in its file and in the VMM.
    /// `visit` gets each run and says whether to go on.
    ///
    /// The error is the system's code.
    pub(crate) fn runs(
        &self,
        file: Option<&BackingFile>,
        file_offset: u64,
        start: VmmVirtual,
        range: Range<u64>,
        visit: &mut dyn FnMut(Range<u64>) -> bool,
    ) -> Result<(), i32> {
        match (self, file) {
            (Self::FileHoles, Some(file)) => file_runs(file, file_offset, range, visit),
            (Self::PageTable(pagemap), _) => page_table_runs(pagemap, start, range, visit),
            _ => {
                if !range.is_empty() {
                    visit(range);
                }
                Ok(())
            }
        }
        .map_err(Errno::raw_os_error)
    }
}

fn file_runs(
    file: &BackingFile,
    file_offset: u64,
    range: Range<u64>,
    visit: &mut dyn FnMut(Range<u64>) -> bool,
) -> Result<(), Errno> {
    let mut runs = FileRuns::new(file, file_offset, range);
    while let Some(run) = runs.next_run()? {
        if !visit(run) {
            break;
        }
    }
    Ok(())
}

/// The runs of a file that are no holes, one after the other: asking where a run ends
/// walks through it, so each is asked about once.
#[derive(Debug)]
pub(crate) struct FileRuns<'a> {
    file: &'a BackingFile,
    file_offset: u64,
    /// Where in the file to go on.
    at: u64,
    /// What is left of the block's range: a dump's ranges may start anywhere in its file,
    /// runs are whole pages of the block.
    range: Range<u64>,
}

impl<'a> FileRuns<'a> {
    /// Those of a block's `range`; the block begins at `file_offset`.
    pub(crate) fn new(file: &'a BackingFile, file_offset: u64, range: Range<u64>) -> Self {
        Self {
            file,
            file_offset,
            at: file_offset.saturating_add(range.start),
            range,
        }
    }

    /// The next run, as offsets into the block. The error is the system's.
    pub(crate) fn next_run(&mut self) -> Result<Option<Range<u64>>, Errno> {
        let end = self.file_offset.saturating_add(self.range.end);
        while self.at < end {
            let data = match seek(self.file.as_fd(), SeekFrom::Data(self.at)) {
                Ok(data) if data < end => data,
                // No data from here on, or the file ends before this.
                Ok(_) | Err(Errno::NXIO) => break,
                Err(error) => return Err(error),
            };
            let hole = match seek(self.file.as_fd(), SeekFrom::Hole(data)) {
                Ok(hole) => hole.min(end),
                Err(Errno::NXIO) => break,
                Err(error) => return Err(error),
            };
            if hole <= data {
                // The file changed in between; go on behind this page.
                self.at = data.saturating_add(PAGE);
                continue;
            }
            self.at = hole;
            let first = (data - self.file_offset) / PAGE * PAGE;
            let last = (hole - self.file_offset).next_multiple_of(PAGE);
            let run = first.max(self.range.start)..last.min(self.range.end);
            self.range.start = run.end.max(self.range.start);
            if !run.is_empty() {
                return Ok(Some(run));
            }
        }
        self.at = end;
        Ok(None)
    }
}

fn page_table_runs(
    pagemap: &OwnedFd,
    start: VmmVirtual,
    range: Range<u64>,
    visit: &mut dyn FnMut(Range<u64>) -> bool,
) -> Result<(), Errno> {
    let first = range.start / PAGE;
    let last = range.end.div_ceil(PAGE);
    let base = start.0 / PAGE;
    let mut buffer = vec![0_u8; buffer_length((last - first).min(ENTRIES_AT_ONCE))];
    let mut run: Option<Range<u64>> = None;
    let mut page = first;
    while page < last {
        let count = (last - page).min(ENTRIES_AT_ONCE);
        let wanted = &mut buffer[..buffer_length(count)];
        let got = match pread(pagemap, &mut *wanted, (base + page) * 8) {
            Ok(0) => break,
            Ok(got) => got,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error),
        };
        for entry in wanted[..got].chunks_exact(8) {
            let bits = entry
                .first_chunk()
                .map_or(0, |bytes| u64::from_ne_bytes(*bytes));
            if bits & (PRESENT | SWAPPED) == 0 {
                if let Some(done) = run.take()
                    && !visit(done.start * PAGE..done.end * PAGE)
                {
                    return Ok(());
                }
            } else if let Some(run) = &mut run {
                run.end = page + 1;
            } else {
                run = Some(page..page + 1);
            }
            page += 1;
        }
        if got < 8 {
            break;
        }
    }
    if let Some(done) = run {
        visit(done.start * PAGE..done.end * PAGE);
    }
    Ok(())
}

fn buffer_length(entries: u64) -> usize {
    usize::try_from(entries * 8).unwrap_or(0)
}
