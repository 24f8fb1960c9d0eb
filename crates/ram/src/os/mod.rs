//! What the operating system tells about processes and lends of their memory. One
//! module per system, all with the same names; everything outside this module is
//! the same on every system.

pub(crate) mod facts;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
use linux as system;
#[cfg(all(test, target_os = "linux"))]
pub(crate) use linux::{current_user, own_process};

#[cfg(any(windows, test))]
#[cfg_attr(not(windows), allow(dead_code, reason = "only its tests run here"))]
mod windows;
#[cfg(windows)]
use windows as system;

pub use facts::RunState;
pub(crate) use facts::{
    Descriptor, HeldSection, HeldSections, MemoryRead, NamedSection, ProcessError, ProcessStatus,
};

pub(crate) use system::{
    BackingFile, BorrowedFile, HAS_SECTIONS, LISTS_FILES, LocalSocket, NAMES_ARE_FILES,
    PrivateFile, Process, ProcessMemory, Residency, advice, code, copy_denial, denial, file_number,
    program_name, unseen, user_label,
};
pub use system::{Liveness, ProcRoot};
#[cfg(windows)]
pub use windows::Privileges;
