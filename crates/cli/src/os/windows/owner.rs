//! Who this user is, and access lists that let only this user in.
//!
//! Sources: GetTokenInformation, ConvertStringSecurityDescriptorToSecurityDescriptorW, "Security Descriptor String
//! Format" (learn.microsoft.com/windows/win32/secauthz).
#![allow(
    unsafe_code,
    reason = "tokens and security descriptors have no safe interface"
)]

use std::ffi::{OsString, c_void};
use std::io;
use std::os::windows::ffi::OsStringExt;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::path::Path;

use windows_sys::Win32::Foundation::{ERROR_INSUFFICIENT_BUFFER, HLOCAL, LocalFree};
use windows_sys::Win32::Security::Authorization::{
    ConvertSidToStringSidW, ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1,
};
use windows_sys::Win32::Security::{
    DACL_SECURITY_INFORMATION, GetFileSecurityW, GetTokenInformation, TOKEN_INFORMATION_CLASS,
    TOKEN_QUERY, TOKEN_USER, TokenUser,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

use super::{check, wide};

/// What the system calls a security descriptor: here, who may do what with a file.
#[derive(Debug)]
pub(super) enum Descriptor {
    /// The system's memory.
    OfSystem(Allocation),
    /// Ours; words, since it is to be aligned as pointers are.
    Read(Vec<usize>),
}

impl Descriptor {
    /// Full access for this user, none for others, and nothing from the directory.
    pub(super) fn for_owner() -> io::Result<Self> {
        let text = format!("D:P(A;;FA;;;{})", user()?);
        let text = wide(text.as_ref());
        let mut descriptor = std::ptr::null_mut();
        // SAFETY: the text ends in a zero, and `descriptor` is where the result goes; its size is not asked for.
        check(unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                text.as_ptr(),
                SDDL_REVISION_1,
                &mut descriptor,
                std::ptr::null_mut(),
            )
        })?;
        Ok(Self::OfSystem(Allocation(descriptor)))
    }

    /// The access list of a file.
    pub(super) fn of_file(path: &Path) -> io::Result<Self> {
        let name = wide(path.as_os_str());
        let words = grow(|buffer, length, needed| {
            // SAFETY: the name ends in a zero, and the buffer has room for `length` bytes.
            unsafe {
                GetFileSecurityW(
                    name.as_ptr(),
                    DACL_SECURITY_INFORMATION,
                    buffer,
                    length,
                    needed,
                )
            }
        })?;
        Ok(Self::Read(words))
    }

    /// For the system's functions; valid as long as this value lives.
    pub(super) fn as_ptr(&self) -> *mut c_void {
        match self {
            Self::OfSystem(allocation) => allocation.0,
            Self::Read(words) => words.as_ptr().cast_mut().cast(),
        }
    }
}

/// This user's identity as text.
pub(super) fn user() -> io::Result<String> {
    let words = token_information(TokenUser)?;
    // SAFETY: the system wrote a whole TOKEN_USER at the start of the words, which are aligned for its pointer.
    let user = unsafe { words.as_ptr().cast::<TOKEN_USER>().read() };
    let mut text = std::ptr::null_mut();
    // SAFETY: the identity lies in `words`, which still live; `text` is where the result goes.
    check(unsafe { ConvertSidToStringSidW(user.User.Sid, &mut text) })?;
    let allocation = Allocation(text.cast());
    Ok(allocation.text())
}

/// What this process's token says of one thing.
fn token_information(what: TOKEN_INFORMATION_CLASS) -> io::Result<Vec<usize>> {
    let mut token = std::ptr::null_mut();
    // SAFETY: takes nothing, and gives a number that stands for this process.
    let process = unsafe { GetCurrentProcess() };
    // SAFETY: the process is this one, and `token` is where the handle goes.
    check(unsafe { OpenProcessToken(process, TOKEN_QUERY, &mut token) })?;
    // SAFETY: the handle was made just now, and nobody else closes it.
    let token = unsafe { OwnedHandle::from_raw_handle(token) };
    grow(|buffer, length, needed| {
        // SAFETY: the token is open, and the buffer has room for `length` bytes.
        unsafe { GetTokenInformation(token.as_raw_handle(), what, buffer, length, needed) }
    })
}

/// Calls until the buffer is long enough; the call gets the buffer, its bytes, and where it
/// says how many are needed.
fn grow(mut call: impl FnMut(*mut c_void, u32, &mut u32) -> i32) -> io::Result<Vec<usize>> {
    let mut words = vec![0_usize; 64];
    // The second time is enough, unless somebody makes it longer meanwhile.
    for _ in 0..8 {
        let length = u32::try_from(size_of_val(words.as_slice())).unwrap_or(u32::MAX);
        let mut needed = 0;
        match check(call(words.as_mut_ptr().cast(), length, &mut needed)) {
            Ok(()) => return Ok(words),
            Err(error) if is_too_short(&error) && needed > length && needed <= LONGEST => {
                words.resize((needed as usize).div_ceil(size_of::<usize>()), 0);
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// An access list has at most 64 KiB (ACL, AclSize).
const LONGEST: u32 = 1 << 20;

fn is_too_short(error: &io::Error) -> bool {
    let code = error
        .raw_os_error()
        .and_then(|code| u32::try_from(code).ok());
    code == Some(ERROR_INSUFFICIENT_BUFFER)
}

/// Memory that the system allocated for us with LocalAlloc.
#[derive(Debug)]
pub(super) struct Allocation(HLOCAL);

impl Allocation {
    /// The text in it, which ends in a zero.
    fn text(&self) -> String {
        let start: *const u16 = self.0.cast_const().cast();
        let mut units = Vec::new();
        loop {
            // SAFETY: the text goes on up to its zero, behind which nothing is read.
            let place = unsafe { start.add(units.len()) };
            // SAFETY: as above.
            match unsafe { place.read() } {
                0 => break,
                unit => units.push(unit),
            }
        }
        OsString::from_wide(&units).to_string_lossy().into_owned()
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: the memory came from a function whose result is freed so, and is freed once.
        unsafe { LocalFree(self.0) };
    }
}

#[cfg(test)]
impl Descriptor {
    /// The access list in the system's notation.
    pub(super) fn as_text(&self) -> io::Result<String> {
        use windows_sys::Win32::Security::Authorization::ConvertSecurityDescriptorToStringSecurityDescriptorW;
        let mut text = std::ptr::null_mut();
        // SAFETY: the descriptor lives, and `text` is where the result goes; its length is not asked for.
        check(unsafe {
            ConvertSecurityDescriptorToStringSecurityDescriptorW(
                self.as_ptr(),
                SDDL_REVISION_1,
                DACL_SECURITY_INFORMATION,
                &mut text,
                std::ptr::null_mut(),
            )
        })?;
        Ok(Allocation(text.cast()).text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_user_has_an_identity() {
        assert!(user().expect("known").starts_with("S-1-"));
    }

    #[test]
    fn a_buffer_grows_to_what_is_needed_and_no_further() {
        assert_eq!(grow(|_, _, _| 1).expect("at once").len(), 64);
    }
}
