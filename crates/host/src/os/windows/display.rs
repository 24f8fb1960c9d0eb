//! What showing screens asks of Windows: sections of the paging file, and waiting.
#![allow(unsafe_code, reason = "sections have no safe binding")]

use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::ptr;
use std::time::Duration;

use vmshm_channel::{Channel, Handed, HandedRef};
use windows_sys::Win32::Foundation::{DuplicateHandle, INVALID_HANDLE_VALUE};
use windows_sys::Win32::System::Memory::{CreateFileMappingW, FILE_MAP_READ, PAGE_READWRITE};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

/// A section of `size` bytes, all zero. Sections never shrink, and this one has no name, since names
/// could be opened by others.
///
/// # Errors
/// What the system says.
pub(crate) fn make_memory_file(_name: &str, size: u64) -> io::Result<Handed> {
    let part = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(0);
    let (high, low) = (part(size >> 32), part(size));
    let file = INVALID_HANDLE_VALUE;
    // SAFETY: a new section of the paging file; nothing is passed by address.
    let section =
        unsafe { CreateFileMappingW(file, ptr::null(), PAGE_READWRITE, high, low, ptr::null()) };
    if section.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle was made just now, and nobody else has it.
    Ok(unsafe { OwnedHandle::from_raw_handle(section) })
}

/// A handle of such a section through which it can only be read.
///
/// # Errors
/// What the system says.
pub(crate) fn only_readable(file: &Handed) -> io::Result<Handed> {
    let mut handle = ptr::null_mut();
    // SAFETY: no preconditions; it answers a handle that stands for this process.
    let own = unsafe { GetCurrentProcess() };
    // SAFETY: all handles are open, and `handle` is a place for one.
    let done = unsafe {
        DuplicateHandle(
            own,
            file.as_raw_handle(),
            own,
            &raw mut handle,
            FILE_MAP_READ,
            0,
            0,
        )
    };
    if done == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle was made just now, and nobody else has it.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

/// Waits until the monitor says something, or for `pause`, which is short: whoever waits looks at
/// `wake` itself after it.
///
/// # Errors
/// What the system says.
pub(crate) fn wait_for_monitor(
    channel: &Channel,
    _wake: HandedRef<'_>,
    pause: Duration,
) -> io::Result<()> {
    channel.wait(channel.has_unflushed(), pause).map(drop)
}
