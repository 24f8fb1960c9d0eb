//! The mappings of a process, by asking for one run of pages after the other.
#![allow(unsafe_code, reason = "regions are asked for by raw calls")]

use std::os::windows::io::{AsRawHandle, OwnedHandle};

use windows_sys::Win32::System::Memory::{MEMORY_BASIC_INFORMATION, VirtualQueryEx};
use windows_sys::Win32::System::ProcessStatus::GetMappedFileNameW;
use windows_sys::Win32::System::Threading::{PROCESS_QUERY_INFORMATION, PROCESS_VM_READ};

use super::handle::{has_ended, open_process, process_error};
use super::region::Region;
use crate::mapping::MemoryMapping;
use crate::os::facts::ProcessError;

/// More runs than this are not listed of any process.
const MOST: usize = 1 << 20;
/// Longer names are cut.
const LONGEST_NAME: usize = 1024;

/// All mappings of a process, in the order of their addresses.
pub(super) fn mappings(pid: u32) -> Result<Vec<MemoryMapping>, ProcessError> {
    let process = open_process(pid, PROCESS_QUERY_INFORMATION | PROCESS_VM_READ)
        .map_err(|code| process_error("opening the process to list its memory", code))?;
    let mut all = Vec::new();
    let mut at = 0_u64;
    let mut named: Option<(usize, String)> = None;
    while let Some((region, allocation)) = region_at(&process, at) {
        let name = match &named {
            _ if !region.may_have_name() => String::new(),
            Some((known, name)) if *known == allocation => name.clone(),
            _ => {
                let name = file_name(&process, region.start);
                named = Some((allocation, name.clone()));
                name
            }
        };
        all.extend(region.mapping(name));
        match region.start.checked_add(region.length) {
            Some(next) if next > at && all.len() < MOST => at = next,
            _ => break,
        }
    }
    if has_ended(&process) {
        return Err(ProcessError::Gone);
    }
    Ok(all)
}

/// The run of pages at an address, and where its allocation starts; nothing behind the last.
fn region_at(process: &OwnedHandle, at: u64) -> Option<(Region, usize)> {
    let mut information = MEMORY_BASIC_INFORMATION::default();
    let address = usize::try_from(at).ok()?;
    // SAFETY: the address is the other process's; the system writes no more than the size
    // that it is given.
    let written = unsafe {
        VirtualQueryEx(
            process.as_raw_handle(),
            std::ptr::without_provenance(address),
            &raw mut information,
            size_of::<MEMORY_BASIC_INFORMATION>(),
        )
    };
    (written != 0).then(|| {
        let region = Region {
            start: information.BaseAddress as u64,
            length: information.RegionSize as u64,
            state: information.State,
            protection: information.Protect,
            kind: information.Type,
        };
        (region, information.AllocationBase as usize)
    })
}

/// The name of the file that is mapped at an address, as the kernel calls it; empty where
/// there is none.
fn file_name(process: &OwnedHandle, at: u64) -> String {
    let mut name = [0_u16; LONGEST_NAME];
    let Ok(address) = usize::try_from(at) else {
        return String::new();
    };
    // SAFETY: the address is the other process's; the system writes no more than the length
    // that it is given.
    let length = unsafe {
        GetMappedFileNameW(
            process.as_raw_handle(),
            std::ptr::without_provenance(address),
            name.as_mut_ptr(),
            u32::try_from(LONGEST_NAME).unwrap_or(0),
        )
    };
    let length = usize::try_from(length).unwrap_or(0).min(LONGEST_NAME);
    String::from_utf16_lossy(name.get(..length).unwrap_or_default())
}
