//! `HOST:PORT` as users type it, with or without `tcp:` before it. It only splits:
//! names are resolved by whoever has a resolver.

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
}
