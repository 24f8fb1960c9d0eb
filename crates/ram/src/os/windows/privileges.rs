//! What this process may do to others: whether it runs elevated, and whether it holds
//! SeDebugPrivilege, with which any process may be opened that is not protected.
#![allow(unsafe_code, reason = "tokens are asked and changed by raw calls")]

use std::os::windows::io::{AsRawHandle, OwnedHandle};
use std::ptr;
use std::sync::OnceLock;

use windows_sys::Win32::Foundation::{GetLastError, HANDLE, LUID};
use windows_sys::Win32::Security::{
    AdjustTokenPrivileges, GetTokenInformation, LUID_AND_ATTRIBUTES, LookupPrivilegeValueW,
    SE_DEBUG_NAME, SE_PRIVILEGE_ENABLED, TOKEN_ADJUST_PRIVILEGES, TOKEN_ELEVATION,
    TOKEN_PRIVILEGES, TOKEN_QUERY, TokenElevation,
};
use windows_sys::Win32::System::Threading::OpenProcessToken;

use super::handle::{last_error, own_process, owned};

/// The rights of this process that decide which VMs it can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Privileges {
    /// It runs with an administrator's full rights.
    pub is_elevated: bool,
    /// It holds SeDebugPrivilege, and that is enabled now: processes of other users can be
    /// opened, too.
    pub may_debug: bool,
}

impl Privileges {
    /// This process's. Enables SeDebugPrivilege where it is held.
    #[must_use]
    pub fn own() -> Self {
        Self {
            is_elevated: is_elevated(),
            may_debug: enable_debug(),
        }
    }
}

/// Enables SeDebugPrivilege, once; whether this process has it.
pub(super) fn enable_debug() -> bool {
    static ENABLED: OnceLock<bool> = OnceLock::new();
    *ENABLED.get_or_init(|| try_enable().unwrap_or(false))
}

/// A process's token with these rights. The error is the system's code.
pub(super) fn token(process: HANDLE, rights: u32) -> Result<OwnedHandle, i32> {
    let mut token: HANDLE = ptr::null_mut();
    // SAFETY: the process's handle is open; the token is written to our own variable.
    if unsafe { OpenProcessToken(process, rights, &raw mut token) } == 0 {
        return Err(last_error());
    }
    owned(token)
}

fn try_enable() -> Result<bool, i32> {
    let token = token(own_process(), TOKEN_QUERY | TOKEN_ADJUST_PRIVILEGES)?;
    let mut number = LUID::default();
    // SAFETY: the name is a constant that ends with a zero; the number is our own variable.
    if unsafe { LookupPrivilegeValueW(ptr::null(), SE_DEBUG_NAME, &raw mut number) } == 0 {
        return Err(last_error());
    }
    let wanted = TOKEN_PRIVILEGES {
        PrivilegeCount: 1,
        Privileges: [LUID_AND_ATTRIBUTES {
            Luid: number,
            Attributes: SE_PRIVILEGE_ENABLED,
        }],
    };
    // SAFETY: the token is open; what was before is not asked for.
    let done = unsafe {
        AdjustTokenPrivileges(
            token.as_raw_handle(),
            0,
            &raw const wanted,
            0,
            ptr::null_mut(),
            ptr::null_mut(),
        )
    };
    // The call succeeds where the privilege is not held, too; the code tells.
    // SAFETY: reads a word of this thread.
    Ok(done != 0 && unsafe { GetLastError() } == 0)
}

fn is_elevated() -> bool {
    let Ok(token) = token(own_process(), TOKEN_QUERY) else {
        return false;
    };
    let mut elevation = TOKEN_ELEVATION::default();
    let mut written = 0;
    // SAFETY: the system writes no more than the size that it is given.
    let done = unsafe {
        GetTokenInformation(
            token.as_raw_handle(),
            TokenElevation,
            (&raw mut elevation).cast(),
            size_of::<TOKEN_ELEVATION>().try_into().unwrap_or(0),
            &raw mut written,
        )
    };
    done != 0 && elevation.TokenIsElevated != 0
}
