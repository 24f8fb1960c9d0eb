//! Sections: what a handle of one leads to, and those that a process holds. Only handles of
//! the kind of a section of our own are copied and asked: others, of pipes above all, may make
//! whoever asks wait. Images of programs are left out.
#![allow(unsafe_code, reason = "sections are asked by raw calls")]

use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, OwnedHandle};
use std::ptr;

use vmshm_shm::PAGE_SIZE;
use windows_sys::Wdk::Foundation::{NtQueryObject, OBJECT_INFORMATION_CLASS};
use windows_sys::Win32::Foundation::{HANDLE, INVALID_HANDLE_VALUE, NTSTATUS};
use windows_sys::Win32::System::Memory::{CreateFileMappingW, PAGE_READONLY};
use windows_sys::Win32::System::Threading::{
    PROCESS_DUP_HANDLE, PROCESS_QUERY_LIMITED_INFORMATION,
};

use super::handle::{are_same, copy_of, failure, open_process, owned, process_error};
use super::handle_table::{self, Entry};
use super::system_table::Table;
use super::unicode_string;
use crate::mapping::FileIdentity;
use crate::os::facts::{HeldSection, HeldSections, ProcessError};

/// Rights to a section (`winnt.h`): ask what it is, read, write.
pub(super) const QUERY: u32 = 0x1;
/// Map it for writing.
pub(super) const MAP_WRITE: u32 = 0x2;
/// Map it for reading.
pub(super) const MAP_READ: u32 = 0x4;
/// Attributes of sections (`winnt.h`): made of a program's file; only reserved; of large pages.
const SEC_IMAGE: u32 = 0x100_0000;
const SEC_RESERVE: u32 = 0x400_0000;
const SEC_LARGE_PAGES: u32 = 0x8000_0000;
/// `ObjectNameInformation` of `OBJECT_INFORMATION_CLASS` (`ntobapi.h`).
const OBJECT_NAME: OBJECT_INFORMATION_CLASS = 1;
/// Names are no longer than a `UNICODE_STRING` can say, and its header.
const LONGEST_NAME: usize = (1 << 16) + 64;
/// Marks identities of sections, which have no file system's device.
const SECTIONS: u32 = u32::MAX;

/// `SECTION_BASIC_INFORMATION` (`ntmmapi.h`).
#[repr(C)]
#[derive(Debug, Default)]
struct BasicInformation {
    base: usize,
    attributes: u32,
    size: i64,
}

#[link(name = "ntdll")]
unsafe extern "system" {
    fn NtQuerySection(
        section: HANDLE,
        class: u32,
        information: *mut BasicInformation,
        length: usize,
        written: *mut usize,
    ) -> NTSTATUS;
}

/// What a handle of a section leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// Its whole pages, in bytes: views of less than a page's end are refused.
    pub(super) length: u64,
    /// Whether it can only be mapped in large pages.
    pub(super) is_large: bool,
    /// Whether pages of it may not be there until somebody commits them.
    pub(super) is_reserved: bool,
    pub(super) is_image: bool,
    /// The whole name; empty where it has none.
    pub(super) name: String,
}

/// Asks what a section is. The error is the system's code, also where it is no section.
pub(super) fn facts(section: BorrowedHandle<'_>) -> Result<Facts, i32> {
    let mut basic = BasicInformation::default();
    // SAFETY: the system writes no more than the size that it is given; 0 is the class of
    // basic information.
    let status = unsafe {
        NtQuerySection(
            section.as_raw_handle(),
            0,
            &raw mut basic,
            size_of::<BasicInformation>(),
            ptr::null_mut(),
        )
    };
    if let Some(code) = failure(status) {
        return Err(code);
    }
    Ok(Facts {
        length: u64::try_from(basic.size).unwrap_or(0) / PAGE_SIZE * PAGE_SIZE,
        is_large: basic.attributes & SEC_LARGE_PAGES != 0,
        is_reserved: basic.attributes & SEC_RESERVE != 0,
        is_image: basic.attributes & SEC_IMAGE != 0,
        name: name(section),
    })
}

