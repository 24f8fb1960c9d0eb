//! Where `vmshm listen` listens, as `--connect` names it, and the way there.

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::str::FromStr;
use std::time::Duration;

use vmshm_link::rendezvous::endpoint::{self, Endpoint};

use super::resolve;
use super::talk::TalkError;
use super::transport::Transport;

/// How long one address may take to be connected to.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long a connection may be quiet before the system asks whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Where `vmshm listen` listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listener {
    host: String,
    port: u16,
}

impl FromStr for Listener {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "expected tcp:HOST:PORT, such as tcp:10.0.2.2:7001";
        if !text.starts_with("tcp:") {
            return Err(FORM.to_owned());
        }
        let Endpoint { host, port } = endpoint::parse(text).map_err(|error| error.to_string())?;
        if port == 0 {
            return Err("nobody listens at port 0".to_owned());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = (self.host.as_str(), self.port);
        write!(f, "tcp:{}", Endpoint { host, port })
    }
}

impl Listener {
    /// Connects there.
    pub(super) fn connect(&self) -> Result<Transport, TalkError> {
        let addresses = resolve::resolve(&self.host, self.port)?;
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
    fn listeners_are_named_with_tcp_before_them() {
        for text in [
            "tcp:10.0.2.2:7001",
            "tcp:[::1]:7001",
            "tcp:host.example:7001",
        ] {
            let listener: Listener = text.parse().expect("right");
            assert_eq!(listener.to_string(), text);
        }
        for text in [
            "10.0.2.2:7001",
            "tcp:10.0.2.2",
            "tcp:host:0",
            "vsock:2:7001",
        ] {
            assert!(text.parse::<Listener>().is_err(), "{text}");
        }
    }
}
