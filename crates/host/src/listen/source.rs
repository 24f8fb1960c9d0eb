//! What connections come from: the sockets that are listened at.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::net::sockopt;
use vmshm_link::rendezvous::endpoint;

use super::address::Address;
use super::event::ListenError;

/// How long a connection may be quiet before the system asks whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// After so many unanswered probes a peer is gone.
const PROBES: u32 = 2;

/// Something that connections come from.
#[derive(Debug)]
pub(super) enum Source {
    /// A TCP socket.
    Tcp(TcpListener),
}

/// A connection that was taken.
pub(super) struct Connection {
    /// A stream socket that does not block.
    pub(super) socket: OwnedFd,
    /// Where it comes from.
    pub(super) from: Address,
}

impl Source {
    /// Listens at `[tcp:]HOST:PORT`, at every address of a name.
    pub(super) fn bind(text: &str) -> Result<Vec<Self>, ListenError> {
        let endpoint = endpoint::parse(text).map_err(|source| ListenError::Endpoint {
            text: text.to_owned(),
            source,
        })?;
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
        }
    }

    pub(super) fn poll_fd(&self) -> PollFd<'_> {
        match self {
            Self::Tcp(socket) => PollFd::new(socket, PollFlags::IN),
        }
    }

    /// Takes a connection, if there is one.
    pub(super) fn accept(&mut self) -> io::Result<Option<Connection>> {
        let taken = match self {
            Self::Tcp(socket) => socket.accept().and_then(|(socket, from)| {
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
            }),
        };
        match taken {
            Ok(connection) => Ok(Some(connection)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}
