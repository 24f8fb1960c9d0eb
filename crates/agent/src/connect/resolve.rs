//! From a host's name to its addresses.
//!
//! Names are looked up by the guest's own `getent`: the agent is a static program, and
//! the C library's resolver would load the guest's libraries into it, of whatever
//! version. Addresses need no look-up.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::process::{Command, Stdio};

/// The most addresses of one name that are tried.
const LIMIT: usize = 8;

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    /// There is no program to ask.
    #[error("cannot run getent to look up {host}: {error} (an address needs no look-up)")]
    NoResolver {
        /// The name.
        host: String,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// Nobody knows it.
    #[error("no address is known for {0}")]
    Unknown(String),
}

/// The addresses of `host`, in the order in which they should be tried.
pub(super) fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
    if let Some(address) = literal(host, port) {
        return Ok(vec![address]);
    }
    let output = Command::new("getent")
        .args(["ahosts", host])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map_err(|error| ResolveError::NoResolver {
            host: host.to_owned(),
            error,
        })?;
    let addresses = listed(&String::from_utf8_lossy(&output.stdout), port);
    if addresses.is_empty() {
        return Err(ResolveError::Unknown(host.to_owned()));
    }
    Ok(addresses)
}

fn literal(host: &str, port: u16) -> Option<SocketAddr> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, port));
    }
    // A link-local address with its interface, by name or number.
    let (address, zone) = host.split_once('%')?;
    let index = zone
        .parse()
        .ok()
        .or_else(|| interface_index(zone))
        .filter(|index| *index != 0)?;
    Some(SocketAddrV6::new(address.parse().ok()?, port, 0, index).into())
}

fn interface_index(name: &str) -> Option<u32> {
    // The endpoint's letters leave no way out of the directory but these.
    if name.starts_with('.') {
        return None;
    }
    let text = std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).ok()?;
    text.trim().parse().ok()
}

/// The addresses in the output of `getent ahosts`: one line for each kind of socket.
fn listed(text: &str, port: u16) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for line in text.lines() {
        let word = line.split_ascii_whitespace().next().unwrap_or_default();
        if let Some(address) = literal(word, port)
            && !addresses.contains(&address)
            && addresses.len() < LIMIT
        {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_as_they_are() {
        let at = |host: &str| resolve(host, 7).expect("an address");
        assert_eq!(at("10.0.2.2"), ["10.0.2.2:7".parse().expect("right")]);
        assert_eq!(at("::1"), ["[::1]:7".parse().expect("right")]);
        let scoped = at("fe80::1%1");
        assert!(matches!(scoped[..], [SocketAddr::V6(v6)] if v6.scope_id() == 1));
        assert!(literal("fe80::1%..", 7).is_none());
    }

    #[test]
    fn each_listed_address_comes_once_and_in_order() {
        let text = "::1             STREAM localhost\n::1             DGRAM  \n127.0.0.1       STREAM \nnonsense\n\n";
        let expected: [SocketAddr; 2] =
            ["[::1]:9", "127.0.0.1:9"].map(|text| text.parse().expect("right"));
        assert_eq!(listed(text, 9), expected);
    }

    #[test]
    fn names_are_looked_up() {
        let addresses = resolve("localhost", 9).expect("every system knows it");
        assert!(addresses.iter().all(|address| address.ip().is_loopback()));
        assert!(matches!(
            resolve("no-such-host.invalid", 9),
            Err(ResolveError::Unknown(_))
        ));
    }
}
