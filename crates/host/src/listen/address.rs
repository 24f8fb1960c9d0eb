//! Where a listener listens, and where its peers connect from.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The number that stands for every machine (vsock(7), VMADDR_CID_ANY).
pub(crate) const ANY_MACHINE: u32 = u32::MAX;

/// An address of any kind. Over TCP it is shown as `HOST:PORT`, else with its kind before
/// it, as `vmshm listen` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Address {
    /// Over TCP.
    Tcp(SocketAddr),
    /// Over vsock.
    Vsock {
        /// The machine; all ones stands for every one.
        cid: u32,
        /// The port.
        port: u32,
    },
    /// Over the serial line at this path.
    Serial(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Vsock { cid, port } if *cid == ANY_MACHINE => write!(f, "vsock:{port}"),
            Self::Vsock { cid, port } => write!(f, "vsock:{cid}:{port}"),
            Self::Serial(path) => write!(f, "serial:{}", path.display()),
        }
    }
}
