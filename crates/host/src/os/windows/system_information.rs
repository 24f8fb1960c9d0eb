//! What the kernel tells of the whole system, as bytes.
#![allow(unsafe_code, reason = "the kernel's lists have no safe interface")]

use std::io;

use windows_sys::Wdk::System::SystemInformation::{
    NtQuerySystemInformation, SystemProcessInformation, SystemTimeOfDayInformation,
};
use windows_sys::Win32::Foundation::{RtlNtStatusToDosError, STATUS_INFO_LENGTH_MISMATCH};

/// More than the list of processes of a large host takes.
const MOST: usize = 64 << 20;
/// The length of `SYSTEM_TIMEOFDAY_INFORMATION`.
const TIME_OF_DAY_BYTES: usize = 48;

/// The list of processes (`SYSTEM_PROCESS_INFORMATION`).
pub(super) fn processes() -> io::Result<Vec<u8>> {
    let mut length = 256 << 10;
    loop {
        match query(SystemProcessInformation, length) {
            Err(STATUS_INFO_LENGTH_MISMATCH) if length < MOST => length *= 2,
            other => return other.map_err(error),
        }
    }
}

/// The times of the system (`SYSTEM_TIMEOFDAY_INFORMATION`).
pub(super) fn time_of_day() -> io::Result<Vec<u8>> {
    query(SystemTimeOfDayInformation, TIME_OF_DAY_BYTES).map_err(error)
}

fn query(class: i32, length: usize) -> Result<Vec<u8>, i32> {
    let mut words = vec![0_u64; length.div_ceil(8)];
    let mut filled = 0_u32;
    let space = u32::try_from(words.len() * 8).unwrap_or(u32::MAX);
    // SAFETY: `words` has `space` bytes and is aligned for every structure of the kernel's;
    // `filled` takes a number.
    let status = unsafe {
        NtQuerySystemInformation(class, words.as_mut_ptr().cast(), space, &raw mut filled)
    };
    if status < 0 {
        return Err(status);
    }
    let bytes = words.iter().flat_map(|word| word.to_ne_bytes());
    let filled = usize::try_from(filled).unwrap_or(usize::MAX);
    Ok(bytes.take(filled).collect())
}

fn error(status: i32) -> io::Error {
    // SAFETY: it only translates a number.
    let code = unsafe { RtlNtStatusToDosError(status) };
    io::Error::from_raw_os_error(code.cast_signed())
}
