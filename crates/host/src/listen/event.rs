//! What a listener tells, and why it cannot listen. It only names things.

use std::io;
use std::path::PathBuf;

use vmshm_link::rendezvous::endpoint::EndpointError;
use vmshm_link::rendezvous::message::Announce;

use super::address::Address;
use super::lookout::Machine;
use super::refusal::Refusal;
use crate::os;
use crate::ties::TiesError;

/// Why nobody can be listened to.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is none.
    #[error("{text:?} is no address to listen at: {source}")]
    Endpoint {
        /// What was given.
        text: String,
        /// What is wrong.
        #[source]
        source: EndpointError,
    },
    /// The name has no address.
    #[error("{text:?} cannot be looked up")]
    Resolve {
        /// What was given.
        text: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The address cannot be had.
    #[error("cannot listen at {address}")]
    Bind {
        /// The address.
        address: Address,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The serial line cannot be had.
    #[error("cannot use the serial line {}", .path.display())]
    Line {
        /// Where it is.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// This system's vmshm has no listener.
    #[error("listening for agents is not possible on {0} hosts")]
    NotHere(&'static str),
    /// Waiting failed.
    #[error("cannot wait for connections")]
    Wait(#[source] io::Error),
}

impl ListenError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Endpoint { .. } => {
                Some("for example 127.0.0.1:7001, vsock:7001, or serial:/path/to/socket")
            }
            Self::NotHere(_) => Some(
                "nothing needs it here: every command finds a VM's agent in its memory, or where --beacon says",
            ),
            Self::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                Some("another program listens there; choose another port")
            }
            Self::Bind { address, source } if os::is_no_such_address_family(source) => {
                Some(match address {
                    Address::Vsock { .. } => {
                        "this kernel has no vsock: `modprobe vhost_vsock`, or listen at HOST:PORT"
                    }
                    _ => "this kernel has no such addresses; use another kind, IPv4 for example",
                })
            }
            Self::Bind { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("ports below 1024 need root")
            }
            Self::Line { source, .. } => match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Some(
                    "start the VM first; QEMU offers such a socket by `-chardev socket,id=vmshm,path=PATH,server=on,wait=off`",
                ),
                io::ErrorKind::ResourceBusy => Some("another program uses it"),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Why a tied connection ended.
#[derive(Debug, thiserror::Error)]
pub enum Departure {
    /// The peer, or what it did.
    #[error(transparent)]
    Peer(Refusal),
    /// The VM's process has ended.
    #[error("the VM has ended")]
    VmGone,
    /// The same VM's agent has connected anew.
    #[error("it has connected anew")]
    Replaced,
}

/// What happens to a listener.
#[derive(Debug)]
pub enum Event<'a> {
    /// An agent is tied to a VM.
    Tied {
        /// Where it connects from.
        peer: Address,
        /// The VM.
        machine: &'a Machine,
        /// What it said of itself; the beacon's address and epoch are proved.
        announce: &'a Announce,
    },
    /// A tied agent has gone.
    Left {
        /// Where it connected from.
        peer: Address,
        /// The VM.
        machine: &'a Machine,
        /// Why.
        why: Departure,
    },
    /// A peer was not tied.
    Refused {
        /// Where it connects from.
        peer: Address,
        /// Why.
        why: Refusal,
    },
    /// Other commands will not know what this one learns.
    NotRecorded(TiesError),
}
