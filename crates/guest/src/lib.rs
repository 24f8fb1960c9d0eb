//! Guest library for applications: regions that the agent hands out, and links over them.
//! It needs no privilege, and starts no process.
//!
//! ```no_run
//! use vmshm_guest::Agent;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let agent = Agent::connect()?;
//! let mut ring = agent.region("numbers").size(1 << 16).ring::<u64>()?;
//! ring.send(&7)?;
//! println!("the host says {}", ring.receive()?);
//! # Ok(())
//! # }
//! ```
//!
//! A host's program does the same with `vmshm_host::Vm`; whichever comes first makes the
//! region. The agent grants regions by its rules, and one process of the guest has the
//! guest's end of a link at a time.

mod agent;
mod book;
mod deadline;
mod memory;
mod session;
mod socket;
mod unreachable;

pub use agent::{Agent, Owned};
/// The same for any connection: for code that runs on both sides.
pub use vmshm_endpoint as endpoint;
pub use vmshm_endpoint::{
    Connection, End, Gone, LinkFailure, OpenError, Presence, PresenceState, RegionKind, Role, Side,
    Wish,
};
pub use vmshm_link::local::SOCKET;

/// A region of this guest, to be opened.
pub type RegionOptions = endpoint::RegionOptions<Agent>;
/// Typed records, one ring each way.
pub type Ring<T> = endpoint::Ring<T, Agent>;
/// The sending direction of a [`Ring`].
pub type RingSender<T> = endpoint::RingSender<T, Agent>;
/// The receiving direction of a [`Ring`].
pub type RingReceiver<T> = endpoint::RingReceiver<T, Agent>;
/// Records of any length, one ring each way.
pub type ByteRing = endpoint::ByteRing<Agent>;
/// The sending direction of a [`ByteRing`].
pub type ByteRingSender = endpoint::ByteRingSender<Agent>;
/// The receiving direction of a [`ByteRing`].
pub type ByteRingReceiver = endpoint::ByteRingReceiver<Agent>;
/// The newest value of each side.
pub type Latest<T> = endpoint::Latest<T, Agent>;
/// The newest value of each side, of any length.
pub type LatestBytes = endpoint::LatestBytes<Agent>;
/// Reads a [`Latest`] without having an end of it.
pub type LatestWatch<T> = endpoint::LatestWatch<T, Agent>;
/// Reads a [`LatestBytes`] without having an end of it.
pub type LatestBytesWatch = endpoint::LatestBytesWatch<Agent>;
/// A byte stream each way.
pub type Stream = endpoint::Stream<Agent>;
/// The receiving direction of a [`Stream`].
pub type StreamReader = endpoint::StreamReader<Agent>;
/// The sending direction of a [`Stream`].
pub type StreamWriter = endpoint::StreamWriter<Agent>;
/// A region whose every byte is the application's.
pub type Raw = endpoint::Raw<Agent>;
/// A word of a [`Raw`] with this program as its only writer.
pub type RawWord = endpoint::RawWord<Agent>;
