//! Windows: processes by the kernel's list of them, notes in directories by their security
//! descriptors. There is no listener and no doorbell here: what needs them re-checks within
//! its bounds.

pub(crate) mod advice;
mod brokered;
mod clock;
mod display;
mod doorbell;
mod errors;
mod graft;
mod host_facts;
mod identity;
mod listener;
mod notes;
mod process_list;
mod rights;
mod security;
mod stopwatch;
mod system_information;
#[cfg(test)]
pub(crate) mod trial;
mod user;

pub use brokered::list_of_broker;
pub(crate) use brokered::{Brokered, BrokeredRight, Files, RegionFile, whole_file};
pub(crate) use clock::milliseconds_since_boot;
pub(crate) use display::{make_memory_file, only_readable, wait_for_monitor};
pub use doorbell::Doorbells;
pub(crate) use errors::is_no_such_address_family;
pub(crate) use graft::{
    GraftGround, OwnGrafts, abandon, end_undoing, graft_obstacles, graft_pages, lay_out_over_graft,
    while_nobody_grafts,
};
pub(crate) use host_facts::about_this_host;
pub(crate) use identity::{boot_id, has_ended, pid_namespace, processor_time, start_time};
pub use listener::Listener;
pub(crate) use notes::{
    NoteDirectory, candidates, create_private_file, is_ours_alone, make_private_directory,
    open_unlinked,
};
pub(crate) use stopwatch::Moment;
