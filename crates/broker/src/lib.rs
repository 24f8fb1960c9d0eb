//! The broker: hands regions of virtual machines to programs that may not attach themselves,
//! each as a file that holds the region and nothing else (a graft), over a Unix socket.
//!
//! For each program that connects it keeps a session of its own with the guest, over a slot of
//! its own, and forwards the program's requests where its [`rules`] allow them. What the
//! agent grants it lays out, proves and grafts itself; the program learns no address and
//! gets no descriptor of the VM's other memory.
//!
//! It takes back what it gave before the guest can use the pages for anything else: when the
//! last program lets a region go, when a session ends for whatever reason, and, by a guard for
//! each VM, when the guest boots anew, goes back to an earlier state or loses its keeper. A
//! program that keeps the file then has a copy of what was in it, and nothing of the guest.
//!
//! It refuses, by default, everything; and it waits for no client: one that breaks the
//! rules of the talk, does not read, or asks for too much loses its connection. Programs are
//! bounded by user and in all.

#![cfg(target_os = "linux")]

mod connection;
mod directory;
mod guests;
mod journal;
mod limits;
mod listening;
mod machine;
mod machines;
mod obstacles;
#[cfg(test)]
mod play;
pub mod rules;
mod service;

pub use guests::{Found, Guest, Guests, Refused, Use};
pub use journal::{Journal, JournalError};
pub use limits::Limits;
pub use listening::{ListenError, Listener, activated};
pub use machines::Machines;
pub use service::{Broker, Stop};
pub use vmshm_channel::credentials::User;

/// Where a broker listens unless it is said otherwise.
pub const SOCKET: &str = vmshm_host::brokered::SOCKET;
/// Where it notes what it has grafted.
pub const STATE: &str = "/run/vmshm/broker";
