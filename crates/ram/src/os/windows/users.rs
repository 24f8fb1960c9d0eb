//! Users by small numbers: Windows names them by security identifiers, which are long. A
//! number means the same user as long as this process runs; 0 is nobody who is known.
#![allow(
    unsafe_code,
    reason = "identifiers and names are asked for by raw calls"
)]

use std::os::windows::io::AsRawHandle;
use std::ptr;
use std::sync::Mutex;

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::Security::{
    GetLengthSid, GetTokenInformation, IsValidSid, LookupAccountSidW, TOKEN_QUERY, TOKEN_USER,
    TokenUser,
};

use super::handle::{last_error, own_process};
use super::privileges::token;

/// The identifiers of all users seen so far, in the order in which they are counted.
static SEEN: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Longer than any identifier with its header (`SECURITY_MAX_SID_SIZE` is 68).
const LONGEST: usize = 256;
/// Longer than any name of an account.
const LONGEST_NAME: usize = 512;

/// The user that this process runs as.
pub(crate) fn current_user() -> u32 {
    user_of(own_process()).unwrap_or(0)
}

/// The user that a process runs as. The error is the system's code.
pub(super) fn user_of(process: HANDLE) -> Result<u32, i32> {
    let token = token(process, TOKEN_QUERY)?;
    let mut words = [0_u64; LONGEST / 8];
    let mut written = 0;
    // SAFETY: the system writes no more than the size that it is given.
    let done = unsafe {
        GetTokenInformation(
            token.as_raw_handle(),
            TokenUser,
            words.as_mut_ptr().cast(),
            u32::try_from(LONGEST).unwrap_or(0),
            &raw mut written,
        )
    };
    if done == 0 {
        return Err(last_error());
    }
    // SAFETY: the call filled in a TOKEN_USER at the start of the words, which are aligned.
    let user = unsafe { ptr::read(words.as_ptr().cast::<TOKEN_USER>()) };
    let identifier = user.User.Sid;
    // SAFETY: the system made the pointer lead into the words.
    let is_valid = unsafe { IsValidSid(identifier) } != 0;
    if !is_valid {
        return Ok(0);
    }
    // SAFETY: the identifier is valid.
    let length = unsafe { GetLengthSid(identifier) };
    let length = usize::try_from(length).unwrap_or(0).min(LONGEST);
    // SAFETY: a valid identifier has so many bytes, and they lie in the words.
    let bytes = unsafe { std::slice::from_raw_parts(identifier.cast::<u8>(), length) };
    Ok(number_of(bytes))
}

fn number_of(identifier: &[u8]) -> u32 {
    let Ok(mut seen) = SEEN.lock() else { return 0 };
    let index = seen.iter().position(|other| other == identifier);
    let index = index.unwrap_or_else(|| {
        seen.push(identifier.to_vec());
        seen.len() - 1
    });
    u32::try_from(index + 1).unwrap_or(0)
}

/// A user as people know it.
pub(crate) fn user_label(user: u32) -> String {
    let identifier = usize::try_from(user)
        .ok()
        .and_then(|number| number.checked_sub(1))
        .and_then(|index| SEEN.lock().ok()?.get(index).cloned());
    identifier
        .and_then(|identifier| account(&identifier))
        .unwrap_or_else(|| "an unknown user".to_owned())
}

fn account(identifier: &[u8]) -> Option<String> {
    let mut name = [0_u16; LONGEST_NAME];
    let mut domain = [0_u16; LONGEST_NAME];
    let mut name_length = u32::try_from(LONGEST_NAME).ok()?;
    let mut domain_length = name_length;
    let mut kind = 0;
    // SAFETY: the identifier was valid when it was copied; the system writes no more than the
    // lengths that it is given, into our own buffers.
    let done = unsafe {
        LookupAccountSidW(
            ptr::null(),
            identifier.as_ptr().cast_mut().cast(),
            name.as_mut_ptr(),
            &raw mut name_length,
            domain.as_mut_ptr(),
            &raw mut domain_length,
            &raw mut kind,
        )
    };
    let text = |units: &[u16], length: u32| {
        let length = usize::try_from(length).ok()?;
        Some(String::from_utf16_lossy(units.get(..length)?))
    };
    if done == 0 {
        return None;
    }
    let (name, domain) = (text(&name, name_length)?, text(&domain, domain_length)?);
    Some(if domain.is_empty() {
        name
    } else {
        format!("{domain}\\{name}")
    })
}
