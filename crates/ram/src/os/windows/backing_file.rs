//! The section behind a RAM block, by a copy of the VMM's own handle or, where that may not be
//! copied, by its name; and the file of a stored dump. What was opened is checked to be a
//! section of the right name: a handle that was closed may mean another object a moment later.
//! Sections are read through a view of the pages in question, which the system lets start at
//! multiples of 64 KiB alone, so that up to 60 KiB before them are mapped as well.
#![allow(
    unsafe_code,
    reason = "what is committed of a section is asked for by raw calls"
)]

use std::fs::File;
use std::ops::Range;
use std::os::windows::fs::FileExt;
use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, OwnedHandle};
use std::sync::{Arc, Mutex};

use vmshm_shm::{Fault, MapError, Mapping, PAGE_SIZE, Piece, Protection, SharedMemory};
use windows_sys::Win32::Foundation::{ERROR_HANDLE_EOF, ERROR_INVALID_ADDRESS};
use windows_sys::Win32::System::Memory::{
    FILE_MAP_READ, MEM_COMMIT, MEMORY_BASIC_INFORMATION, MEMORY_MAPPED_VIEW_ADDRESS, MapViewOfFile,
    UnmapViewOfFile, VirtualQuery,
};
use windows_sys::Win32::System::Threading::{
    PROCESS_DUP_HANDLE, PROCESS_QUERY_LIMITED_INFORMATION,
};

use super::handle::{last_error, open_process};
use super::process::Process;
use super::{code, named_section, section};
use crate::address::VmmVirtual;
use crate::mapping::FileIdentity;

/// Where views start, and how much is mapped at once for short reads.
const UNIT: u64 = 64 << 10;
/// Large pages of x86-64 Windows (`GetLargePageMinimum`).
const LARGE_PAGE: u64 = 2 << 20;
/// How much of a section is asked about at once.
const ASKED_AT_ONCE: u64 = 1 << 30;

/// The open section behind a RAM block, or the file of a dump.
#[derive(Debug)]
pub(crate) struct BackingFile {
    source: Source,
    /// Whether it was opened for writing, too.
    pub(crate) writable: bool,
    /// Whether it lies in large pages: views of it start and end at such.
    pub(crate) hugetlb: bool,
    identity: FileIdentity,
}

#[derive(Debug)]
enum Source {
    Section {
        handle: OwnedHandle,
        length: u64,
        is_reserved: bool,
        /// The view of the last short read.
        last: Mutex<Option<Arc<Window>>>,
    },
    Stored(File),
    /// Zeros, and a section for whoever wants a handle.
    Zeros(OwnedHandle),
}

/// A view of a part of a section.
#[derive(Debug)]
struct Window {
    start: u64,
    mapping: Mapping,
}

impl AsHandle for BackingFile {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        match &self.source {
            Source::Section { handle, .. } | Source::Zeros(handle) => handle.as_handle(),
            Source::Stored(file) => file.as_handle(),
        }
    }
}

impl BackingFile {
    /// Opens the section of which `process` holds a handle, for reading and writing where
    /// that is allowed, else for reading. The error is the code of the most telling refusal.
    pub(crate) fn open(
        process: &Process,
        identity: &FileIdentity,
        name: &str,
        _start: VmmVirtual,
        _end: VmmVirtual,
    ) -> Result<Self, i32> {
        let (pid, handle) = section::held_by(identity).ok_or(code::BAD_DESCRIPTOR)?;
        if pid != process.pid() {
            return Err(code::BAD_DESCRIPTOR);
        }
        let is_named = name.starts_with('\\');
        let copied = open_process(pid, PROCESS_DUP_HANDLE | PROCESS_QUERY_LIMITED_INFORMATION)
            .and_then(|process| section::copy(&process, handle));
        let (opened, writable) = match copied {
            Ok(copied) => copied,
            Err(refusal) if is_named => named_section::reopen(pid, name).map_err(|_| refusal)?,
            Err(refusal) => return Err(refusal),
        };
        let facts = section::facts(opened.as_handle())?;
        let is_it = if is_named {
            facts.name == name
        } else {
            facts.name.is_empty()
        };
        if !is_it || facts.is_image {
            return Err(code::BAD_DESCRIPTOR);
        }
        Ok(Self {
            source: Source::Section {
                handle: opened,
                length: facts.length,
                is_reserved: facts.is_reserved,
                last: Mutex::new(None),
            },
            writable,
            hugetlb: facts.is_large,
            identity: *identity,
        })
    }

