//! What every system tells of processes and their memory, in the same words: the types that
//! the modules of all systems fill in. It asks nothing itself.

use crate::address::VmmVirtual;
use crate::mapping::FileIdentity;

/// Why something about a process could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProcessError {
    /// It has ended, or never was.
    #[error("the process is gone")]
    Gone,
    /// The system does not let this user look.
    #[error("{what}: permission denied")]
    Denied { what: &'static str },
    /// Anything else.
    #[error("{what}: system error {code}")]
    System { what: &'static str, code: i32 },
}

/// The parts of a process's state that matter here. What a system does not have stays as it
/// is by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ProcessStatus {
    /// What the system calls it: on Linux the first 15 bytes of the executable's name, unless
    /// the process chose another; on Windows the executable's name without its ending.
    pub(crate) name: String,
    /// The parent's id; 0 for none.
    pub(crate) parent: u32,
    /// Who traces it; 0 for nobody.
    pub(crate) tracer: u32,
    /// The user it runs as: on Linux the effective one's number, on Windows a number that
    /// stands for the user in this process alone.
    pub(crate) user: u32,
    /// Bit `n - 1` is set where the process has a handler for signal `n`.
    pub(crate) caught_signals: u64,
    /// Bytes of it that are swapped out, where the system tells.
    pub(crate) swapped: Option<u64>,
    /// The kind of its system call filter: 0 for none, 2 for a program.
    pub(crate) seccomp: u32,
}

/// An open file of a process, where the system lists such.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) number: u32,
    /// Where the link points: a path or the kernel's name for it.
    pub(crate) target: String,
}

/// A read of a batch: where from and where to.
#[derive(Debug)]
pub(crate) struct MemoryRead<'a> {
    pub(crate) from: VmmVirtual,
    pub(crate) into: &'a mut [u8],
}

/// What a VMM's process does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// It runs or waits for something to do.
    Running,
    /// All its threads are stopped (SIGSTOP, a debugger): the guest makes no progress.
    Stopped,
    /// It has ended. Its memory belongs to nobody any more.
    Gone,
}

/// A section (memory that processes share) of which a process holds a handle, whether it
/// maps it or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeldSection {
    /// The handle, as that process counts it.
    pub(crate) handle: u64,
    /// Names it among that process's sections.
    pub(crate) identity: FileIdentity,
    /// Its size in bytes, as the system states it.
    pub(crate) length: u64,
    /// The whole name in the system's name space; empty where it has none.
    pub(crate) name: String,
    /// Whether it may be mapped for writing.
    pub(crate) writable: bool,
}

/// The sections that a process holds, and what could not be found out about some.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HeldSections {
    /// Each section once, in the order of the handles.
    pub(crate) sections: Vec<HeldSection>,
    /// How many handles of sections could not be looked at, and the last reason.
    pub(crate) refused: Option<(usize, i32)>,
}

/// Whether a name that a section may have leads to one of a process's own.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(
    not(any(windows, test)),
    allow(dead_code, reason = "Linux has no sections, whatever their names")
)]
pub(crate) enum NamedSection {
    /// There is none of that name.
    Absent,
    /// It is one that the process holds.
    Held(HeldSection),
    /// The name exists, and what it names is not held by the process.
    Foreign,
    /// The name exists, and whether the process holds it cannot be found out, or it may not
    /// be opened. The code is the system's.
    Unclear { code: i32 },
}
