//! Why a listener talks to a peer no further. It only names things.

use std::io::{self, ErrorKind};
use std::time::Duration;

use vmshm_link::rendezvous::message::MessageError;
use vmshm_ram::FindError;

/// Why a peer is not talked to any further.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// What it sent cannot be understood.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// It sent a message at the wrong time.
    #[error("it broke the protocol")]
    Disorder,
    /// It took too long.
    #[error("it did not prove itself within {0:?}")]
    Slow(Duration),
    /// It was the oldest of too many that had proved nothing.
    #[error("too many connections that have proved nothing")]
    Displaced,
    /// As many agents are tied as can be.
    #[error("{0} agents are tied, more is not possible")]
    Full(usize),
    /// It hung up, or does not take what it is sent.
    #[error("it has closed the connection")]
    Closed,
    /// It sends without end.
    #[error("it sends too much")]
    Flood,
    /// The system failed.
    #[error("the connection failed: {0}")]
    System(io::Error),
    /// The VMs could not be looked at.
    #[error(transparent)]
    Find(#[from] FindError),
    /// No VM has what it announced.
    #[error("no VM of this host has that beacon at {address}{}", but_unreadable(*.unreadable))]
    NoBeacon {
        /// The announced address.
        address: vmshm_link::GuestPhysical,
        /// How many VMs could not be looked at.
        unreadable: usize,
    },
    /// It announced a beacon that is there, but it cannot write beside it.
    #[error("the nonce did not appear in the memory of {machines}, whose beacon it announced")]
    NotShown {
        /// The VMs that have that beacon.
        machines: String,
    },
    /// Several processes hold the same memory.
    #[error("the nonce appeared in the memory of several processes: {machines}")]
    Ambiguous {
        /// The processes.
        machines: String,
    },
}

fn but_unreadable(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => " (one VM could not be looked at; `vmshm doctor` says why)".to_owned(),
        _ => format!(" ({count} VMs could not be looked at; `vmshm doctor` says why)"),
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // All that is sent fits an empty socket: who has not taken that takes nothing.
            ErrorKind::WouldBlock
            | ErrorKind::WriteZero
            | ErrorKind::ConnectionReset
            | ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::System(error),
        }
    }
}
