//! Views side by side in pages of 4 KiB, by placeholders.
//!
//! Source: Microsoft's pages on `VirtualAlloc2` and `MapViewOfFile3`: a placeholder is
//! reserved, split by `VirtualFree(MEM_RELEASE | MEM_PRESERVE_PLACEHOLDER)`, and each part
//! replaced by a view (`MEM_REPLACE_PLACEHOLDER`), for which the 64 KiB alignment of address
//! and offset is not required. Both functions are looked up at run time, so that the program
//! still starts where they are missing.

use core::ffi::{CStr, c_void};
use core::ptr::{self, NonNull};
use std::os::windows::io::{AsRawHandle, BorrowedHandle};
use std::sync::OnceLock;
use std::vec::Vec;

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleW, GetProcAddress};
use windows_sys::Win32::System::Memory::{
    MEM_PRESERVE_PLACEHOLDER, MEM_RELEASE, MEM_REPLACE_PLACEHOLDER, MEM_RESERVE,
    MEM_RESERVE_PLACEHOLDER, MEMORY_MAPPED_VIEW_ADDRESS, PAGE_NOACCESS, PAGE_READONLY,
    PAGE_READWRITE, VirtualFree,
};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

use super::error::SystemError;
use super::window::{check_present, unmap};
use super::{MapError, Piece, Protection};
use crate::word::{Span, shared_memory_over_span};

/// `VirtualAlloc2`: process, address, size, kind, protection, parameters, their number.
type Reserve = unsafe extern "system" fn(
    HANDLE,
    *const c_void,
    usize,
    u32,
    u32,
    *mut c_void,
    u32,
) -> *mut c_void;

/// `MapViewOfFile3`: section, process, address, offset, size, kind, protection, parameters,
/// their number.
type Map = unsafe extern "system" fn(
    HANDLE,
    HANDLE,
    *const c_void,
    u64,
    usize,
    u32,
    u32,
    *mut c_void,
    u32,
) -> MEMORY_MAPPED_VIEW_ADDRESS;

/// The two functions, where the system has them and they know placeholders.
#[derive(Debug, Clone, Copy)]
struct Functions {
    reserve: Reserve,
    map: Map,
}

/// Whether views can be laid side by side here.
pub(super) fn exist() -> bool {
    functions().is_some()
}

fn functions() -> Option<Functions> {
    static FOUND: OnceLock<Option<Functions>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let reserve = function(c"VirtualAlloc2")?;
        let map = function(c"MapViewOfFile3")?;
        let functions = Functions {
            // SAFETY: kernelbase's function of this name has this signature.
            reserve: unsafe { core::mem::transmute::<Address, Reserve>(reserve) },
            // SAFETY: as above.
            map: unsafe { core::mem::transmute::<Address, Map>(map) },
        };
        // Some systems have the functions and not what is asked of them.
        Reservation::new(functions, 64 << 10).ok()?;
        Some(functions)
    })
}

type Address = unsafe extern "system" fn() -> isize;

fn function(name: &CStr) -> Option<Address> {
    const LIBRARY: [u16; 15] = [
        107, 101, 114, 110, 101, 108, 98, 97, 115, 101, 46, 100, 108, 108, 0,
    ];
    // SAFETY: the name ends with a zero; kernelbase.dll is part of every process.
    let library = unsafe { GetModuleHandleW(LIBRARY.as_ptr()) };
    if library.is_null() {
        return None;
    }
    // SAFETY: the library stays loaded; the name ends with a zero.
    unsafe { GetProcAddress(library, name.as_ptr().cast()) }
}

/// The handle that stands for this process.
fn own_process() -> HANDLE {
    // SAFETY: a constant; nothing to close.
    unsafe { GetCurrentProcess() }
}

/// Addresses kept free; what no view has replaced goes back on drop.
#[derive(Debug)]
struct Reservation {
    base: NonNull<u8>,
    /// Where the placeholder that is left starts, and how long it is.
    next: usize,
    left: usize,
}

