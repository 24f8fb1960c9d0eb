//! A Unix socket is connected to on Linux alone: on Windows this says so. (QEMU for Windows
//! opens its monitor on TCP or a pipe, of which nobody could tell who answers.)

use std::io;
use std::path::Path;
use std::time::Instant;

/// A connection to a local program; there is never one.
#[derive(Debug)]
pub(crate) enum LocalSocket {}

impl LocalSocket {
    /// Refuses, with the reason.
    pub(crate) fn connect(_path: &Path) -> io::Result<Self> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "monitors on Unix sockets are asked on Linux hosts alone",
        ))
    }

    /// The process at the other end.
    pub(crate) fn peer(&self) -> io::Result<u32> {
        match *self {}
    }

    /// Sends all of `bytes`.
    pub(crate) fn send(&self, _bytes: &[u8], _deadline: Instant) -> io::Result<()> {
        match *self {}
    }

    /// Appends what comes next.
    pub(crate) fn receive(&self, _into: &mut Vec<u8>, _deadline: Instant) -> io::Result<()> {
        match *self {}
    }
}
