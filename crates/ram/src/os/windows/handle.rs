//! Handles that are closed when they are dropped, and processes opened with no more rights
//! than are asked for.
#![allow(
    unsafe_code,
    reason = "the system's handles are opened and copied by raw calls"
)]

use std::io;
use std::os::windows::io::{AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle};
use std::ptr;

use windows_sys::Win32::Foundation::{
    DuplicateHandle, ERROR_INVALID_PARAMETER, HANDLE, INVALID_HANDLE_VALUE, RtlNtStatusToDosError,
    WAIT_TIMEOUT,
};
use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleW, GetProcAddress};
use windows_sys::Win32::System::Threading::{
    GetCurrentProcess, OpenProcess, PROCESS_SYNCHRONIZE, WaitForSingleObject,
};

use super::unicode_string::wide;
use super::{code, privileges};
use crate::os::facts::ProcessError;

/// The code of this thread's last call that failed.
pub(super) fn last_error() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// A native call's status as one of the codes that everything else uses; nothing where it
/// succeeded.
pub(super) fn failure(status: i32) -> Option<i32> {
    // SAFETY: any number may be asked about.
    (status < 0).then(|| unsafe { RtlNtStatusToDosError(status) }.cast_signed())
}

/// Takes over what a call gave, which is no handle where it failed.
pub(super) fn owned(handle: HANDLE) -> Result<OwnedHandle, i32> {
    if handle.is_null() || handle == INVALID_HANDLE_VALUE {
        return Err(last_error());
    }
    // SAFETY: the handle was opened for the caller just now, and nobody else closes it.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

/// The handle that stands for this process; nothing to close.
pub(super) fn own_process() -> HANDLE {
    // SAFETY: a constant.
    unsafe { GetCurrentProcess() }
}

/// Opens a process with these rights (`PROCESS_…`), and the right to notice its end. Where
/// that is denied the privilege to look at others' processes is made use of, if it is there.
/// The error is the system's code; [`code::NO_PROCESS`] where there is none, or it has ended.
pub(super) fn open_process(pid: u32, rights: u32) -> Result<OwnedHandle, i32> {
    let open = || {
        // SAFETY: opens a new handle or none.
        owned(unsafe { OpenProcess(rights | PROCESS_SYNCHRONIZE, 0, pid) })
    };
    let opened = match open() {
        Err(denied) if code::is_denial(denied) && privileges::enable_debug() => open(),
        other => other,
    };
    match opened {
        Ok(process) if has_ended(&process) => Err(code::NO_PROCESS),
        Err(absent) if absent == ERROR_INVALID_PARAMETER.cast_signed() => Err(code::NO_PROCESS),
        other => other,
    }
}

/// Whether a process has ended. A handle that cannot be asked vouches for nothing.
pub(super) fn has_ended(process: &OwnedHandle) -> bool {
    // SAFETY: the handle is open, and 0 does not wait.
    unsafe { WaitForSingleObject(process.as_raw_handle(), 0) != WAIT_TIMEOUT }
}

/// A copy of another process's handle, with these rights to what it leads to. The error is
/// the system's code.
pub(super) fn copy_of(process: &OwnedHandle, handle: u64, rights: u32) -> Result<OwnedHandle, i32> {
    let number = usize::try_from(handle).map_err(|_| code::BAD_DESCRIPTOR)?;
    let mut copied: HANDLE = ptr::null_mut();
    // SAFETY: the number means a handle of the other process alone; the copy is written to
    // our own variable.
    let done = unsafe {
        DuplicateHandle(
            process.as_raw_handle(),
            ptr::without_provenance_mut(number),
            own_process(),
            &raw mut copied,
            rights,
            0,
            0,
        )
    };
    if done == 0 {
        return Err(last_error());
    }
    owned(copied)
}

/// Whether two handles lead to the same object; nothing where the system cannot tell
/// (`CompareObjectHandles` came with Windows 10).
pub(super) fn are_same(one: BorrowedHandle<'_>, other: BorrowedHandle<'_>) -> Option<bool> {
    type Compare = unsafe extern "system" fn(HANDLE, HANDLE) -> i32;
    let library = wide("kernelbase.dll");
    // SAFETY: the name ends with a zero; the library is part of every process.
    let library = unsafe { GetModuleHandleW(library.as_ptr()) };
    if library.is_null() {
        return None;
    }
    // SAFETY: the library stays loaded; the name ends with a zero.
    let found = unsafe { GetProcAddress(library, c"CompareObjectHandles".as_ptr().cast()) }?;
    // SAFETY: the function of this name has this signature.
    let compare: Compare = unsafe { std::mem::transmute(found) };
    // SAFETY: both handles are borrowed, so they are open.
    Some(unsafe { compare(one.as_raw_handle(), other.as_raw_handle()) } != 0)
}

/// What a code means for looking at a process.
pub(super) fn process_error(what: &'static str, number: i32) -> ProcessError {
    match number {
        code::NO_PROCESS => ProcessError::Gone,
        denied if code::is_denial(denied) => ProcessError::Denied { what },
        other => ProcessError::System { what, code: other },
    }
}
