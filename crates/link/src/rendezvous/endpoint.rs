//! Where listener and agent meet, as users type it: `HOST:PORT` with or without `tcp:`
//! before it, `vsock:…`, `serial:…`. It only splits: names are resolved by whoever has a
//! resolver, and paths are opened by whoever has files.

use core::fmt;

/// The longest name of a host (RFC 1035, 2.3.4).
const MAX_HOST: usize = 253;

/// Where to connect to or listen at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint<'a> {
    /// A name or an address, without brackets.
    pub host: &'a str,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Endpoint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Why a text is no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// There is no port.
    #[error("expected HOST:PORT, such as 127.0.0.1:7001 or [::1]:7001")]
    Form,
    /// The port is none.
    #[error("the port must be a number from 0 to 65535")]
    Port,
    /// The host cannot be one.
    #[error("the host must be a name, an IPv4 address, or an IPv6 address in brackets")]
    Host,
    /// The numbers of a vsock address are none.
    #[error("expected vsock:PORT or vsock:CID:PORT, both numbers of 32 bits")]
    Vsock,
    /// The path cannot be one.
    #[error("expected serial:PATH, with the path of a terminal device or a Unix socket")]
    Serial,
}

/// Where to connect to or listen at, over whatever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// Over TCP.
    Tcp(Endpoint<'a>),
    /// Over vsock.
    Vsock {
        /// Which machine, if one is named; the host is 2.
        cid: Option<u32>,
        /// The port.
        port: u32,
    },
    /// Over a serial line at this path.
    Serial(&'a str),
}

/// Splits `[tcp:]HOST:PORT`, `vsock:[CID:]PORT` or `serial:PATH`.
///
/// # Errors
/// [`EndpointError`].
pub fn parse_place(text: &str) -> Result<Place<'_>, EndpointError> {
    if let Some(path) = text.strip_prefix("serial:") {
        return if path.is_empty() || path.contains('\0') {
            Err(EndpointError::Serial)
        } else {
            Ok(Place::Serial(path))
        };
    }
    let Some(numbers) = text.strip_prefix("vsock:") else {
        return parse(text).map(Place::Tcp);
    };
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| is_number);
        // All ones stands for any.
        number
            .filter(|number| *number != u32::MAX)
            .ok_or(EndpointError::Vsock)
    };
    Ok(match numbers.split_once(':') {
        None => Place::Vsock {
            cid: None,
            port: number(numbers)?,
        },
        Some((cid, port)) => Place::Vsock {
            cid: Some(number(cid)?),
            port: number(port)?,
        },
    })
}

/// Splits `[tcp:]HOST:PORT`; IPv6 addresses stand in brackets.
///
/// # Errors
/// [`EndpointError`].
pub fn parse(text: &str) -> Result<Endpoint<'_>, EndpointError> {
    let text = text.strip_prefix("tcp:").unwrap_or(text);
    let (host, port) = text.rsplit_once(':').ok_or(EndpointError::Form)?;
    let host = match host.strip_prefix('[') {
        Some(rest) => {
            let address = rest.strip_suffix(']').ok_or(EndpointError::Host)?;
            let is_address =
                |letter: char| letter.is_ascii_hexdigit() || matches!(letter, ':' | '.');
            // After a percent sign comes the interface of a link-local address.
            let (number, zone) = address.split_once('%').unwrap_or((address, "0"));
            if !number.contains(':') || !number.chars().all(is_address) || !is_name(zone) {
                return Err(EndpointError::Host);
            }
            address
        }
        None if is_name(host) => host,
        None => return Err(EndpointError::Host),
    };
    let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|_| is_number);
    Ok(Endpoint {
        host,
        port: port.ok_or(EndpointError::Port)?,
    })
}

fn is_name(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=MAX_HOST).contains(&text.len())
        && text.bytes().all(letter)
        // A resolver that is a program must not take it for an option.
        && !text.starts_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_both_kinds_of_addresses_are_split() {
        for (text, host, port) in [
            ("tcp:10.0.2.2:7001", "10.0.2.2", 7001),
            ("localhost:0", "localhost", 0),
            ("tcp:[::1]:7001", "::1", 7001),
            ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
        ] {
            assert_eq!(parse(text), Ok(Endpoint { host, port }), "{text}");
        }
        let shown = std::format!("{}", parse("tcp:[::1]:7001").expect("right"));
        assert_eq!(shown, "[::1]:7001");
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "tcp:",
            "7001",
            ":7001",
            "host:",
            "host:70000",
            "host:+1",
            "::1:7001",
            "[::1:7001",
            "[host]:7001",
            "-h:7001",
            "a b:1",
            "udp:host:1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_kind_of_place_is_told_by_its_prefix() {
        for (text, place) in [
            ("h:1", Place::Tcp(Endpoint { host: "h", port: 1 })),
            (
                "tcp:vsock:1",
                Place::Tcp(Endpoint {
                    host: "vsock",
                    port: 1,
                }),
            ),
            (
                "vsock:7001",
                Place::Vsock {
                    cid: None,
                    port: 7001,
                },
            ),
            (
                "vsock:2:0",
                Place::Vsock {
                    cid: Some(2),
                    port: 0,
                },
            ),
            ("serial:/dev/ttyS1", Place::Serial("/dev/ttyS1")),
            ("serial:a:b", Place::Serial("a:b")),
        ] {
            assert_eq!(parse_place(text), Ok(place), "{text}");
        }
        for text in [
            "vsock:",
            "vsock:x",
            "vsock:+1",
            "vsock:2:",
            "vsock:1:2:3",
            "vsock:4294967295",
            "serial:",
            "serial:a\0b",
            "unix:/a",
        ] {
            assert!(parse_place(text).is_err(), "{text}");
        }
    }
}
