//! For tests: memory that looks like a guest's.
#![allow(unsafe_code, reason = "sections have no safe binding")]

use std::os::windows::io::{FromRawHandle, OwnedHandle};
use std::ptr;

use vmshm_channel::Handed;
use windows_sys::Win32::Foundation::INVALID_HANDLE_VALUE;
use windows_sys::Win32::System::Memory::{CreateFileMappingW, PAGE_READWRITE, SEC_RESERVE};

/// A section of so many bytes, all zero.
pub fn memory_file(size: u64) -> Handed {
    section(size, PAGE_READWRITE)
}

/// One whose pages nothing backs.
#[allow(dead_code, reason = "only the tests of the whole program use it")]
pub fn reserved_section(size: u64) -> Handed {
    section(size, PAGE_READWRITE | SEC_RESERVE)
}

fn section(size: u64, kind: u32) -> Handed {
    let high = u32::try_from(size >> 32).expect("fits");
    let low = u32::try_from(size & u64::from(u32::MAX)).expect("fits");
    let file = INVALID_HANDLE_VALUE;
    // SAFETY: a new section of the paging file; nothing is passed by address.
    let section = unsafe { CreateFileMappingW(file, ptr::null(), kind, high, low, ptr::null()) };
    assert!(!section.is_null(), "{}", std::io::Error::last_os_error());
    // SAFETY: the handle was made just now, and nobody else has it.
    unsafe { OwnedHandle::from_raw_handle(section) }
}
