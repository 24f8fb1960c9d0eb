//! Why a process is not changed, or could not be: each cause by name, and what is
//! possible instead.

use rustix::io::Errno;
use vmshm_ram::VmmVirtual;

/// For a process that cannot be made to do what grafting needs.
const SHARE_IT: &str = "use --method copy, or start the VM with shared memory (memory-backend-memfd) and use --method map";

/// Why a process may not be grafted. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No such process, or it has ended.
    #[error("process {pid} is gone")]
    Gone {
        /// The process.
        pid: u32,
    },
    /// The system does not let this user trace it.
    #[error("process {pid} belongs to user {owner}, and this user ({user}) may not change it{}", yama(*.scope))]
    NoRight {
        /// The process.
        pid: u32,
        /// The user it runs as.
        owner: u32,
        /// The user that asked.
        user: u32,
        /// Yama's `ptrace_scope`; 0 without Yama.
        scope: u32,
    },
    /// It has marked itself as not to be looked into.
    #[error("process {pid} is not dumpable, so that only root may change it")]
    NotDumpable {
        /// The process.
        pid: u32,
    },
    /// A process can have one tracer.
    #[error("process {tracer} traces it already (a debugger?)")]
    Traced {
        /// The tracer.
        tracer: u32,
    },
    /// It stands still by a signal, and its calls would only be made once it goes on.
    #[error("process {pid} is stopped by a signal")]
    StoppedBySignal {
        /// The process.
        pid: u32,
    },
    /// It has another set of registers and calls.
    #[error("process {pid} is no 64-bit x86 program")]
    OtherArchitecture {
        /// The process.
        pid: u32,
    },
    /// A device has pages pinned and would go on using the old ones.
    #[error(
        "it has {what} open: a device may have pinned its pages, and would go on using the old ones"
    )]
    DevicePinned {
        /// What is open.
        what: String,
    },
    /// The kernel has pages pinned for its own input and output.
    #[error("it has registered buffers with io_uring, whose pages would be left behind")]
    RegisteredBuffers,
    /// The guest's memory is not the VMM's to change.
    #[error("the guest's memory is confidential (guest_memfd)")]
    Confidential,
    /// Only read, write and exit are allowed.
    #[error("it has given up all system calls but reading and writing (strict seccomp)")]
    StrictCallFilter,
    /// Whether a call is allowed cannot be known.
    #[error("it filters its system calls, and only root may read the filter")]
    UnreadableCallFilter,
    /// A filter does not allow what is needed.
    #[error("its filter of system calls does not allow {call} (it answers {answer:#x})")]
    CallFiltered {
        /// The call's name.
        call: &'static str,
        /// The filter's answer.
        answer: u32,
    },
    /// Calls from the C library are turned into signals.
    #[error("it has its system calls turned into signals (syscall user dispatch)")]
    CallDispatch,
    /// A forged return is what shadow stacks prevent.
    #[error("it runs with a shadow stack, which forbids what grafting does")]
    ShadowStack,
    /// The limit of a process's mappings.
    #[error("it has {present} mappings, {needed} more are needed, and vm.max_map_count is {most}")]
    TooManyMappings {
        /// How many it has.
        present: usize,
        /// How many would come.
        needed: usize,
        /// How many a process may have.
        most: usize,
    },
    /// Others would go on using the old pages.
    #[error("other processes map the same memory: {}", numbers(.pids))]
    Shared {
        /// Some of them.
        pids: Vec<u32>,
    },
    /// Another process runs in the very same address space, and would not be stopped.
    #[error("process {other} shares all of its memory")]
    SameMemory {
        /// The other.
        other: u32,
    },
    /// The pieces are not what a mapping can be made of.
    #[error("piece {index} is no run of whole pages inside the region, or overlaps another one")]
    BadPiece {
        /// Which of the pieces.
        index: usize,
    },
    /// Something else than guest RAM is there.
    #[error("at {at} the process has no memory that it may read and write")]
    NotMemory {
        /// Where.
        at: VmmVirtual,
    },
    /// Memory with pages or watchers of its own kind.
    #[error("the memory at {at} is {what}, which cannot be replaced")]
    SpecialMemory {
        /// Where.
        at: VmmVirtual,
        /// What it is.
        what: &'static str,
    },
    /// The program's code has no way to make calls and to come back.
    #[error("its code has no `syscall; ret` and no return from signal handlers to borrow")]
    NoGadget,
    /// No stack to lay frames on.
    #[error("none of its threads has room on its stack")]
    NoRoom,
    /// A memory file of this name is there, with another size.
    #[error(
        "it holds a memory file of that region already, of {present} bytes in place of {wanted}"
    )]
    OtherSize {
        /// Its size, in bytes.
        present: u64,
        /// The size asked for.
        wanted: u64,
    },
    /// What shared memory came from must be at hand for undoing the graft.
    #[error(
        "it does not have the file of its shared memory at {at} open for writing any more, so that a graft could not be undone"
    )]
    OriginClosed {
        /// Where the memory is.
        at: VmmVirtual,
    },
    /// Nothing to undo.
    #[error("the region is not grafted")]
    NotGrafted,
}

