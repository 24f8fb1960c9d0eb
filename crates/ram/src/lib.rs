//! Finds virtual machines on this host and their RAM, and reads and writes it.
//!
//! The way through this crate: [`find_all`] lists the VMs ([`Vmm`]) with the RAM blocks
//! that their processes hold; [`GuestRam::open`] opens one's RAM by mapping or by
//! copying; [`GuestRam::scan`] finds a pattern in it; a [`Layout`] translates
//! guest-physical addresses into places in the blocks; [`GuestRam::search`] finds
//! patterns by those addresses; [`GuestRam::view`] makes chosen pieces a shared memory
//! that links run over.
//!
//! It knows nothing of beacons, regions or frames, and never stops or changes a VMM.
//! What a guest or a process's name claims is never trusted.

mod access;
mod address;
mod block;
mod brand;
mod census;
mod dump;
mod executable;
mod firmware;
mod graft_runs;
mod guest_os;
mod guest_ram;
mod layout;
mod layout_granules;
mod layout_proof;
mod layout_rule;
mod layout_split;
mod mapping;
mod open_block;
mod os;
mod ram_error;
mod scan;
mod search;
mod view;
mod vmm;

pub use access::{Access, Method, Obstacle, Reach};
pub use address::{BlockOffset, BlockPiece, VmmVirtual, merge_pieces};
pub use block::{Backing, RamBlock};
pub use census::Census;
pub use dump::{DumpError, DumpFormat, DumpOutput, DumpPlan, DumpWriteError, StoredDump};
pub use guest_os::{GuestOs, guest_os, guest_os_in};
pub use guest_ram::{FileRuns, GuestRam, RamRead};
pub use layout::{Layout, LayoutError, LayoutRange, Location, Source};
pub use layout_proof::Point;
pub use mapping::{FileIdentity, MemoryMapping};
#[cfg(windows)]
pub use os::Privileges;
pub use os::{Liveness, ProcRoot, RunState};
pub use ram_error::{OpenError, RamError};
pub use scan::{ScanStats, Sink, Step};
pub use search::{
    Found, PatternError, Patterns, SearchError, SearchOptions, SearchSink, SearchStats,
};
pub use view::View;
pub use vmm::{
    Confidential, Evidence, Examination, FindError, Machine, MonitorError, Namespace, Vmm, VmmKind,
    find_all, find_all_in, find_among, find_by_pid, find_by_pid_in,
};
pub use vmshm_shm::{MapError, Protection};
