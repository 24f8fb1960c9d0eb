//! Host library: finding virtual machines, attaching to their agents, holding regions
//! and running links over them.
//!
//! The way through this crate: [`machines::find`] names a VM; [`attach::attach`] turns
//! it into a proved [`session::Session`], and [`reach`] does so by a broker where this
//! process may not attach; that opens regions and asks the agent for
//! things; [`pipe::run_pipe`] and [`bench`] work over them.
//!
//! It prints nothing and starts no process. What a guest writes is checked by
//! `vmshm-link` before it gets here.

pub mod attach;
mod beacon_page;
pub mod beacon_search;
pub mod bench;
pub mod brokered;
mod conversation;
mod copied;
mod deadline;
pub mod diagnosis;
pub mod direct;
pub mod display;
pub mod doorbell;
pub mod ending;
pub mod findings;
mod firmware_ticks;
pub mod guard;
pub mod identity;
pub mod inspect;
mod last_seen;
pub mod listen;
mod look;
pub mod machines;
pub mod observer;
mod os;
#[cfg(test)]
mod own_guest;
pub mod physical;
pub mod pipe;
pub mod reaching;
pub mod region;
mod right;
pub mod session;
pub mod sighting;
mod source;
pub mod ties;
mod user_directory;
pub mod vm;
pub mod watch;

pub use attach::{AttachError, AttachOptions, attach};
pub use ending::{Condition, SessionEnd};
#[cfg(target_os = "linux")]
pub use os::{graft, proxied};
pub use reaching::{ReachError, Reached, reach};
pub use region::Region;
pub use right::WriteRight;
pub use session::{RequestError, Session};
pub use sighting::Where;
pub use vm::{Vm, VmOptions};
pub use vmshm_endpoint as endpoint;
pub use vmshm_endpoint::{
    Connection, End, Gone, LinkFailure, OpenError, Presence, PresenceState, RegionKind, Role, Side,
    Wish,
};

/// A region of a VM, to be opened.
pub type RegionOptions = endpoint::RegionOptions<Vm>;
/// Typed records, one ring each way.
pub type Ring<T> = endpoint::Ring<T, Vm>;
/// The sending direction of a [`Ring`].
pub type RingSender<T> = endpoint::RingSender<T, Vm>;
/// The receiving direction of a [`Ring`].
pub type RingReceiver<T> = endpoint::RingReceiver<T, Vm>;
/// Records of any length, one ring each way.
pub type ByteRing = endpoint::ByteRing<Vm>;
/// The sending direction of a [`ByteRing`].
pub type ByteRingSender = endpoint::ByteRingSender<Vm>;
/// The receiving direction of a [`ByteRing`].
pub type ByteRingReceiver = endpoint::ByteRingReceiver<Vm>;
/// The newest value of each side.
pub type Latest<T> = endpoint::Latest<T, Vm>;
/// The newest value of each side, of any length.
pub type LatestBytes = endpoint::LatestBytes<Vm>;
/// Reads a [`Latest`] without having an end of it.
pub type LatestWatch<T> = endpoint::LatestWatch<T, Vm>;
/// Reads a [`LatestBytes`] without having an end of it.
pub type LatestBytesWatch = endpoint::LatestBytesWatch<Vm>;
/// A byte stream each way.
pub type Stream = endpoint::Stream<Vm>;
/// The receiving direction of a [`Stream`].
pub type StreamReader = endpoint::StreamReader<Vm>;
/// The sending direction of a [`Stream`].
pub type StreamWriter = endpoint::StreamWriter<Vm>;
/// A region whose every byte is the application's.
pub type Raw = endpoint::Raw<Vm>;
/// A word of a [`Raw`] with this program as its only writer.
pub type RawWord = endpoint::RawWord<Vm>;
