//! The system's error code as a value that explains itself.

use std::io;

/// What `GetLastError` said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemError(i32);

impl SystemError {
    /// What the last call of this thread that failed left behind.
    pub(super) fn last() -> Self {
        Self(io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }

    /// One of the system's own codes (`ERROR_…` of `winerror.h`).
    pub(super) const fn from_code(code: u32) -> Self {
        Self(code.cast_signed())
    }

    /// The code.
    #[must_use]
    pub const fn raw_os_error(self) -> i32 {
        self.0
    }
}

impl core::fmt::Display for SystemError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(formatter, "{}", io::Error::from_raw_os_error(self.0))
    }
}

impl core::error::Error for SystemError {}
