//! The user whose token this process has, as its SID says.
#![allow(unsafe_code, reason = "tokens have no safe interface")]

use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::ptr;

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::Security::{
    GetTokenInformation, TOKEN_INFORMATION_CLASS, TOKEN_QUERY, TokenUser,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

use super::security::sid;

/// No answer about a token is longer: a token has at most 1024 groups.
const LONGEST: usize = 128 << 10;

/// The SID of this process's user.
pub(super) fn own_sid() -> io::Result<Vec<u8>> {
    let words = token_information(&own_token()?, TokenUser)?;
    // A TOKEN_USER: a pointer to the SID, which lies in the same answer.
    let start = words.as_ptr().addr();
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    words
        .first()
        .and_then(|pointer| usize::try_from(*pointer).ok()?.checked_sub(start))
        .and_then(|offset| sid(bytes.get(offset..)?))
        .map(<[u8]>::to_vec)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// This process's token, for questions.
pub(super) fn own_token() -> io::Result<OwnedHandle> {
    let mut token: HANDLE = ptr::null_mut();
    // SAFETY: it takes nothing, and gives a handle that need not be closed.
    let process = unsafe { GetCurrentProcess() };
    // SAFETY: `process` is this process, and `token` takes a handle.
    if unsafe { OpenProcessToken(process, TOKEN_QUERY, &raw mut token) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `token` was just opened, and nobody else has it.
    Ok(unsafe { OwnedHandle::from_raw_handle(token) })
}

/// What is known about a token; 8-byte words, since answers hold pointers into themselves.
pub(super) fn token_information(
    token: &OwnedHandle,
    class: TOKEN_INFORMATION_CLASS,
) -> io::Result<Vec<u64>> {
    let mut words = vec![0_u64; LONGEST / 8];
    let space = u32::try_from(LONGEST).unwrap_or(u32::MAX);
    let mut filled = 0;
    // SAFETY: the token is open, `words` has `space` bytes, and `filled` takes a number.
    let worked = unsafe {
        GetTokenInformation(
            token.as_raw_handle(),
            class,
            words.as_mut_ptr().cast(),
            space,
            &raw mut filled,
        )
    };
    if worked == 0 {
        return Err(io::Error::last_os_error());
    }
    words.truncate(usize::try_from(filled).unwrap_or_default().div_ceil(8));
    Ok(words)
}
