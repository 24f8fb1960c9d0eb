//! Linux: processes through /proc, notes in directories by their modes, listening and bells
//! over sockets.

pub(crate) mod advice;
pub mod brokered;
mod clock;
mod display;
mod doorbell;
mod errors;
pub mod graft;
mod host_facts;
mod identity;
mod listen;
mod notes;
pub mod proxied;
mod stopwatch;
#[cfg(test)]
pub(crate) mod trial;

pub use brokered::list_of_broker;
pub(crate) use brokered::{Brokered, BrokeredRight, Files, RegionFile, whole_file};
pub(crate) use clock::milliseconds_since_boot;
pub(crate) use display::{make_memory_file, only_readable, wait_for_monitor};
pub use doorbell::Doorbells;
pub(crate) use errors::is_no_such_address_family;
pub(crate) use graft::{
    Ground as GraftGround, OwnGrafts, abandon, end_undoing, graft_obstacles, graft_pages,
    lay_out_over_graft, while_nobody_grafts,
};
pub(crate) use host_facts::about_this_host;
pub(crate) use identity::{boot_id, has_ended, pid_namespace, processor_time, start_time};
pub use listen::Listener;
pub(crate) use notes::{
    NoteDirectory, candidates, create_private_file, is_ours_alone, make_private_directory,
    open_unlinked,
};
pub(crate) use stopwatch::Moment;
