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
pub use vmshm_endpoint::{Connection, End, LinkFailure, OpenError, RegionKind, Role, Wish};
pub use vmshm_link::ends::{Presence, PresenceState};
pub use vmshm_link::local::SOCKET;
