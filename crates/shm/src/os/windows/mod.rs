//! Windows mappings: pieces of a section laid out as one memory.
//!
//! Views are mapped at multiples of 64 KiB, the allocation granularity. Placeholders
//! (`VirtualAlloc2` and `MapViewOfFile3`, Windows 10 1803 and later) lift that, so that
//! pieces of 4 KiB lie side by side as one linear memory. Where they do not exist
//! (older systems, Wine before 8.11) each run of pages gets a window of its own that
//! starts at the multiple of 64 KiB before it: up to 60 KiB more is mapped than was asked
//! for, none of it can be reached, and each access first looks for its window (a binary
//! search, some nanoseconds for thousands of windows).
//!
//! A section never shrinks while a view of it exists, so there is nothing like SIGBUS;
//! pages that were only reserved (`SEC_RESERVE`) would fault, and are refused.

mod error;
mod placeholders;
mod window;

use std::os::windows::io::AsHandle;
use std::vec::Vec;

pub use error::SystemError;

use super::pieces::{MapError, PAGE_SIZE, Piece, Protection, total_length};
use crate::{Fault, SharedMemory};
use placeholders::Linear;
use window::Window;

/// The multiple at which views start without placeholders (`dwAllocationGranularity` of
/// `SYSTEM_INFO`; 64 KiB on every Windows so far).
const GRANULARITY: u64 = 64 << 10;

/// Whether this system lays views side by side in pages of 4 KiB. Where it does not, a
/// mapping of scattered pieces consists of windows.
#[must_use]
pub fn lays_views_side_by_side() -> bool {
    placeholders::exist()
}

/// Pieces of a section, one after the other as one memory; unmapped on drop.
///
/// The bytes belong to whoever else has views of the section.
#[derive(Debug)]
pub struct Mapping {
    reach: Reach,
    size: u64,
}

#[derive(Debug)]
enum Reach {
    Linear(Linear),
    One(Window),
    /// Windows in rising order of where they start in the memory.
    Windows(Vec<(u64, Window)>),
}

impl Mapping {
    /// Maps `pieces` of the section `file` in their order as one memory.
    ///
    /// # Errors
    /// [`MapError`]; nothing stays mapped then.
    pub fn new(
        file: impl AsHandle,
        pieces: &[Piece],
        protection: Protection,
    ) -> Result<Self, MapError> {
        let size = total_length(pieces)? as u64;
        let runs = merged(pieces);
        let section = file.as_handle();
        let reach = if let [run] = runs[..] {
            Reach::One(Window::new(section, run, protection)?)
        } else if let Some(linear) = Linear::new(section, &runs, protection)? {
            Reach::Linear(linear)
        } else {
            let mut windows = Vec::new();
            let mut start = 0;
            for run in runs {
                windows.push((start, Window::new(section, run, protection)?));
                start += run.length;
            }
            Reach::Windows(windows)
        };
        Ok(Self { reach, size })
    }

    /// Maps the first `length` bytes of the section `file`.
    ///
    /// # Errors
    /// As [`Mapping::new`].
    pub fn whole(
        file: impl AsHandle,
        length: u64,
        protection: Protection,
    ) -> Result<Self, MapError> {
        Self::new(file, &[Piece { offset: 0, length }], protection)
    }

    /// As [`whole`](Self::whole): views of sections of large pages (`unit` bytes) need no
    /// more than what is asked for to be mapped.
    ///
    /// # Errors
    /// As [`Mapping::new`].
    pub fn start(
        file: impl AsHandle,
        length: u64,
        unit: u64,
        protection: Protection,
    ) -> Result<Self, MapError> {
        let _ = unit;
        Self::whole(file, length, protection)
    }

    /// Makes every page present in this process now, so that no later access waits for it;
    /// changes no byte.
    ///
    /// # Errors
    /// [`MapError::System`] when the memory cannot be used any more.
    pub fn populate(&mut self) -> Result<(), MapError> {
        for page in 0..self.size / PAGE_SIZE {
            // Inside, so that nothing can fail.
            let _ = self.load_relaxed(page * PAGE_SIZE);
        }
        Ok(())
    }

    /// The window in which `offset` lies, or the last one, and where that starts.
    fn window(windows: &[(u64, Window)], offset: u64) -> Option<(u64, &Window)> {
        let index = windows
            .partition_point(|(start, _)| *start <= offset)
            .checked_sub(1)?;
        let (start, window) = windows.get(index)?;
        Some((*start, window))
    }

    /// Calls `word` for the window that has the word at `offset`, with its place in there.
    fn at_word<T>(
        &self,
        windows: &[(u64, Window)],
        offset: u64,
        word: impl FnOnce(&Window, u64) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        match Self::window(windows, offset) {
            Some((start, window)) => {
                word(window, offset - start).map_err(|fault| self.of_all(fault, offset))
            }
            None => Err(self.beyond(offset, 8)),
        }
    }

