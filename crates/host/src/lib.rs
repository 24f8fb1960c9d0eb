//! Host library: finding virtual machines, attaching to their agents, holding regions
//! and running links over them.
//!
//! The way through this crate: [`machines::find`] names a VM; [`attach::attach`] turns
//! it into a proved [`session::Session`]; that opens regions and asks the agent for
//! things; [`pipe::run_pipe`] and [`bench`] work over them.
//!
//! It prints nothing and starts no process. What a guest writes is checked by
//! `vmshm-link` before it gets here.

pub mod attach;
pub mod beacon_search;
pub mod bench;
mod conversation;
pub mod diagnosis;
pub mod doorbell;
pub mod ending;
pub mod findings;
pub mod identity;
pub mod inspect;
mod last_seen;
pub mod listen;
mod look;
pub mod machines;
pub mod observer;
#[cfg(test)]
mod own_guest;
pub mod physical;
pub mod pipe;
pub mod region;
pub mod session;
pub mod sighting;
pub mod ties;
mod user_directory;
pub mod vm;
pub mod watch;

pub use attach::{AttachError, AttachOptions, attach};
pub use ending::{Condition, SessionEnd};
pub use region::Region;
pub use session::{RequestError, Session};
pub use sighting::Where;
pub use vm::{Vm, VmOptions};
pub use vmshm_endpoint::{End, LinkFailure, OpenError, Role};
pub use vmshm_link::ends::{Presence, PresenceState};
