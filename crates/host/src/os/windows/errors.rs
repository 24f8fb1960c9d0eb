//! The system's error codes that decide something outside this module.

use std::io;

use windows_sys::Win32::Networking::WinSock::WSAEAFNOSUPPORT;

/// Whether the system has no addresses of that kind at all.
pub(crate) fn is_no_such_address_family(error: &io::Error) -> bool {
    error.raw_os_error() == Some(WSAEAFNOSUPPORT)
}