impl Reservation {
    fn new(functions: Functions, length: usize) -> Result<Self, MapError> {
        let process = own_process();
        // SAFETY: a fresh reservation at an address that the system chooses.
        let base = unsafe {
            (functions.reserve)(
                process,
                ptr::null(),
                length,
                MEM_RESERVE | MEM_RESERVE_PLACEHOLDER,
                PAGE_NOACCESS,
                ptr::null_mut(),
                0,
            )
        };
        let base = NonNull::new(base.cast::<u8>());
        Ok(Self {
            base: base.ok_or_else(|| MapError::System(SystemError::last()))?,
            next: 0,
            left: length,
        })
    }

    /// Cuts the first `length` bytes of what is left off as a placeholder of their own, and
    /// has `replace` put a view there.
    fn fill(
        &mut self,
        length: usize,
        replace: impl FnOnce(NonNull<u8>) -> Result<NonNull<u8>, MapError>,
    ) -> Result<NonNull<u8>, MapError> {
        // SAFETY: next < the reservation's length.
        let at = unsafe { self.base.add(self.next) };
        if length < self.left {
            let kind = MEM_RELEASE | MEM_PRESERVE_PLACEHOLDER;
            // SAFETY: the range is the start of our own placeholder, and nobody has it.
            if unsafe { VirtualFree(at.as_ptr().cast(), length, kind) } == 0 {
                return Err(MapError::System(SystemError::last()));
            }
        }
        let view = replace(at);
        if view.is_err() && length < self.left {
            // SAFETY: the placeholder was cut off above, and no view has replaced it.
            let _ = unsafe { VirtualFree(at.as_ptr().cast(), 0, MEM_RELEASE) };
        }
        if view.is_ok() || length < self.left {
            self.next += length;
            self.left -= length;
        }
        view
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.left > 0 {
            // SAFETY: next is inside the reservation while something is left of it.
            let at = unsafe { self.base.add(self.next) };
            // SAFETY: the placeholder is ours, and no view has replaced it.
            let _ = unsafe { VirtualFree(at.as_ptr().cast(), 0, MEM_RELEASE) };
        }
    }
}

/// Views side by side; all unmapped on drop.
#[derive(Debug)]
pub(super) struct Linear {
    span: Span,
    views: Vec<NonNull<u8>>,
}

impl Linear {
    /// Maps runs of a section side by side; nothing where the system cannot.
    pub(super) fn new(
        section: BorrowedHandle<'_>,
        runs: &[Piece],
        protection: Protection,
    ) -> Result<Option<Self>, MapError> {
        let Some(functions) = functions() else {
            return Ok(None);
        };
        let mut lengths = Vec::new();
        let mut total = 0_usize;
        for (index, run) in runs.iter().enumerate() {
            let bad = MapError::BadPiece { index };
            let length = usize::try_from(run.length).map_err(|_| bad)?;
            total = total.checked_add(length).ok_or(bad)?;
            lengths.push(length);
        }
        let mut reservation = Reservation::new(functions, total)?;
        let writable = protection == Protection::ReadWrite;
        // SAFETY: nothing is reached through the span before all views are there; until Drop
        // the addresses are ours: placeholders or views.
        let span = unsafe { Span::new(reservation.base, total, writable) };
        // From here on Drop gives the views back, and the reservation the rest.
        let mut linear = Self {
            span,
            views: Vec::new(),
        };
        let access = if writable {
            PAGE_READWRITE
        } else {
            PAGE_READONLY
        };
        for (run, length) in runs.iter().zip(lengths) {
            let process = own_process();
            let view = reservation.fill(length, |at| {
                // SAFETY: `fill` made a placeholder of exactly this range, which is ours.
                let view = unsafe {
                    (functions.map)(
                        section.as_raw_handle(),
                        process,
                        at.as_ptr().cast_const().cast(),
                        run.offset,
                        length,
                        MEM_REPLACE_PLACEHOLDER,
                        access,
                        ptr::null_mut(),
                        0,
                    )
                };
                NonNull::new(view.Value.cast::<u8>())
                    .ok_or_else(|| MapError::System(SystemError::last()))
            })?;
            linear.views.push(view);
            check_present(view, length)?;
        }
        Ok(Some(linear))
    }
}

impl Drop for Linear {
    fn drop(&mut self) {
        for view in &self.views {
            unmap(*view);
        }
    }
}

// SAFETY: all access goes through atomics or copies that allow concurrent writers.
unsafe impl Send for Linear {}
// SAFETY: as above.
unsafe impl Sync for Linear {}

shared_memory_over_span!(Linear);
