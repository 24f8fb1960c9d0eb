//! Linux: processes through /proc, their memory through the files that back it,
//! `/proc/PID/mem` and `process_vm_readv`.

pub(crate) mod advice;
mod backing_file;
mod denial;
mod graft_view;
mod liveness;
mod local_socket;
mod maps;
mod marks;
mod memory;
#[cfg(test)]
pub(crate) mod own_process;
mod private_file;
mod process;
mod residency;

pub(crate) use backing_file::BackingFile;
pub(crate) use denial::{copy_denial, denial, unseen};
pub use liveness::Liveness;
pub(crate) use local_socket::LocalSocket;
pub(crate) use memory::ProcessMemory;
pub(crate) use private_file::PrivateFile;
pub use process::ProcRoot;
#[cfg(test)]
pub(crate) use process::current_user;
pub(crate) use process::{Process, file_number, program_name, user_label};
pub(crate) use residency::Residency;
/// A file that somebody else owns, as it is handed to another process.
pub(crate) use rustix::fd::BorrowedFd as BorrowedFile;

/// Whether processes hold sections.
pub(crate) const HAS_SECTIONS: bool = false;
/// Whether the system lists what files and devices a process has open.
pub(crate) const LISTS_FILES: bool = true;
/// Whether what the system calls a process is always its executable's name.
pub(crate) const NAMES_ARE_FILES: bool = false;

/// The system's error codes that decide something outside this module.
pub(crate) mod code {
    use rustix::io::Errno;

    pub(crate) const NO_PROCESS: i32 = Errno::SRCH.raw_os_error();
    pub(crate) const NO_MEMORY: i32 = Errno::NOMEM.raw_os_error();
    pub(crate) const BAD_DESCRIPTOR: i32 = Errno::BADF.raw_os_error();

    /// Whether a code means that the right is missing.
    pub(crate) fn is_denial(code: i32) -> bool {
        code == Errno::PERM.raw_os_error() || code == Errno::ACCESS.raw_os_error()
    }
}
