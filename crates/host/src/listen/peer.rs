//! One connection to a listener: from a stranger of whom nothing is known to an agent
//! that is tied to a VM. It holds one message at most and sends 64 bytes at most before
//! that.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use vmshm_link::rendezvous::message::{Announce, Inbox, Incoming, Message, MessageError, greeting};
use vmshm_link::rendezvous::{self, Nonce};
use vmshm_ram::FindError;

use super::lookout::{Lookout, Machine, Suspect};

/// The most bytes that a peer may send within a second; nothing in this version needs
/// that many.
const FLOOD: usize = 64 << 10;
/// How long a connection may be quiet before the system asks whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// After so many unanswered probes a peer is gone.
const PROBES: u32 = 2;

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

/// How far a peer has come.
enum State {
    /// It was greeted.
    Stranger,
    /// It has greeted, too.
    Greeted,
    /// It waits for the look at the VMs.
    Announced(Announce),
    /// It was sent a nonce.
    Challenged(Announce, Nonce, Vec<Suspect>),
    /// It is tied.
    Tied(Announce, Machine),
}

/// A connection.
pub(super) struct Peer {
    socket: TcpStream,
    pub(super) address: SocketAddr,
    pub(super) since: Instant,
    inbox: Inbox,
    state: State,
    /// Bytes that came since the second began.
    heard: (Instant, usize),
}

impl Peer {
    /// Greets whoever has connected.
    pub(super) fn welcome(socket: TcpStream, address: SocketAddr) -> Result<Self, Refusal> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        // A guest that vanishes without a word is noticed by these.
        rustix::net::sockopt::set_socket_keepalive(&socket, true).map_err(io::Error::from)?;
        rustix::net::sockopt::set_tcp_keepidle(&socket, KEEP_ALIVE).map_err(io::Error::from)?;
        rustix::net::sockopt::set_tcp_keepintvl(&socket, KEEP_ALIVE).map_err(io::Error::from)?;
        rustix::net::sockopt::set_tcp_keepcnt(&socket, PROBES).map_err(io::Error::from)?;
        let now = Instant::now();
        let peer = Self {
            socket,
            address,
            since: now,
            inbox: Inbox::default(),
            state: State::Stranger,
            heard: (now, 0),
        };
        peer.send(&greeting())?;
        Ok(peer)
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The VM that it is tied to.
    pub(super) fn machine(&self) -> Option<&Machine> {
        match &self.state {
            State::Tied(_, machine) => Some(machine),
            _ => None,
        }
    }

    /// What it announced, once it is tied.
    pub(super) fn announced(&self) -> Option<&Announce> {
        match &self.state {
            State::Tied(announce, _) => Some(announce),
            _ => None,
        }
    }

    /// Whether the VMs have to be looked at for it.
    pub(super) fn waits_for_look(&self) -> bool {
        matches!(self.state, State::Announced(_))
    }

    /// Reads once, and does what was asked for. Whether it was tied by that.
    pub(super) fn hear(&mut self) -> Result<bool, Refusal> {
        let space = self.inbox.space();
        if space.is_empty() {
            return Ok(false);
        }
        match self.socket.read(space) {
            Ok(0) => return Err(Refusal::Closed),
            Ok(count) => {
                self.inbox.filled(count);
                self.count(count)?;
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
        self.go_on()
    }

    fn count(&mut self, count: usize) -> Result<(), Refusal> {
        if self.heard.0.elapsed() >= Duration::from_secs(1) {
            self.heard = (Instant::now(), 0);
        }
        self.heard.1 += count;
        if self.heard.1 > FLOOD {
            Err(Refusal::Flood)
        } else {
            Ok(())
        }
    }

    fn go_on(&mut self) -> Result<bool, Refusal> {
        let mut is_new = false;
        // What comes after an announcement waits until the VMs were looked at.
        while !self.waits_for_look() {
            let Some(incoming) = self.inbox.take()? else {
                break;
            };
            is_new |= self.take(incoming)?;
        }
        Ok(is_new)
    }

    fn take(&mut self, incoming: Incoming) -> Result<bool, Refusal> {
        self.state = match (
            std::mem::replace(&mut self.state, State::Stranger),
            incoming,
        ) {
            (State::Stranger, Incoming::Greeting(_)) => State::Greeted,
            (State::Greeted, Incoming::Message(Message::Announce(announce))) => {
                State::Announced(announce)
            }
            (State::Challenged(announce, nonce, suspects), Incoming::Message(Message::Shown)) => {
                let (machine, secret) = identify(suspects, nonce, announce.epoch)?;
                let countersign = rendezvous::countersign(nonce, secret);
                self.send(Message::Tied(countersign).encode().as_bytes())?;
                self.state = State::Tied(announce, machine);
                return Ok(true);
            }
            _ => return Err(Refusal::Disorder),
        };
        Ok(false)
    }

    /// Looks for what it announced, and sends it a nonce if that is there. Whether it was
    /// tied by what it had sent already.
    pub(super) fn look(&mut self, lookout: &mut dyn Lookout) -> Result<bool, Refusal> {
        let State::Announced(announce) = self.state else {
            return Ok(false);
        };
        let looked = lookout.look(&announce)?;
        if looked.suspects.is_empty() {
            return Err(Refusal::NoBeacon {
                address: announce.beacon,
                unreadable: looked.unreadable,
            });
        }
        let mut nonce = Nonce([0; 16]);
        getrandom::fill(&mut nonce.0)
            .map_err(|error| Refusal::System(io::Error::other(error.to_string())))?;
        self.send(Message::Challenge(nonce).encode().as_bytes())?;
        self.state = State::Challenged(announce, nonce, looked.suspects);
        self.go_on()
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Refusal> {
        Ok((&self.socket).write_all(bytes)?)
    }
}

/// The one VM in whose memory the answer to the nonce stands.
fn identify(
    suspects: Vec<Suspect>,
    nonce: Nonce,
    epoch: u64,
) -> Result<(Machine, rendezvous::Secret), Refusal> {
    let names = |machines: &mut dyn Iterator<Item = &Machine>| {
        machines
            .map(|machine| format!("{} (process {})", machine.name, machine.pid))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut shown = Vec::new();
    let mut silent = Vec::new();
    for Suspect { machine, directory } in suspects {
        // Memory that cannot be read any more shows nothing.
        match rendezvous::look(&&*directory, nonce, epoch) {
            Ok(Some(secret)) => shown.push((machine, secret)),
            _ => silent.push(machine),
        }
    }
    if shown.len() > 1 {
        return Err(Refusal::Ambiguous {
            machines: names(&mut shown.iter().map(|(machine, _)| machine)),
        });
    }
    shown.pop().ok_or_else(|| Refusal::NotShown {
        machines: names(&mut silent.iter()),
    })
}
