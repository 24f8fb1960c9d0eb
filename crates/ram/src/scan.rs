//! Finds a byte pattern in guest RAM: first where a huge page would start, then where
//! any page starts, then anywhere. Only pages that exist are looked at, and none is
//! brought into being. What is found is a candidate and no more: the pattern also lies
//! in stale copies.

use std::ops::{ControlFlow, Range};

use crate::address::BlockOffset;
use crate::guest_ram::{GuestRam, RamRead};
use crate::ram_error::RamError;

const PAGE: u64 = 4096;
const PAGE_SIZE: usize = 4096;
const HUGE_PAGE: u64 = 2 << 20;
/// The same, as iterators want it.
const HUGE_STEP: usize = 2 << 20;
/// How many places are looked at with one call.
const PLACES_AT_ONCE: usize = 1024;
/// How much is read at once where the pattern may be anywhere.
const BYTES_AT_ONCE: usize = 1 << 20;

/// Where a pattern may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Where a 2 MiB page starts, counted from the block's start and from its file's.
    HugePage,
    /// Where a 4 KiB page starts.
    Page,
    /// Anywhere.
    Byte,
}

/// What a scan did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScanStats {
    /// Places, or bytes where the pattern may start at any, that were looked at.
    pub looked_at: u64,
    /// How many of them had the pattern.
    pub found: u64,
    /// Whether the caller ended the scan.
    pub ended_early: bool,
}

/// What is told of each candidate, and the answer whether to go on.
pub type Sink<'a> = dyn FnMut(BlockOffset) -> ControlFlow<()> + 'a;

/// Bytes of guest RAM that were read one after the other.
#[derive(Debug)]
pub(crate) struct Buffer<'a> {
    /// Where in the block they start.
    pub(crate) start: u64,
    pub(crate) bytes: &'a [u8],
    /// How many of them, at the end, were not in the buffer before.
    pub(crate) fresh: usize,
}

/// What gets each buffer, and says whether to go on.
pub(crate) type BufferVisitor<'a> = dyn FnMut(&Buffer<'_>) -> ControlFlow<()> + 'a;

/// All matches, also those that overlap an earlier one.
fn overlapping<'a>(
    finder: &'a memchr::memmem::Finder<'_>,
    bytes: &'a [u8],
) -> impl Iterator<Item = usize> + 'a {
    let mut from = 0;
    std::iter::from_fn(move || {
        let found = from + finder.find(bytes.get(from..)?)?;
        from = found + 1;
        Some(found)
    })
}

impl GuestRam {
    /// Reports every place at which `pattern` is found to `sink`, block by block and in
    /// rising order. An empty pattern is found nowhere. Pages that vanish meanwhile are
    /// passed over.
    ///
    /// # Errors
    /// [`RamError::Gone`], or what kept a whole block from being looked at.
    pub fn scan(
        &self,
        pattern: &[u8],
        step: Step,
        sink: &mut Sink<'_>,
    ) -> Result<ScanStats, RamError> {
        let mut stats = ScanStats::default();
        if pattern.is_empty() {
            return Ok(stats);
        }
        let sizes: Vec<(u64, u64)> = self
            .blocks()
            .map(|block| (block.length, block.file_offset()))
            .collect();
        for (block, (length, file_offset)) in sizes.into_iter().enumerate() {
            if !self.is_reachable(block) {
                continue;
            }
            let flow = match step {
                Step::HugePage => {
                    self.scan_huge_pages(block, length, file_offset, pattern, sink, &mut stats)?
                }
                Step::Page => self.scan_pages(block, length, pattern, sink, &mut stats)?,
                Step::Byte => self.scan_bytes(block, length, pattern, sink, &mut stats)?,
            };
            if flow.is_break() {
                stats.ended_early = true;
                break;
            }
        }
        tracing::debug!(?step, ?stats, "scanned");
        Ok(stats)
    }

    /// Looks at the starts of pages from `from` on, as [`scan`](Self::scan) with
    /// [`Step::Page`] does, for as long as `go_on` says. It is asked after each MiB or
    /// so. Tells where to go on another time; nothing when the end was reached.
    ///
    /// # Errors
    /// As [`scan`](Self::scan).
    pub fn scan_some_pages(
        &self,
        pattern: &[u8],
        from: BlockOffset,
        go_on: &mut dyn FnMut() -> bool,
        sink: &mut dyn FnMut(BlockOffset),
    ) -> Result<Option<BlockOffset>, RamError> {
        let lengths: Vec<u64> = self.blocks().map(|block| block.length).collect();
        for (block, length) in lengths.into_iter().enumerate().skip(from.block) {
            let start = if block == from.block { from.offset } else { 0 };
            let start = start / PAGE * PAGE;
            if pattern.is_empty() || start >= length || !self.is_reachable(block) {
                continue;
            }
            let mut next = None;
            let flow = self.read_resident(block, start..length, 0, &mut |buffer| {
                for place in (0..buffer.bytes.len()).step_by(PAGE_SIZE) {
                    let there = buffer.bytes.get(place..place + pattern.len());
                    if there == Some(pattern) {
                        let offset = buffer.start + place as u64;
                        sink(BlockOffset { block, offset });
                    }
                }
                if go_on() {
                    return ControlFlow::Continue(());
                }
                let offset = buffer.start + buffer.bytes.len() as u64;
                next = Some(BlockOffset { block, offset });
                ControlFlow::Break(())
            })?;
            if flow.is_break() {
                return Ok(next);
            }
        }
        Ok(None)
    }

