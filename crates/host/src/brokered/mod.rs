//! Sessions that a broker of this host keeps for a program that may not attach itself, most
//! often since the VM runs as another user. The program gets the memory of the regions that
//! the broker's rules allow, each as a file of its own, and nothing else of the VM.
//!
//! [`crate::reach`] is how a program comes to a session: its own where it may attach, else a
//! broker's where one listens. [`list`] asks a broker what it would give. [`wire`] is
//! what is said, for the broker too.

mod error;
pub mod wire;

use std::path::PathBuf;

pub use error::BrokerError;

#[cfg(target_os = "linux")]
pub use crate::os::brokered::{Received, Socket};
pub use crate::os::list_of_broker as list;

/// Where a broker listens unless it is said otherwise.
pub const SOCKET: &str = "/run/vmshm/broker.sock";
/// What a user can do whom a broker's rules refuse something.
pub const ADD_A_RULE: &str = "whoever administers this host can add a rule there";
/// Names another place for it.
pub const VARIABLE: &str = "VMSHM_BROKER";

/// The broker that the environment names, if it does.
#[must_use]
pub fn named_by_environment() -> Option<PathBuf> {
    std::env::var_os(VARIABLE)
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
}