    /// As [`open`](Self::open), for reading alone.
    pub(crate) fn open_to_read(
        process: &Process,
        identity: &FileIdentity,
        name: &str,
        start: VmmVirtual,
        end: VmmVirtual,
    ) -> Result<Self, i32> {
        let opened = Self::open(process, identity, name, start, end)?;
        Ok(Self {
            writable: false,
            ..opened
        })
    }

    /// Sections have no access mode that could be shown in three digits.
    pub(crate) fn mode(_process: &Process, _identity: &FileIdentity, _name: &str) -> Option<u32> {
        None
    }

    /// A file that is no VMM's: a stored dump, for reading only. The error is the
    /// system's code.
    pub(crate) fn stored(file: File) -> Result<Self, i32> {
        Ok(Self::of_own(Source::Stored(file), 1))
    }

    /// A file of so many zeros that needs no memory for them. The error is the system's
    /// code.
    pub(crate) fn zeros(_length: u64) -> Result<Self, i32> {
        Ok(Self::of_own(Source::Zeros(section::own_page()?), 2))
    }

    /// The two files of a dump are told apart by a number.
    fn of_own(source: Source, number: u64) -> Self {
        Self {
            source,
            writable: false,
            hugetlb: false,
            identity: FileIdentity {
                device: (0, 0),
                inode: number,
                offset: 0,
            },
        }
    }

    /// The section, for another process.
    pub(crate) fn as_file(&self) -> BorrowedHandle<'_> {
        self.as_handle()
    }

    /// There are no grafts, and none is taken away.
    pub(crate) const fn is_withdrawn(&self) -> bool {
        false
    }

    /// Which section it is.
    pub(crate) const fn identity(&self) -> FileIdentity {
        self.identity
    }

    /// The size of the pages in which it can be mapped. Views of small ones show any pages,
    /// whatever else the system maps with them.
    pub(crate) const fn page_size(&self) -> u64 {
        if self.hugetlb { LARGE_PAGE } else { PAGE_SIZE }
    }

    /// Whether pages of it may not be there.
    pub(crate) const fn is_reserved(&self) -> bool {
        matches!(
            self.source,
            Source::Section {
                is_reserved: true,
                ..
            }
        )
    }

    /// Fills `into` from `offset`. The error is the system's code.
    pub(crate) fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), i32> {
        match &self.source {
            Source::Section { length, last, .. } => self.read_section(*length, last, offset, into),
            Source::Stored(file) => {
                let mut done = 0;
                while done < into.len() {
                    match file.seek_read(&mut into[done..], offset + done as u64) {
                        Ok(0) => return Err(ERROR_HANDLE_EOF.cast_signed()),
                        Ok(count) => done += count,
                        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error.raw_os_error().unwrap_or(0)),
                    }
                }
                Ok(())
            }
            Source::Zeros(_) => {
                into.fill(0);
                Ok(())
            }
        }
    }

    fn read_section(
        &self,
        length: u64,
        last: &Mutex<Option<Arc<Window>>>,
        offset: u64,
        into: &mut [u8],
    ) -> Result<(), i32> {
        let end = end_of(offset, into.len(), length)?;
        if into.is_empty() {
            return Ok(());
        }
        let kept = last.lock().ok().and_then(|last| last.clone());
        let kept = kept.filter(|window| window.holds(offset, end));
        let window = if let Some(kept) = kept {
            kept
        } else {
            // What the system maps in any case may be shown, too; where not all of it is
            // there, only what was asked for.
            let wide = offset / UNIT * UNIT..end.next_multiple_of(UNIT).min(length);
            let window = match self.window(wide, Protection::Read) {
                Ok(window) => window,
                Err(_) => self.window(offset..end, Protection::Read)?,
            };
            let window = Arc::new(window);
            if let Ok(mut last) = last.lock() {
                *last = Some(Arc::clone(&window));
            }
            window
        };
        window
            .mapping
            .read(offset - window.start, into)
            .map_err(fault_code)
    }

    /// Writes `from` at `offset`. The error is the system's code.
    pub(crate) fn write_at(&self, offset: u64, from: &[u8]) -> Result<(), i32> {
        let Source::Section { length, .. } = &self.source else {
            return Err(code::BAD_DESCRIPTOR);
        };
        let end = end_of(offset, from.len(), *length)?;
        if from.is_empty() {
            return Ok(());
        }
        let window = self.window(offset..end, Protection::ReadWrite)?;
        window
            .mapping
            .write(offset - window.start, from)
            .map_err(fault_code)
    }

    /// A view of the pages of a range.
    fn window(&self, range: Range<u64>, protection: Protection) -> Result<Window, i32> {
        let page = self.page_size();
        let start = range.start / page * page;
        let piece = Piece {
            offset: start,
            length: range.end.next_multiple_of(page) - start,
        };
        let mapping = Mapping::new(self, &[piece], protection).map_err(|error| match error {
            MapError::System(error) => error.raw_os_error(),
            MapError::BadPiece { .. } => code::BAD_DESCRIPTOR,
        })?;
        Ok(Window { start, mapping })
    }

    /// The runs of a range of the section that are committed, in order, until `visit` says
    /// no. No page is touched. The error is the system's code.
    pub(crate) fn committed_runs(
        &self,
        range: Range<u64>,
        visit: &mut dyn FnMut(Range<u64>) -> bool,
    ) -> Result<(), i32> {
        let Source::Section { handle, length, .. } = &self.source else {
            return Err(code::BAD_DESCRIPTOR);
        };
        let end = range.end.min(*length);
        let mut at = range.start;
        let mut run: Option<Range<u64>> = None;
        while at < end {
            let first = at / UNIT * UNIT;
            let until = (first + ASKED_AT_ONCE).min(end);
            let view = View::new(handle.as_handle(), first, until)?;
            while at < until {
                let (is_committed, ahead) = view.state(at - first)?;
                let next = (at + ahead).min(until);
                if is_committed {
                    match &mut run {
                        Some(run) if run.end == at => run.end = next,
                        _ => {
                            if let Some(done) = run.replace(at..next)
                                && !visit(done)
                            {
                                return Ok(());
                            }
                        }
                    }
                }
                at = next;
            }
        }
        if let Some(done) = run {
            visit(done);
        }
        Ok(())
    }
}

