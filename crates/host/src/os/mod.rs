//! What the operating system tells about processes, keeps for this user, and carries between
//! programs. One module per system, all with the same names; everything outside this
//! module is the same on every system.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
use linux as system;

#[cfg(windows)]
mod windows;
#[cfg(windows)]
use windows as system;

// Who a process is.
pub(crate) use system::{boot_id, has_ended, pid_namespace, processor_time, start_time};
// The clock that runs through the host's sleep, and one for the shortest times.
pub(crate) use system::{Moment, milliseconds_since_boot};
// Files that are this user's alone.
pub(crate) use system::{
    NoteDirectory, candidates, create_private_file, is_ours_alone, make_private_directory,
    open_unlinked,
};
// Agents that connect, and bells.
pub(crate) use system::is_no_such_address_family;
pub use system::{Doorbells, Listener};
// Showing screens: memory of our own that another process maps, and waiting.
pub(crate) use system::{make_memory_file, only_readable, wait_for_monitor};
// Sessions that a broker keeps.
#[cfg(target_os = "linux")]
pub use linux::{brokered, proxied};
pub use system::list_of_broker;
pub(crate) use system::{Brokered, BrokeredRight, Files, RegionFile, whole_file};
// Regions as files of their own in the VMM.
#[cfg(target_os = "linux")]
pub use linux::graft;
pub(crate) use system::{
    GraftGround, OwnGrafts, abandon, end_undoing, graft_obstacles, graft_pages, lay_out_over_graft,
    while_nobody_grafts,
};
// What is said to the user.
pub(crate) use system::{about_this_host, advice};

#[cfg(test)]
pub(crate) use system::trial;

// What knows no system call is tested on every system.
#[cfg(all(test, not(windows)))]
#[path = "windows/process_list.rs"]
mod windows_process_list;
#[cfg(all(test, not(windows)))]
#[path = "windows/security.rs"]
mod windows_security;
