//! What the operating system tells about processes and lends of their memory. One
//! module per system, all with the same names; everything outside this module is
//! the same on every system.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(crate) use linux::{
    BackingFile, Descriptor, ExecutableKind, LocalSocket, MemoryRead, PrivateFile, Process,
    ProcessError, ProcessMemory, ProcessStatus, Residency, code, current_user, holds_constant,
    user_name,
};
#[cfg(target_os = "linux")]
pub use linux::{Census, Liveness, ProcRoot, RunState};
