//! The clock that runs through the host's sleep.
#![allow(unsafe_code, reason = "the clock is a call of the system")]

use windows_sys::Win32::System::SystemInformation::GetTickCount64;

/// Milliseconds since the host booted, its sleep included; in steps of 10 to 16.
pub(crate) fn milliseconds_since_boot() -> u64 {
    // SAFETY: it takes nothing and cannot fail.
    unsafe { GetTickCount64() }
}
