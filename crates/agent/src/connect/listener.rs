//! Where `vmshm listen` listens, as `--connect` names it, and the way there.

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};
use vmshm_link::rendezvous::endpoint::{self, Endpoint, Place};

use super::line::Line;
use super::resolve;
use super::talk::TalkError;
use super::transport::Transport;
use crate::facts;

/// How long one address may take to be connected to.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long a connection may be quiet before the system asks whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Where `vmshm listen` listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listener {
    /// Over TCP.
    Tcp {
        /// A name or an address.
        host: String,
        /// The port.
        port: u16,
    },
    /// Over vsock.
    Vsock {
        /// The machine; the host is 2.
        cid: u32,
        /// The port.
        port: u32,
    },
    /// Over this serial device.
    Serial(PathBuf),
}

impl FromStr for Listener {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "expected tcp:HOST:PORT (such as tcp:10.0.2.2:7001), vsock:2:PORT, \
                            or serial:/dev/NAME";
        let is_known = ["tcp:", "vsock:", "serial:"]
            .iter()
            .any(|kind| text.starts_with(kind));
        if !is_known {
            return Err(FORM.to_owned());
        }
        let listener = match endpoint::parse_place(text).map_err(|error| error.to_string())? {
            Place::Tcp(Endpoint { host, port }) => Self::Tcp {
                host: host.to_owned(),
                port,
            },
            Place::Vsock { cid: None, .. } => {
                return Err("expected vsock:CID:PORT; the host is CID 2".to_owned());
            }
            Place::Vsock {
                cid: Some(cid),
                port,
            } => Self::Vsock { cid, port },
            Place::Serial(path) if path.starts_with('/') => Self::Serial(PathBuf::from(path)),
            Place::Serial(_) => return Err("expected serial: and an absolute path".to_owned()),
        };
        match listener {
            Self::Tcp { port: 0, .. } | Self::Vsock { port: 0, .. } => {
                Err("nobody listens at port 0".to_owned())
            }
            listener => Ok(listener),
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => write!(f, "tcp:{}", Endpoint { host, port: *port }),
            Self::Vsock { cid, port } => write!(f, "vsock:{cid}:{port}"),
            Self::Serial(path) => write!(f, "serial:{}", path.display()),
        }
    }
}

impl Listener {
    /// Connects there.
    pub(super) fn connect(&self) -> Result<Transport, TalkError> {
        match self {
            Self::Tcp { host, port } => connect_tcp(host, *port),
            Self::Vsock { cid, port } => connect_vsock(*cid, *port),
            Self::Serial(path) => connect_serial(path),
        }
    }
}

fn connect_tcp(host: &str, port: u16) -> Result<Transport, TalkError> {
    let addresses = resolve::resolve(host, port)?;
    let mut last = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_LIMIT) {
            Ok(socket) => return Ok(prepared(socket)?),
            Err(error) => last = Some(error),
        }
    }
    Err(TalkError::Connect(last.unwrap_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "the name has no address")
    })))
}

fn connect_vsock(cid: u32, port: u32) -> Result<Transport, TalkError> {
    let no_vsock = |error: io::Error| match Errno::from_io_error(&error) {
        Some(Errno::AFNOSUPPORT) => TalkError::NoVsock,
        _ => TalkError::Connect(error),
    };
    let socket = Socket::new(Domain::VSOCK, Type::STREAM, None).map_err(no_vsock)?;
    socket
        .connect_timeout(&SockAddr::vsock(cid, port), CONNECT_LIMIT)
        .map_err(|error| match Errno::from_io_error(&error) {
            // There is vsock, but no device that leads out of here.
            Some(Errno::NODEV) => TalkError::NoVsock,
            _ => TalkError::Connect(error),
        })?;
    socket.set_nonblocking(true)?;
    Ok(Transport::Socket(socket.into()))
}

fn connect_serial(path: &Path) -> Result<Transport, TalkError> {
    let line = Line::open(path, facts::random_word()?).map_err(|error| TalkError::Line {
        path: path.to_owned(),
        error,
    })?;
    Ok(Transport::Serial(Box::new(line)))
}

fn prepared(socket: TcpStream) -> io::Result<Transport> {
    socket.set_nonblocking(true)?;
    socket.set_nodelay(true)?;
    // A host that vanishes without a word is noticed by these.
    rustix::net::sockopt::set_socket_keepalive(&socket, true)?;
    rustix::net::sockopt::set_tcp_keepidle(&socket, KEEP_ALIVE)?;
    rustix::net::sockopt::set_tcp_keepintvl(&socket, KEEP_ALIVE)?;
    Ok(Transport::Socket(socket.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_named_with_their_kind_before_them() {
        for text in [
            "tcp:10.0.2.2:7001",
            "tcp:[::1]:7001",
            "tcp:host.example:7001",
            "vsock:2:7001",
            "serial:/dev/ttyS1",
        ] {
            let listener: Listener = text.parse().expect("right");
            assert_eq!(listener.to_string(), text);
        }
        for text in [
            "10.0.2.2:7001",
            "tcp:10.0.2.2",
            "tcp:host:0",
            "vsock:7001",
            "vsock:2:0",
            "vsock:2:x",
            "serial:",
            "serial:ttyS1",
            "unix:/run/socket",
        ] {
            assert!(text.parse::<Listener>().is_err(), "{text}");
        }
    }

    #[test]
    fn vsock_that_leads_nowhere_says_so() {
        // Nobody listens at that port of this machine, if it can be talked to at all.
        let listener = Listener::Vsock {
            cid: 1,
            port: 0x7fff_fff1,
        };
        let error = listener.connect().expect_err("nobody is there").to_string();
        assert!(!error.is_empty());
        let Err(TalkError::Line { path, .. }) =
            Listener::Serial(PathBuf::from("/no/such/line")).connect()
        else {
            panic!("there is no such line");
        };
        assert_eq!(path, Path::new("/no/such/line"));
    }
}
