//! One view of a section that starts wherever the system lets it start, and shows only the
//! pages that were asked for.

use core::ffi::c_void;
use core::ptr::NonNull;
use std::os::windows::io::{AsRawHandle, BorrowedHandle};

use windows_sys::Win32::Foundation::ERROR_INVALID_ADDRESS;
use windows_sys::Win32::System::Memory::{
    FILE_MAP_READ, FILE_MAP_WRITE, MEM_COMMIT, MEMORY_BASIC_INFORMATION,
    MEMORY_MAPPED_VIEW_ADDRESS, MapViewOfFile, UnmapViewOfFile, VirtualQuery,
};

use super::error::SystemError;
use super::{GRANULARITY, MapError, Piece, Protection};
use crate::word::{Span, shared_memory_over_span};

/// A view with a run of pages in it; unmapped on drop.
#[derive(Debug)]
pub(super) struct Window {
    /// What can be reached.
    span: Span,
    /// Where the view starts: before that by up to 60 KiB.
    view: NonNull<u8>,
}

impl Window {
    pub(super) fn new(
        section: BorrowedHandle<'_>,
        run: Piece,
        protection: Protection,
    ) -> Result<Self, MapError> {
        let bad = MapError::BadPiece { index: 0 };
        let before = run.offset % GRANULARITY;
        let start = run.offset - before;
        let length = usize::try_from(run.length).map_err(|_| bad)?;
        let skipped = usize::try_from(before).map_err(|_| bad)?;
        let mapped = length.checked_add(skipped).ok_or(bad)?;
        let access = match protection {
            Protection::Read => FILE_MAP_READ,
            Protection::ReadWrite => FILE_MAP_READ | FILE_MAP_WRITE,
        };
        // SAFETY: a new view at an address that the system chooses; the handle is borrowed.
        let view = unsafe {
            MapViewOfFile(
                section.as_raw_handle(),
                access,
                high_half(start),
                low_half(start),
                mapped,
            )
        };
        let view = NonNull::new(view.Value.cast::<u8>())
            .ok_or_else(|| MapError::System(SystemError::last()))?;
        // SAFETY: skipped < mapped, so the address is inside the view.
        let base = unsafe { view.add(skipped) };
        // SAFETY: `length` bytes from there on are inside the view, which is ours until our
        // Drop; views start at pages.
        let span = unsafe { Span::new(base, length, protection == Protection::ReadWrite) };
        let window = Self { span, view };
        check_present(span.base(), length)?;
        Ok(window)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        unmap(self.view);
    }
}

// SAFETY: all access goes through atomics or copies that allow concurrent writers.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

shared_memory_over_span!(Window);

/// Gives a view back.
pub(super) fn unmap(view: NonNull<u8>) {
    let address = MEMORY_MAPPED_VIEW_ADDRESS {
        Value: view.as_ptr().cast::<c_void>(),
    };
    // SAFETY: the view belongs to the caller, who is dropping it.
    let _ = unsafe { UnmapViewOfFile(address) };
}

/// Refuses a range of which a page was only reserved: whoever touched it would be ended.
pub(super) fn check_present(base: NonNull<u8>, length: usize) -> Result<(), MapError> {
    let mut done = 0;
    while done < length {
        let mut information = MEMORY_BASIC_INFORMATION::default();
        // SAFETY: done < length, and the caller has `length` bytes mapped at `base`.
        let at = unsafe { base.add(done) };
        // SAFETY: the system writes no more than the size that it is given.
        let written = unsafe {
            VirtualQuery(
                at.as_ptr().cast_const().cast(),
                &raw mut information,
                size_of::<MEMORY_BASIC_INFORMATION>(),
            )
        };
        if written == 0 {
            return Err(MapError::System(SystemError::last()));
        }
        let region = information.BaseAddress as usize + information.RegionSize;
        let ahead = region.saturating_sub(at.as_ptr() as usize);
        if information.State != MEM_COMMIT || ahead == 0 {
            let code = SystemError::from_code(ERROR_INVALID_ADDRESS);
            return Err(MapError::System(code));
        }
        done += ahead;
    }
    Ok(())
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "the upper half of a number"
)]
const fn high_half(number: u64) -> u32 {
    (number >> 32) as u32
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "the lower half of a number"
)]
const fn low_half(number: u64) -> u32 {
    number as u32
}
