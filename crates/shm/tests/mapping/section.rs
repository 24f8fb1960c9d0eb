//! A file of memory on Windows: a section without a name.
#![allow(unsafe_code, reason = "there is no safe way to ask the system for one")]

use std::os::windows::io::{FromRawHandle, OwnedHandle};
use std::ptr;

use windows_sys::Win32::Foundation::INVALID_HANDLE_VALUE;
use windows_sys::Win32::System::Memory::{CreateFileMappingW, PAGE_READWRITE};

pub type File = OwnedHandle;

/// A new one of some bytes, all zero.
pub fn create(length: u64) -> File {
    section(length, 0)
}

/// One whose pages are only reserved where `kind` says so.
pub fn section(length: u64, kind: u32) -> File {
    let length = u32::try_from(length).expect("small");
    // SAFETY: a new section of the paging file; nothing is passed by address.
    let handle = unsafe {
        CreateFileMappingW(
            INVALID_HANDLE_VALUE,
            ptr::null(),
            PAGE_READWRITE | kind,
            0,
            length,
            ptr::null(),
        )
    };
    assert!(!handle.is_null(), "{}", std::io::Error::last_os_error());
    // SAFETY: the handle was made just now, and nobody else has it.
    unsafe { OwnedHandle::from_raw_handle(handle) }
}
