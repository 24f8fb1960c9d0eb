//! One RAM block and the means to reach it: its file, and the way to tell which of its
//! pages exist. It checks no bounds; whoever asks has.

use std::ops::Range;
use std::sync::Arc;

use vmshm_shm::{MapError, PAGE_SIZE, Protection, SharedMemory};

use crate::address::{BlockOffset, VmmVirtual};
use crate::block::{Backing, RamBlock};
use crate::graft_runs::{OpenGraft, cut as cut_at_grafts};
use crate::os::{BackingFile, Liveness, PrivateFile, ProcessMemory, Residency, code};
use crate::view::View;

/// A block and the means to reach it.
#[derive(Debug)]
pub(crate) struct OpenBlock {
    pub(crate) block: RamBlock,
    pub(crate) file: Option<Arc<BackingFile>>,
    /// The file below a private mapping, which holds what the VMM has not touched.
    pub(crate) origin: Option<Arc<BackingFile>>,
    pub(crate) residency: Residency,
    /// Where the file does not have the guest's memory, as it was when the block was opened.
    pub(crate) grafts: Vec<OpenGraft>,
}

impl OpenBlock {
    /// Whether it can be reached through its file alone: where the VMM has it is not known.
    pub(crate) fn has_no_place(&self) -> bool {
        self.block.backing == Backing::Section
    }

    /// Where the VMM has a place of this block.
    pub(crate) fn address(&self, at: BlockOffset) -> VmmVirtual {
        VmmVirtual(self.block.start.0 + at.offset)
    }

    /// Calls `visit` with each part of a run of a block that has a file: the file that holds it, where it
    /// starts there, and the part as a range of the run. The error is the system's code.
    pub(crate) fn in_files(
        &self,
        file: &BackingFile,
        at: u64,
        length: usize,
        mut visit: impl FnMut(&BackingFile, u64, Range<usize>) -> Result<(), i32>,
    ) -> Result<(), i32> {
        if self.grafts.is_empty() {
            return visit(file, self.block.file_offset() + at, 0..length);
        }
        for (part, graft) in cut_at_grafts(&self.grafts, at..at + length as u64) {
            let place =
                |offset: u64| usize::try_from(offset - at).map_err(|_| code::BAD_DESCRIPTOR);
            let range = place(part.start)?..place(part.end)?;
            match graft {
                Some(graft) => {
                    let into = part.start - graft.range.start;
                    visit(&graft.file, graft.file_offset + into, range)?;
                }
                None => visit(file, self.block.file_offset() + part.start, range)?,
            }
        }
        Ok(())
    }

    fn private_file(&self) -> Option<PrivateFile<'_>> {
        self.origin.as_deref().map(|file| PrivateFile {
            residency: &self.residency,
            start: self.block.start,
            file,
            file_offset: self.block.file_offset(),
        })
    }

    /// Existing runs inside `range`, of whole pages and in order, until `visit` says no.
    /// The error is the system's code.
    pub(crate) fn runs(
        &self,
        range: Range<u64>,
        visit: &mut dyn FnMut(Range<u64>) -> bool,
    ) -> Result<(), i32> {
        if let Some(private) = self.private_file() {
            return private.runs(range, visit);
        }
        let (file, offset) = (self.file.as_deref(), self.block.file_offset());
        self.residency
            .runs(file, offset, self.block.start, range, visit)
    }

    /// Whether the page at `offset` exists; yes where that cannot be told.
    pub(crate) fn exists(&self, offset: u64) -> bool {
        if let Some(private) = self.private_file() {
            return private.exists(offset);
        }
        let (file, file_offset) = (self.file.as_deref(), self.block.file_offset());
        self.residency
            .exists(file, file_offset, self.block.start, offset)
    }

    /// Fills `into` from the VMM's memory. Where the block is a private mapping of a file,
    /// pages that the VMM does not have are read from the file: reading them from the VMM
    /// would bring them into being. The error is the system's code.
    pub(crate) fn read_from(
        &self,
        memory: &ProcessMemory,
        liveness: &Liveness,
        at: BlockOffset,
        into: &mut [u8],
    ) -> Result<(), i32> {
        let Some(origin) = &self.origin else {
            return memory.read_whole(liveness, self.address(at), into);
        };
        let run = at.offset..at.offset.saturating_add(into.len() as u64);
        let parts = cut_at_grafts(&self.grafts, run);
        if parts.iter().any(|(_, graft)| graft.is_some()) {
            let mut rest = into;
            for (part, graft) in parts {
                let (here, after) = cut(rest, part.end - part.start)?;
                let at = BlockOffset {
                    offset: part.start,
                    ..at
                };
                match graft {
                    Some(graft) => {
                        let into = part.start - graft.range.start;
                        graft.file.read_at(graft.file_offset + into, here)?;
                    }
                    None => self.read_from(memory, liveness, at, here)?,
                }
                rest = after;
            }
            return Ok(());
        }
        let end = at.offset + into.len() as u64;
        let pages = at.offset / PAGE_SIZE * PAGE_SIZE..end.next_multiple_of(PAGE_SIZE);
        let mut existing = Vec::new();
        self.residency
            .runs(None, 0, self.block.start, pages, &mut |run| {
                existing.push(run.start.max(at.offset)..run.end.min(end));
                true
            })?;
        // The end stands for a last run, so that what is before it is read, too.
        existing.push(end..end);
        let mut rest = into;
        let mut from = at.offset;
        for run in existing {
            let (absent, after) = cut(rest, run.start - from)?;
            let (present, later) = cut(after, run.end - run.start)?;
            if !absent.is_empty() {
                origin.read_at(self.block.file_offset() + from, absent)?;
            }
            if !present.is_empty() {
                let at = BlockOffset {
                    offset: run.start,
                    ..at
                };
                memory.read_whole(liveness, self.address(at), present)?;
            }
            (rest, from) = (later, run.end);
        }
        Ok(())
    }
}

/// The next so many of some bytes, and the rest.
fn cut(bytes: &mut [u8], length: u64) -> Result<(&mut [u8], &mut [u8]), i32> {
    let length = usize::try_from(length).map_err(|_| code::BAD_DESCRIPTOR)?;
    bytes
        .split_at_mut_checked(length)
        .ok_or(code::BAD_DESCRIPTOR)
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