    fn scan_huge_pages(
        &self,
        block: usize,
        length: u64,
        file_offset: u64,
        pattern: &[u8],
        sink: &mut Sink<'_>,
        stats: &mut ScanStats,
    ) -> Result<ControlFlow<()>, RamError> {
        let shift = file_offset.next_multiple_of(HUGE_PAGE) - file_offset;
        let mut places: Vec<u64> = (0..length).step_by(HUGE_STEP).collect();
        if shift != 0 {
            places.extend((shift..length).step_by(HUGE_STEP));
            places.sort_unstable();
        }
        let existing = self.existing(block, places);
        for batch in existing.chunks(PLACES_AT_ONCE) {
            if self
                .look_at(block, length, batch, pattern, sink, stats)?
                .is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn scan_pages(
        &self,
        block: usize,
        length: u64,
        pattern: &[u8],
        sink: &mut Sink<'_>,
        stats: &mut ScanStats,
    ) -> Result<ControlFlow<()>, RamError> {
        // Reading whole pages costs less than a call for the start of each. A pattern
        // longer than a page starts in what is kept of the buffer before.
        let overlap = pattern.len().saturating_sub(1).next_multiple_of(PAGE_SIZE);
        self.read_resident(block, 0..length, overlap, &mut |buffer| {
            stats.looked_at += buffer.fresh as u64 / PAGE;
            let seen = buffer.bytes.len() - buffer.fresh;
            for start in (0..buffer.bytes.len()).step_by(PAGE_SIZE) {
                let Some(found) = buffer.bytes.get(start..start + pattern.len()) else {
                    break;
                };
                // What ended within the bytes seen before was reported then.
                if found != pattern || start + pattern.len() <= seen {
                    continue;
                }
                stats.found += 1;
                let offset = buffer.start + start as u64;
                if sink(BlockOffset { block, offset }).is_break() {
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })
    }

    /// Compares the bytes at `places` with the pattern.
    fn look_at(
        &self,
        block: usize,
        length: u64,
        places: &[u64],
        pattern: &[u8],
        sink: &mut Sink<'_>,
        stats: &mut ScanStats,
    ) -> Result<ControlFlow<()>, RamError> {
        let room = pattern.len() as u64;
        let fitting: Vec<u64> = places
            .iter()
            .copied()
            .filter(|place| length - place >= room)
            .collect();
        let mut bytes = vec![0_u8; fitting.len() * pattern.len()];
        let mut reads: Vec<RamRead<'_>> = bytes
            .chunks_exact_mut(pattern.len())
            .zip(&fitting)
            .map(|(into, &offset)| RamRead {
                at: BlockOffset { block, offset },
                into,
            })
            .collect();
        let mut unread = vec![false; fitting.len()];
        self.read_many(&mut reads, &mut |index, _| unread[index] = true)?;
        stats.looked_at += fitting.len() as u64;
        for ((found, &offset), unread) in
            bytes.chunks_exact(pattern.len()).zip(&fitting).zip(unread)
        {
            if !unread && found == pattern {
                stats.found += 1;
                if sink(BlockOffset { block, offset }).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn scan_bytes(
        &self,
        block: usize,
        length: u64,
        pattern: &[u8],
        sink: &mut Sink<'_>,
        stats: &mut ScanStats,
    ) -> Result<ControlFlow<()>, RamError> {
        let finder = memchr::memmem::Finder::new(pattern);
        self.read_resident(block, 0..length, pattern.len() - 1, &mut |buffer| {
            stats.looked_at += buffer.fresh as u64;
            for found in overlapping(&finder, buffer.bytes) {
                stats.found += 1;
                let offset = buffer.start + found as u64;
                if sink(BlockOffset { block, offset }).is_break() {
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })
    }

    /// Reads all existing pages of a block, a buffer at a time. Up to `overlap` bytes of
    /// what came directly before are repeated at the front of each buffer, so that
    /// nothing is missed where two buffers meet.
    pub(crate) fn read_resident(
        &self,
        block: usize,
        range: Range<u64>,
        overlap: usize,
        visit: &mut BufferVisitor<'_>,
    ) -> Result<ControlFlow<()>, RamError> {
        let mut buffer = vec![0_u8; overlap + BYTES_AT_ONCE];
        // How many bytes at the front belong directly before the next read, and where
        // that would have to start.
        let mut kept = 0_usize;
        let mut expected = u64::MAX;
        let mut result = Ok(ControlFlow::Continue(()));
        self.resident_runs(block, range, &mut |run| {
            let mut offset = run.start;
            while offset < run.end {
                if offset != expected {
                    kept = 0;
                }
                let left = usize::try_from(run.end - offset).unwrap_or(usize::MAX);
                let count = left.min(BYTES_AT_ONCE);
                let filled = kept + count;
                let at = BlockOffset { block, offset };
                match self.read_at(at, &mut buffer[kept..filled]) {
                    Ok(()) => {}
                    Err(RamError::Gone) => {
                        result = Err(RamError::Gone);
                        return false;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "pages vanished while they were read");
                        kept = 0;
                        offset += count as u64;
                        continue;
                    }
                }
                let current = Buffer {
                    start: offset - kept as u64,
                    bytes: &buffer[..filled],
                    fresh: count,
                };
                if visit(&current).is_break() {
                    result = Ok(ControlFlow::Break(()));
                    return false;
                }
                let keep = overlap.min(filled);
                buffer.copy_within(filled - keep..filled, 0);
                kept = keep;
                offset += count as u64;
                expected = offset;
            }
            true
        })?;
        result
    }
}

#[cfg(all(test, target_os = "linux"))]
#[path = "scan_tests.rs"]
mod tests;