impl Window {
    fn holds(&self, start: u64, end: u64) -> bool {
        self.start <= start && end <= self.start + self.mapping.size()
    }
}

/// The end of an access inside `length` bytes.
fn end_of(offset: u64, count: usize, length: u64) -> Result<u64, i32> {
    let end = offset.checked_add(count as u64);
    end.filter(|end| *end <= length)
        .ok_or(ERROR_HANDLE_EOF.cast_signed())
}

fn fault_code(fault: Fault) -> i32 {
    match fault {
        Fault::Unreachable { code } => code,
        _ => ERROR_INVALID_ADDRESS.cast_signed(),
    }
}

/// A view that is only asked about; unmapped on drop.
struct View {
    base: MEMORY_MAPPED_VIEW_ADDRESS,
    length: u64,
}

impl View {
    fn new(section: BorrowedHandle<'_>, start: u64, end: u64) -> Result<Self, i32> {
        let length = usize::try_from(end - start).map_err(|_| code::NO_MEMORY)?;
        let (high, low) = (start >> 32, start & u64::from(u32::MAX));
        // SAFETY: a new view at an address that the system chooses; the handle is borrowed.
        let base = unsafe {
            MapViewOfFile(
                section.as_raw_handle(),
                FILE_MAP_READ,
                u32::try_from(high).unwrap_or(u32::MAX),
                u32::try_from(low).unwrap_or(u32::MAX),
                length,
            )
        };
        if base.Value.is_null() {
            return Err(last_error());
        }
        Ok(Self {
            base,
            length: end - start,
        })
    }

    /// Whether the page at `offset` is committed, and how many bytes from there on are alike.
    fn state(&self, offset: u64) -> Result<(bool, u64), i32> {
        let inside = usize::try_from(offset).map_err(|_| code::NO_MEMORY)?;
        let mut information = MEMORY_BASIC_INFORMATION::default();
        let at = self.base.Value.wrapping_byte_add(inside);
        // SAFETY: the system writes no more than the size that it is given, and touches
        // nothing at the address.
        let written = unsafe {
            VirtualQuery(
                at.cast_const(),
                &raw mut information,
                size_of::<MEMORY_BASIC_INFORMATION>(),
            )
        };
        if written == 0 {
            return Err(last_error());
        }
        let end = (information.BaseAddress as u64).saturating_add(information.RegionSize as u64);
        let ahead = end.saturating_sub(at as u64).min(self.length - offset);
        if ahead == 0 {
            return Err(ERROR_INVALID_ADDRESS.cast_signed());
        }
        Ok((information.State == MEM_COMMIT, ahead))
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: the view is ours, and nobody else knows of it.
        let _ = unsafe { UnmapViewOfFile(self.base) };
    }
}