impl Refusal {
    /// What the user can do about it where the VM's memory is shared as it is.
    #[must_use]
    pub fn hint_where_shared(&self) -> Option<&'static str> {
        match self.hint() {
            Some(SHARE_IT) => Some("use --method map or copy"),
            other => other,
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Gone { .. } | Self::BadPiece { .. } | Self::NotGrafted => None,
            Self::NoRight { scope: 1.., .. } => {
                Some("run as root; sysctl kernel.yama.ptrace_scope is what forbids it")
            }
            Self::NoRight { .. } | Self::NotDumpable { .. } | Self::UnreadableCallFilter => {
                Some("run as root")
            }
            Self::Traced { .. } => Some("end the debugger"),
            Self::StoppedBySignal { .. } => Some("let it go on first (SIGCONT)"),
            Self::DevicePinned { .. } => {
                Some("start the VM without the passed-through device, or use --method map or copy")
            }
            Self::RegisteredBuffers
            | Self::StrictCallFilter
            | Self::CallFiltered { .. }
            | Self::CallDispatch
            | Self::ShadowStack
            | Self::OtherArchitecture { .. }
            | Self::NoGadget
            | Self::NoRoom
            | Self::SameMemory { .. } => Some(SHARE_IT),
            Self::SpecialMemory { .. } => Some("use --method map where that works, else copy"),
            Self::Shared { .. } | Self::OriginClosed { .. } => {
                Some("memory that others map can be mapped here, too: use --method map")
            }
            Self::TooManyMappings { .. } => {
                Some("raise sysctl vm.max_map_count, or create the region from huge pages")
            }
            Self::Confidential => Some("no host program can reach this memory"),
            Self::NotMemory { .. } => Some("look at the VM anew: its memory has changed"),
            Self::OtherSize { .. } => Some("undo the earlier graft first (region graft --undo)"),
        }
    }
}

/// Why a graft, or undoing one, came to no end. The process runs on with its memory
/// intact, whichever it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GraftError {
    /// It must not be done.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A thread did not stop in time, several times over; everything was released.
    #[error("thread {thread} of the process did not stop within the time allowed")]
    TooSlow {
        /// The thread.
        thread: u32,
    },
    /// An earlier graft is still on its way, or the process had too little time to run.
    #[error("the process is still busy with an earlier step")]
    Busy,
    /// The kernel refused a call that the process made for us.
    #[error("the process may not {what}: {error}")]
    Call {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        error: Errno,
    },
    /// Some pieces are replaced and others are not; doing it again goes on with the rest.
    #[error("{left} of {all} pieces could not be replaced")]
    Incomplete {
        /// How many are left.
        left: usize,
        /// How many there are.
        all: usize,
    },
    /// Anything else that the system refused.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        error: Errno,
    },
}

impl GraftError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Refused(refusal) => refusal.hint(),
            Self::TooSlow { .. } | Self::Busy => {
                Some("try again when the host has less to do; nothing was changed")
            }
            Self::Incomplete { .. } => Some(
                "try again, and see whether the VMM is at a limit of memory or of mappings (`prlimit --as`, vm.max_map_count, its cgroup); what is done stays valid",
            ),
            Self::Call { .. } | Self::System { .. } => None,
        }
    }
}

fn numbers(pids: &[u32]) -> String {
    let numbers: Vec<String> = pids.iter().map(u32::to_string).collect();
    numbers.join(", ")
}

fn yama(scope: u32) -> &'static str {
    if scope > 0 {
        " (Yama's ptrace_scope is set)"
    } else {
        ""
    }
}
