//! Why an access to shared memory did not happen.

/// An access that was refused or could not be carried out. Nothing was read or
/// written when this is returned by a word operation; a copy may have been
/// carried out in part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The access does not lie inside the memory.
    #[error(
        "access of {length} bytes at offset {offset:#x} is outside a memory of {size:#x} bytes"
    )]
    OutOfBounds {
        /// First byte of the access.
        offset: u64,
        /// Length of the access in bytes.
        length: u64,
        /// Size of the memory in bytes.
        size: u64,
    },
    /// A word was asked for at an offset that is no multiple of eight.
    #[error("offset {offset:#x} is not aligned to a 64-bit word")]
    Misaligned {
        /// The offending offset.
        offset: u64,
    },
    /// A store to memory that was mapped for reading only.
    #[error("the memory was opened for reading only")]
    ReadOnly,
    /// The operating system could not reach the memory: its owner is gone, or
    /// the pages are. The number is the system's error code.
    #[error("the memory cannot be reached any more (system error {code})")]
    Unreachable {
        /// The raw `errno` value.
        code: i32,
    },
}
