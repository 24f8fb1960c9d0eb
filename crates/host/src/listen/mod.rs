//! `vmshm listen`: agents connect, and each connection is tied to the VM whose memory shows
//! the nonce that was sent over it. What it tells and where it looks stand here; the
//! listener itself is the system's, since it is made of sockets, lines and waiting. Where a
//! system has none it says so ([`ListenError::NotHere`]).

pub(crate) mod address;
mod event;
mod lookout;
mod refusal;

pub use crate::os::Listener;
pub use address::Address;
pub use event::{Departure, Event, ListenError};
pub use lookout::{Looked, Lookout, Machine, Processes, Suspect};
pub use refusal::Refusal;
