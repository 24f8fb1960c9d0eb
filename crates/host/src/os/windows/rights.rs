//! What this process may do on this host beyond its user's own processes, and what the system
//! is. It only asks.
#![allow(
    unsafe_code,
    reason = "privileges and Wine's own function have no safe interface"
)]

use std::ffi::CStr;
use std::io;
use std::ptr;

use windows_sys::Win32::Foundation::LUID;
use windows_sys::Win32::Security::{
    LookupPrivilegeValueW, SE_DEBUG_NAME, TokenElevation, TokenPrivileges,
};
use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleW, GetProcAddress};
use windows_sys::core::w;

use super::user::{own_token, token_information};

/// Whether this process runs with its administrator's full rights.
pub(super) fn is_elevated() -> io::Result<bool> {
    // A TOKEN_ELEVATION: one number.
    let answer = token_information(&own_token()?, TokenElevation)?;
    Ok(answer.first().is_some_and(|word| word & 0xffff_ffff != 0))
}

/// Whether this process's token has the privilege to open any process (SeDebugPrivilege),
/// be it in use or not.
pub(super) fn may_debug() -> io::Result<bool> {
    let wanted = debug_privilege()?;
    let answer = token_information(&own_token()?, TokenPrivileges)?;
    let bytes: Vec<u8> = answer.iter().flat_map(|word| word.to_ne_bytes()).collect();
    Ok(has_privilege(&bytes, wanted))
}

/// Whether a TOKEN_PRIVILEGES has this one: a count, then for each its number (two words)
/// and its attributes.
fn has_privilege(bytes: &[u8], wanted: LUID) -> bool {
    let (words, _) = bytes.as_chunks::<4>();
    let Some((count, entries)) = words.split_first() else {
        return false;
    };
    let count = usize::try_from(u32::from_ne_bytes(*count)).unwrap_or_default();
    let (entries, _) = entries.as_chunks::<3>();
    entries.iter().take(count).any(|[low, high, _]| {
        u32::from_ne_bytes(*low) == wanted.LowPart && i32::from_ne_bytes(*high) == wanted.HighPart
    })
}

fn debug_privilege() -> io::Result<LUID> {
    let mut luid = LUID {
        LowPart: 0,
        HighPart: 0,
    };
    // SAFETY: the name ends with a zero, and `luid` takes a number.
    if unsafe { LookupPrivilegeValueW(ptr::null(), SE_DEBUG_NAME, &raw mut luid) } == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(luid)
}

/// The version of Wine, where the system is that: its ntdll has a function that tells
/// (<https://wiki.winehq.org/Developer_FAQ>).
pub(super) fn wine_version() -> Option<String> {
    type GetVersion = unsafe extern "C" fn() -> *const std::ffi::c_char;
    // SAFETY: the name ends with a zero; ntdll is in every process, and stays.
    let library = unsafe { GetModuleHandleW(w!("ntdll.dll")) };
    if library.is_null() {
        return None;
    }
    let name = c"wine_get_version";
    // SAFETY: the library is loaded, and the name ends with a zero.
    let function = unsafe { GetProcAddress(library, name.as_ptr().cast()) }?;
    // SAFETY: Wine alone exports this name, and with this type.
    let function: GetVersion = unsafe { std::mem::transmute(function) };
    // SAFETY: as its type says it takes nothing.
    let version = unsafe { function() };
    if version.is_null() {
        return None;
    }
    // SAFETY: it is a constant text of Wine's that ends with a zero.
    let version = unsafe { CStr::from_ptr(version) };
    Some(version.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_token_that_answers() {
        is_elevated().expect("answered");
        may_debug().expect("answered");
    }

    #[test]
    fn a_privilege_is_found_among_those_that_are_counted() {
        let luid = |low| LUID {
            LowPart: low,
            HighPart: 0,
        };
        let words: [u32; 10] = [2, 8, 0, 2, 20, 0, 0, 30, 0, 2];
        let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
        assert!(has_privilege(&bytes, luid(8)) && has_privilege(&bytes, luid(20)));
        assert!(!has_privilege(&bytes, luid(30)), "beyond the count");
        assert!(!has_privilege(&bytes[..8], luid(8)) && !has_privilege(&[], luid(0)));
    }
}
