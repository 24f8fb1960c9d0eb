//! What the operating system tells about processes and lends of their memory. One
//! module per system, all with the same names; everything outside this module is
//! the same on every system.

pub(crate) mod facts;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(all(test, target_os = "linux"))]
pub(crate) use linux::{current_user, own_process};
#[cfg(target_os = "linux")]
use linux as system;

#[cfg(windows)]
mod windows;
#[cfg(windows)]
use windows as system;

pub(crate) use facts::{
    Descriptor, HeldSection, HeldSections, MemoryRead, NamedSection, ProcessError, ProcessStatus,
};
pub use facts::RunState;

pub(crate) use system::{
    BackingFile, BorrowedFile, CAN_GRAFT, ExecutableKind, HAS_SECTIONS, LISTS_FILES, LocalSocket, NAMES_ARE_FILES, PrivateFile, Process, ProcessMemory,
    Residency, advice, code, copy_denial, denial, holds_constant, program_name, unseen, user_label,
};
pub use system::{Liveness, ProcRoot};
