//! What the operating system lends: a connection to a process that was started to have one, and
//! things that are handed over on it. One module per system; the names that every system
//! provides are listed here, and everything outside this module is the same on every system.
//!
//! - [`Handed`] and [`HandedRef`]: what can be handed over, owned and borrowed.
//! - [`borrowed`]: the one as the other.
//! - [`start`] and [`inherited`]: a process with a channel, and that channel in it.
//! - `Connection`: bytes and things handed over, without waiting, and waiting for them.
//!
//! Agents and brokers, which run on Linux, use its sockets besides, and ask who connected.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(windows)]
mod windows;

#[cfg(target_os = "linux")]
pub(crate) use linux::{Connection, HANDED_BYTES};
#[cfg(target_os = "linux")]
pub use linux::{Handed, HandedRef, borrowed, credentials, inherited, start, timespec};
#[cfg(windows)]
pub(crate) use windows::{Connection, HANDED_BYTES};
#[cfg(windows)]
pub use windows::{Handed, HandedRef, borrowed, inherited, start};

#[cfg(all(test, target_os = "linux"))]
pub(crate) use linux::trial;
#[cfg(all(test, windows))]
pub(crate) use windows::trial;

/// What came of sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// So many bytes were taken, and what is handed over with them.
    Bytes(usize),
    /// Nothing now: the peer has to read first.
    #[cfg_attr(windows, allow(dead_code, reason = "a thread takes all"))]
    Later,
    /// Nobody reads any more.
    Gone,
}

/// What came of receiving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    /// Something.
    Bytes,
    /// Nothing now.
    Nothing,
    /// Nothing ever again.
    End,
}
