//! Linux: processes through /proc, notes in directories by their modes, listening and bells
//! over sockets.

mod clock;
mod doorbell;
mod errors;
mod identity;
mod listen;
mod notes;

pub(crate) use clock::milliseconds_since_boot;
pub use doorbell::Doorbells;
pub(crate) use errors::is_no_such_address_family;
pub(crate) use identity::{boot_id, has_ended, pid_namespace, start_time};
pub use listen::Listener;
pub(crate) use notes::{
    NoteDirectory, candidates, create_private_file, is_ours_alone, make_private_directory,
    open_unlinked,
};
