//! Linux: processes through /proc, their memory through the files that back it,
//! `/proc/PID/mem` and `process_vm_readv`.

mod backing_file;
mod census;
mod executable;
mod liveness;
mod local_socket;
mod maps;
mod memory;
mod private_file;
mod process;
mod residency;

pub(crate) use backing_file::BackingFile;
pub use census::Census;
pub(crate) use executable::{ExecutableKind, holds_constant};
pub use liveness::{Liveness, RunState};
pub(crate) use local_socket::LocalSocket;
pub(crate) use memory::{MemoryRead, ProcessMemory};
pub(crate) use private_file::PrivateFile;
pub use process::ProcRoot;
pub(crate) use process::{
    Descriptor, Process, ProcessError, ProcessStatus, current_user, user_name,
};
pub(crate) use residency::Residency;

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
