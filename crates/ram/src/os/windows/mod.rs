//! Windows: processes through the system's tables, their memory through sections that are
//! duplicated from their handles, `ReadProcessMemory` and `WriteProcessMemory`. The layouts of
//! what the native calls answer follow Microsoft's `winternl.h` and, where that leaves them
//! out, System Informer's `phnt` headers (`ntexapi.h`, `ntmmapi.h`, `ntpsapi.h`).
//!
//! What judges what the system answered has no system calls, and is tested on every system.

mod command_line;
mod handle_table;
mod process_table;
mod refusal;
mod region;
mod unicode_string;

#[cfg(windows)]
pub(crate) mod advice;
#[cfg(windows)]
mod backing_file;
#[cfg(windows)]
mod denial;
#[cfg(windows)]
mod handle;
#[cfg(windows)]
mod liveness;
#[cfg(windows)]
mod local_socket;
#[cfg(windows)]
mod memory;
#[cfg(windows)]
mod named_section;
#[cfg(windows)]
mod parameters;
#[cfg(all(test, windows))]
mod played_tests;
#[cfg(windows)]
mod private_file;
#[cfg(windows)]
mod privileges;
#[cfg(windows)]
mod process;
#[cfg(windows)]
mod regions;
#[cfg(windows)]
mod residency;
#[cfg(windows)]
mod section;
#[cfg(windows)]
mod system_table;
#[cfg(windows)]
mod users;

#[cfg(windows)]
pub(crate) use backing_file::BackingFile;
#[cfg(windows)]
pub(crate) use denial::{copy_denial, denial, unseen};
#[cfg(windows)]
pub use liveness::Liveness;
#[cfg(windows)]
pub(crate) use local_socket::LocalSocket;
#[cfg(windows)]
pub(crate) use memory::ProcessMemory;
#[cfg(windows)]
pub(crate) use private_file::PrivateFile;
#[cfg(windows)]
pub use privileges::Privileges;
#[cfg(windows)]
pub use process::ProcRoot;
#[cfg(windows)]
pub(crate) use process::{Process, file_number, program_name};
#[cfg(windows)]
pub(crate) use residency::Residency;
/// A section that somebody else owns, as it is handed to another process.
#[cfg(windows)]
pub(crate) use std::os::windows::io::BorrowedHandle as BorrowedFile;
#[cfg(windows)]
pub(crate) use users::user_label;

/// Whether processes hold sections.
#[cfg(windows)]
pub(crate) const HAS_SECTIONS: bool = true;
/// Whether the system lists what files and devices a process has open: asking for the names
/// of some handles waits for their owners, so nobody asks.
#[cfg(windows)]
pub(crate) const LISTS_FILES: bool = false;
/// Whether what the system calls a process is always its executable's name.
#[cfg(windows)]
pub(crate) const NAMES_ARE_FILES: bool = true;

/// The system's error codes that decide something outside this module (`winerror.h`).
#[cfg(windows)]
pub(crate) mod code {
    use windows_sys::Win32::Foundation::{
        ERROR_ACCESS_DENIED, ERROR_INVALID_HANDLE, ERROR_NOT_ENOUGH_MEMORY, ERROR_PROCESS_ABORTED,
    };

    pub(crate) const NO_PROCESS: i32 = ERROR_PROCESS_ABORTED.cast_signed();
    pub(crate) const NO_MEMORY: i32 = ERROR_NOT_ENOUGH_MEMORY.cast_signed();
    pub(crate) const BAD_DESCRIPTOR: i32 = ERROR_INVALID_HANDLE.cast_signed();

    /// Whether a code means that the right is missing.
    pub(crate) const fn is_denial(code: i32) -> bool {
        code == ERROR_ACCESS_DENIED.cast_signed()
    }
}