    /// Calls `copy` for each window that `offset..offset + length` runs through.
    fn at_windows(
        &self,
        windows: &[(u64, Window)],
        offset: u64,
        length: usize,
        mut copy: impl FnMut(&Window, u64, core::ops::Range<usize>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let end = offset.checked_add(length as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(self.beyond(offset, length as u64));
        }
        let mut done = 0;
        while done < length {
            let at = offset + done as u64;
            let Some((start, window)) = Self::window(windows, at) else {
                return Err(self.beyond(offset, length as u64));
            };
            let left = usize::try_from(window.size() - (at - start)).unwrap_or(usize::MAX);
            let count = left.min(length - done);
            copy(window, at - start, done..done + count)?;
            done += count;
        }
        Ok(())
    }

    const fn beyond(&self, offset: u64, length: u64) -> Fault {
        Fault::OutOfBounds {
            offset,
            length,
            size: self.size,
        }
    }

    /// A fault of a word in a window as one of the whole memory.
    const fn of_all(&self, fault: Fault, offset: u64) -> Fault {
        match fault {
            Fault::OutOfBounds { .. } => self.beyond(offset, 8),
            Fault::Misaligned { .. } => Fault::Misaligned { offset },
            other => other,
        }
    }
}

impl SharedMemory for Mapping {
    #[inline]
    fn size(&self) -> u64 {
        self.size
    }

    #[inline]
    fn load_relaxed(&self, offset: u64) -> Result<u64, Fault> {
        match &self.reach {
            Reach::Linear(linear) => linear.load_relaxed(offset),
            Reach::One(window) => window.load_relaxed(offset),
            Reach::Windows(windows) => {
                self.at_word(windows, offset, |memory, at| memory.load_relaxed(at))
            }
        }
    }

    #[inline]
    fn load_acquire(&self, offset: u64) -> Result<u64, Fault> {
        match &self.reach {
            Reach::Linear(linear) => linear.load_acquire(offset),
            Reach::One(window) => window.load_acquire(offset),
            Reach::Windows(windows) => {
                self.at_word(windows, offset, |memory, at| memory.load_acquire(at))
            }
        }
    }

    #[inline]
    fn store_relaxed(&self, offset: u64, value: u64) -> Result<(), Fault> {
        match &self.reach {
            Reach::Linear(linear) => linear.store_relaxed(offset, value),
            Reach::One(window) => window.store_relaxed(offset, value),
            Reach::Windows(windows) => self.at_word(windows, offset, |memory, at| {
                memory.store_relaxed(at, value)
            }),
        }
    }

    #[inline]
    fn store_release(&self, offset: u64, value: u64) -> Result<(), Fault> {
        match &self.reach {
            Reach::Linear(linear) => linear.store_release(offset, value),
            Reach::One(window) => window.store_release(offset, value),
            Reach::Windows(windows) => self.at_word(windows, offset, |memory, at| {
                memory.store_release(at, value)
            }),
        }
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        match &self.reach {
            Reach::Linear(linear) => linear.read(offset, into),
            Reach::One(window) => window.read(offset, into),
            Reach::Windows(windows) => {
                self.at_windows(windows, offset, into.len(), |window, at, range| {
                    window.read(at, &mut into[range])
                })
            }
        }
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<(), Fault> {
        match &self.reach {
            Reach::Linear(linear) => linear.write(offset, from),
            Reach::One(window) => window.write(offset, from),
            Reach::Windows(windows) => {
                self.at_windows(windows, offset, from.len(), |window, at, range| {
                    window.write(at, &from[range])
                })
            }
        }
    }

    #[inline]
    fn prefetch(&self, offset: u64, length: u64) {
        match &self.reach {
            Reach::Linear(linear) => linear.prefetch(offset, length),
            Reach::One(window) => window.prefetch(offset, length),
            Reach::Windows(windows) => {
                if let Some((start, window)) = Self::window(windows, offset) {
                    window.prefetch(offset - start, length.min(window.size() - (offset - start)));
                }
            }
        }
    }

    #[inline]
    fn prefetch_to_write(&self, offset: u64) {
        match &self.reach {
            Reach::Linear(linear) => linear.prefetch_to_write(offset),
            Reach::One(window) => window.prefetch_to_write(offset),
            Reach::Windows(windows) => {
                if let Some((start, window)) = Self::window(windows, offset) {
                    window.prefetch_to_write(offset - start);
                }
            }
        }
    }
}

/// Neighbours in the section that are neighbours in the memory as well become one run.
fn merged(pieces: &[Piece]) -> Vec<Piece> {
    let mut runs: Vec<Piece> = Vec::new();
    for piece in pieces {
        match runs.last_mut() {
            Some(run) if run.offset + run.length == piece.offset => run.length += piece.length,
            _ => runs.push(*piece),
        }
    }
    runs
}