/// The name of an object; empty where it has none or may not be asked.
fn name(object: BorrowedHandle<'_>) -> String {
    let mut words = vec![0_u64; LONGEST_NAME / 8];
    let mut written = 0;
    // SAFETY: the system writes no more than the length that it is given, into words that
    // live and are ours.
    let status = unsafe {
        NtQueryObject(
            object.as_raw_handle(),
            OBJECT_NAME,
            words.as_mut_ptr().cast(),
            u32::try_from(words.len() * 8).unwrap_or(0),
            &raw mut written,
        )
    };
    if failure(status).is_some() {
        return String::new();
    }
    let base = words.as_ptr() as u64;
    let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
    unicode_string::text(&bytes, base, 0).unwrap_or_default()
}

/// How an identity says which handle of which process it was.
pub(super) const fn identity(pid: u32, handle: u64) -> FileIdentity {
    FileIdentity {
        device: (SECTIONS, pid),
        inode: handle,
        offset: 0,
    }
}

/// Of which process an identity says a section's handle, and which; nothing for files.
pub(super) fn held_by(identity: &FileIdentity) -> Option<(u32, u64)> {
    let (kind, pid) = identity.device;
    (kind == SECTIONS).then_some((pid, identity.inode))
}

/// A section of our own, one page long, that nobody maps. The error is the system's code.
pub(super) fn own_page() -> Result<OwnedHandle, i32> {
    // SAFETY: a new section without a file, a name or attributes.
    owned(unsafe {
        CreateFileMappingW(
            INVALID_HANDLE_VALUE,
            ptr::null(),
            PAGE_READONLY,
            0,
            4096,
            ptr::null(),
        )
    })
}

/// The number of a handle of this process.
pub(super) fn number_of(handle: &OwnedHandle) -> u64 {
    handle.as_raw_handle() as u64
}

/// A process's section handles as the system's table lists them. The error is the system's
/// code.
pub(super) fn entries(pid: u32) -> Result<Vec<Entry>, i32> {
    let own = own_page()?;
    let table = Table::handles()?;
    let kind = handle_table::own_entry(table.bytes(), std::process::id(), number_of(&own));
    Ok(kind.map_or_else(Vec::new, |own| {
        handle_table::of_process(table.bytes(), pid, own.kind)
    }))
}

/// Copies a process's handle of a section, for writing where that is allowed; tells whether
/// it is. The error is the system's code.
pub(super) fn copy(process: &OwnedHandle, handle: u64) -> Result<(OwnedHandle, bool), i32> {
    match copy_of(process, handle, QUERY | MAP_READ | MAP_WRITE) {
        Ok(copied) => Ok((copied, true)),
        Err(_) => Ok((copy_of(process, handle, QUERY | MAP_READ)?, false)),
    }
}

/// The sections that a process holds.
pub(super) fn held(pid: u32) -> Result<HeldSections, ProcessError> {
    let rights = PROCESS_DUP_HANDLE | PROCESS_QUERY_LIMITED_INFORMATION;
    let process = open_process(pid, rights)
        .map_err(|code| process_error("opening the process to copy handles", code))?;
    let listed = entries(pid).map_err(|code| process_error("the table of all handles", code))?;
    let mut found = HeldSections::default();
    // Where objects are hidden, copies of equal length are compared.
    let mut copies: Vec<(u64, OwnedHandle)> = Vec::new();
    for entry in listed {
        let (copied, writable) = match copy(&process, entry.handle) {
            Ok(copied) => copied,
            Err(code) => {
                let (count, _) = found.refused.unwrap_or((0, 0));
                found.refused = Some((count + 1, code));
                continue;
            }
        };
        // What was closed and taken again meanwhile may be another kind of object.
        let Ok(facts) = facts(copied.as_handle()) else {
            continue;
        };
        if facts.is_image || facts.length == 0 {
            continue;
        }
        if entry.object == 0 {
            let is_known = copies.iter().any(|(length, other)| {
                *length == facts.length
                    && are_same(other.as_handle(), copied.as_handle()) == Some(true)
            });
            if is_known {
                continue;
            }
            copies.push((facts.length, copied));
        }
        found.sections.push(HeldSection {
            handle: entry.handle,
            identity: identity(pid, entry.handle),
            length: facts.length,
            name: facts.name,
            writable,
        });
    }
    Ok(found)
}
