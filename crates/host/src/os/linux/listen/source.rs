//! What connections come from: sockets that are listened at, and serial lines.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::net::sockopt;
use socket2::Socket;
use vmshm_link::rendezvous::endpoint::{self, Endpoint, Place};

use super::line::Line;
use super::vsock;
use crate::listen::address::ANY_MACHINE;
use crate::listen::{Address, ListenError};

/// How long a connection may be quiet before the system asks whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// After so many unanswered probes a peer is gone.
const PROBES: u32 = 2;

/// Something that connections come from.
#[derive(Debug)]
pub(super) enum Source {
    /// A TCP socket.
    Tcp(TcpListener),
    /// A vsock socket.
    Vsock(Socket),
    /// A serial line.
    Serial(Box<Line>),
}

/// A connection that was taken.
pub(super) struct Connection {
    /// A stream socket that does not block.
    pub(super) socket: OwnedFd,
    /// Where it comes from.
    pub(super) from: Address,
}

impl Source {
    /// Listens at `[tcp:]HOST:PORT`, at every address of a name, at `vsock:[CID:]PORT`, or on
    /// `serial:PATH`.
    pub(super) fn bind(text: &str) -> Result<Vec<Self>, ListenError> {
        let place = endpoint::parse_place(text).map_err(|source| ListenError::Endpoint {
            text: text.to_owned(),
            source,
        })?;
        match place {
            Place::Tcp(endpoint) => Self::bind_tcp(text, endpoint),
            Place::Vsock { cid, port } => {
                let socket = vsock::bind(cid, port).map_err(|source| ListenError::Bind {
                    address: Address::Vsock {
                        cid: cid.unwrap_or(ANY_MACHINE),
                        port,
                    },
                    source,
                })?;
                Ok(vec![Self::Vsock(socket)])
            }
            Place::Serial(path) => {
                let line = Line::open(Path::new(path)).map_err(|source| ListenError::Line {
                    path: PathBuf::from(path),
                    source,
                })?;
                Ok(vec![Self::Serial(Box::new(line))])
            }
        }
    }

    fn bind_tcp(text: &str, endpoint: Endpoint<'_>) -> Result<Vec<Self>, ListenError> {
        let mut addresses: Vec<SocketAddr> = (endpoint.host, endpoint.port)
            .to_socket_addrs()
            .map_err(|source| ListenError::Resolve {
                text: text.to_owned(),
                source,
            })?
            .collect();
        if endpoint.port == 0 {
            // Each address would get another port.
            addresses.truncate(1);
        }
        let mut sources = Vec::new();
        for address in addresses {
            let socket = TcpListener::bind(address)
                .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
                .map_err(|source| ListenError::Bind {
                    address: Address::Tcp(address),
                    source,
                })?;
            sources.push(Self::Tcp(socket));
        }
        Ok(sources)
    }

    /// Where it is.
    pub(super) fn address(&self) -> Option<Address> {
        match self {
            Self::Tcp(socket) => socket.local_addr().ok().map(Address::Tcp),
            Self::Vsock(socket) => vsock::address(socket),
            Self::Serial(line) => Some(line.address()),
        }
    }

    pub(super) fn add_to_poll<'a>(&'a self, fds: &mut Vec<PollFd<'a>>, now: Instant) {
        match self {
            Self::Tcp(socket) => fds.push(PollFd::new(socket, PollFlags::IN)),
            Self::Vsock(socket) => fds.push(PollFd::new(socket, PollFlags::IN)),
            Self::Serial(line) => line.add_to_poll(fds, now),
        }
    }

    /// When something has to be done without anybody asking.
    pub(super) fn next_duty(&self, now: Instant) -> Option<Instant> {
        match self {
            Self::Serial(line) => line.next_duty(now),
            _ => None,
        }
    }

    /// Does what has to be done before connections can be taken.
    pub(super) fn tend(&mut self, now: Instant) {
        if let Self::Serial(line) = self {
            line.tend(now);
        }
    }

    /// Takes a connection, if there is one.
    pub(super) fn accept(&mut self) -> io::Result<Option<Connection>> {
        let taken = match self {
            Self::Tcp(socket) => socket
                .accept()
                .and_then(|(socket, from)| prepared(socket, from)),
            Self::Vsock(socket) => vsock::accept(socket),
            Self::Serial(line) => return Ok(line.accept()),
        };
        match taken {
            Ok(connection) => Ok(Some(connection)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn prepared(socket: TcpStream, from: SocketAddr) -> io::Result<Connection> {
    socket.set_nonblocking(true)?;
    socket.set_nodelay(true)?;
    // A guest that vanishes without a word is noticed by these.
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, KEEP_ALIVE)?;
    sockopt::set_tcp_keepintvl(&socket, KEEP_ALIVE)?;
    sockopt::set_tcp_keepcnt(&socket, PROBES)?;
    Ok(Connection {
        socket: socket.into(),
        from: Address::Tcp(from),
    })
}
