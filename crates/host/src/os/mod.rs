//! What the operating system tells about processes, keeps for this user, and carries between
//! programs. One module per system, all with the same names; everything outside this
//! module is the same on every system.
//!
//! - `boot_id`, `pid_namespace`, `start_time`, `has_ended`: who a process is.
//! - `milliseconds_since_boot`: the clock that runs through the host's sleep.
//! - `candidates`, `is_ours_alone`, `make_private_directory`, `create_private_file`,
//!   `open_unlinked`, `NoteDirectory`: this user's own notes.
//! - [`Listener`], [`Doorbells`], `is_no_such_address_family`: agents that connect.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub use linux::{Doorbells, Listener};
#[cfg(target_os = "linux")]
pub(crate) use linux::{
    NoteDirectory, boot_id, candidates, create_private_file, has_ended, is_no_such_address_family,
    is_ours_alone, make_private_directory, milliseconds_since_boot, open_unlinked, pid_namespace,
    start_time,
};

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub use windows::{Doorbells, Listener};
#[cfg(windows)]
pub(crate) use windows::{
    NoteDirectory, boot_id, candidates, create_private_file, has_ended, is_no_such_address_family,
    is_ours_alone, make_private_directory, milliseconds_since_boot, open_unlinked, pid_namespace,
    start_time,
};
