//! Linux: a Unix stream socket, which carries descriptors beside the bytes (SCM_RIGHTS).

pub mod credentials;
mod socket;
mod starting;
#[cfg(test)]
pub(crate) mod trial;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub use socket::timespec;
pub(crate) use socket::{Connection, HANDED_BYTES};
pub use starting::{inherited, start};

/// What is handed over: a descriptor.
pub type Handed = OwnedFd;
/// A descriptor that stays whose it is; the peer gets one of its own.
pub type HandedRef<'a> = BorrowedFd<'a>;

/// A thing to hand over, without giving it away.
pub fn borrowed(handed: &Handed) -> HandedRef<'_> {
    handed.as_fd()
}
