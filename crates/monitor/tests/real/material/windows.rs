//! Memory that looks like a guest's.
#![allow(unsafe_code, reason = "sections have no safe binding")]

use std::os::windows::io::{FromRawHandle, OwnedHandle};
use std::ptr;

use vmshm_channel::Handed;
use windows_sys::Win32::Foundation::INVALID_HANDLE_VALUE;
use windows_sys::Win32::System::Memory::{CreateFileMappingW, PAGE_READWRITE, SEC_RESERVE};

pub fn memory_file(size: u64) -> Handed {
    section(size, 0)
}

/// A section none of whose pages is backed by anything.
pub fn reserved_section(size: u64) -> Handed {
    section(size, SEC_RESERVE)
}

fn section(size: u64, kind: u32) -> Handed {
    let size = u32::try_from(size).expect("small");
    let file = INVALID_HANDLE_VALUE;
    let kind = PAGE_READWRITE | kind;
    // SAFETY: a new section of the paging file; nothing is passed by address.
    let section = unsafe { CreateFileMappingW(file, ptr::null(), kind, 0, size, ptr::null()) };
    assert!(!section.is_null(), "{}", std::io::Error::last_os_error());
    // SAFETY: the handle was made just now, and nobody else has it.
    unsafe { OwnedHandle::from_raw_handle(section) }
}
