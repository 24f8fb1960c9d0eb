//! Fetches the system's tables of processes and handles (`NtQuerySystemInformation`). They
//! grow while they are read, so the buffer grows with them, within a bound.
#![allow(unsafe_code, reason = "the system fills buffers by a raw call")]

use windows_sys::Wdk::System::SystemInformation::{
    NtQuerySystemInformation, SYSTEM_INFORMATION_CLASS, SystemProcessInformation,
};
use windows_sys::Win32::Foundation::{
    ERROR_NOT_ENOUGH_MEMORY, STATUS_BUFFER_TOO_SMALL, STATUS_INFO_LENGTH_MISMATCH,
};

use super::handle::failure;

/// All handles with addresses of whole words (`SystemExtendedHandleInformation`, `ntexapi.h`).
const HANDLES: SYSTEM_INFORMATION_CLASS = 64;
/// How large the first buffer is; a quiet system's tables fit.
const FIRST: usize = 1 << 20;
/// No table is believed to be larger: 26 million handles.
const LARGEST: usize = 1 << 30;

/// What the system filled in.
#[derive(Debug)]
pub(super) struct Table {
    /// Whole words, so that the system finds them aligned.
    words: Vec<u64>,
}

impl Table {
    /// The table of processes. The error is the system's code.
    pub(super) fn processes() -> Result<Self, i32> {
        Self::fetch(SystemProcessInformation)
    }

    /// The table of handles.
    pub(super) fn handles() -> Result<Self, i32> {
        Self::fetch(HANDLES)
    }

    fn fetch(class: SYSTEM_INFORMATION_CLASS) -> Result<Self, i32> {
        let mut length = FIRST;
        while length <= LARGEST {
            let mut words = vec![0_u64; length / 8];
            let mut needed = 0_u32;
            // SAFETY: the system writes no more than the length that it is given, into words
            // that live and are ours.
            let status = unsafe {
                NtQuerySystemInformation(
                    class,
                    words.as_mut_ptr().cast(),
                    u32::try_from(length).unwrap_or(u32::MAX),
                    &raw mut needed,
                )
            };
            if status == STATUS_INFO_LENGTH_MISMATCH || status == STATUS_BUFFER_TOO_SMALL {
                // What it needed then may not be enough a moment later.
                let needed = usize::try_from(needed).unwrap_or(0);
                length = (needed + needed / 4)
                    .next_multiple_of(1 << 16)
                    .max(length * 2);
                continue;
            }
            return match failure(status) {
                Some(code) => Err(code),
                None => Ok(Self { words }),
            };
        }
        Err(ERROR_NOT_ENOUGH_MEMORY.cast_signed())
    }

    /// The bytes; what the system did not fill in is zero.
    pub(super) fn bytes(&self) -> &[u8] {
        let length = self.words.len() * 8;
        // SAFETY: the words are initialised, and bytes have no alignment.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), length) }
    }

    /// Where the system had the first byte: pointers in the table count from there.
    pub(super) fn base(&self) -> u64 {
        self.words.as_ptr() as u64
    }
}
