//! How a program of the guest talks to the agent: the same messages as a host's, over a
//! Unix socket that keeps datagrams apart (`SOCK_SEQPACKET`) at [`SOCKET`].
//!
//! ```text
//! program                                    agent
//!   │ Hello: protocol version ─────────────▶ │ knows the program's user from the socket
//!   │ ◀───────────────────────────── Done    │
//!   │ Link "name" ─────────────────────────▶ │ asks its rules
//!   │ ◀─────────── Region, with its file     │ once a host has proved the pages
//!   │ Close, Remove ───────────────────────▶ │
//!   │ Bell ────────────────────────────────▶ │ not answered
//!   │ ◀──────────────────── Bell, Ended      │ unasked, tag 0
//! ```
//!
//! A datagram is eight bytes, the message's number first, and then the payload as in a
//! slot's rings. A program may send `Link`, `Close`, `Remove` and `Bell`; a link is its own
//! as long as the socket is open. A region's file is sealed: it can neither grow nor
//! shrink. A program that sends a descriptor is hung up. An agent that leaves in good order
//! says `Ended` for region 0, which there is none of, before it closes the socket.
//!
//! A `Close` of region 0 takes back the `Link` that waits under the same tag, and is answered
//! under that tag, too: with `Done`, and the `Link` has no answer then; or, where nothing
//! waits there any more, with a refusal, which comes after the answer to the `Link`.

use crate::control::{MAX_MESSAGE, Message};
use crate::error::LinkError;
use crate::fields::{put_word, word_at};
use crate::version::Version;

/// Where the agent listens for programs.
pub const SOCKET: &str = "/run/vmshm.sock";
/// Longest datagram in bytes.
pub const MAX_DATAGRAM: usize = 8 + MAX_MESSAGE;
/// Number of the first message.
pub const HELLO: u16 = 0x100;

/// A datagram ready to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Datagram {
    bytes: [u8; MAX_DATAGRAM],
    length: usize,
}

impl Datagram {
    /// Wraps a message.
    #[must_use]
    pub fn new(message: &Message) -> Self {
        Self::of(message.kind, message.payload())
    }

    /// The first datagram of a program, which speaks protocol `version`.
    #[must_use]
    pub fn hello(version: Version) -> Self {
        let mut payload = [0; 16];
        put_word(&mut payload, 8, version.to_word());
        Self::of(HELLO, &payload)
    }

    fn of(kind: u16, payload: &[u8]) -> Self {
        let mut bytes = [0; MAX_DATAGRAM];
        put_word(&mut bytes, 0, u64::from(kind));
        let length = payload.len().min(MAX_MESSAGE);
        bytes[8..8 + length].copy_from_slice(&payload[..length]);
        Self {
            bytes,
            length: 8 + length,
        }
    }

    /// What is sent.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// Takes a datagram apart: the message's number and its payload.
///
/// # Errors
/// [`LinkError::Violation`] for bytes that are no datagram.
pub fn parse(datagram: &[u8]) -> Result<(u16, &[u8]), LinkError> {
    let violation = |what, value| LinkError::Violation { what, value };
    let payload = datagram
        .get(8..)
        .filter(|payload| payload.len() <= MAX_MESSAGE)
        .ok_or(violation("the length of a datagram", datagram.len() as u64))?;
    let number = word_at(datagram, 0);
    let kind = u16::try_from(number).map_err(|_| violation("a datagram's number", number))?;
    Ok((kind, payload))
}

/// The version in the payload of a [`HELLO`].
#[must_use]
pub fn hello_version(payload: &[u8]) -> Version {
    Version::from_word(word_at(payload, 8))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Request;

    #[test]
    fn datagrams_come_apart_as_they_were_put_together() {
        let message = Request::Close { region: 7 }.to_message(3);
        let datagram = Datagram::new(&message);
        let (kind, payload) = parse(datagram.bytes()).expect("well formed");
        let request = Request::from_payload(kind, payload);
        assert_eq!(request, (3, Some(Request::Close { region: 7 })));
        let hello = Datagram::hello(crate::VERSION);
        let (kind, payload) = parse(hello.bytes()).expect("well formed");
        assert_eq!((kind, hello_version(payload)), (HELLO, crate::VERSION));
    }

    #[test]
    fn garbage_is_refused() {
        assert!(parse(&[]).is_err());
        assert!(parse(&[1; 7]).is_err());
        assert!(parse(&[0xff; 16]).is_err());
        assert!(parse(&[0; MAX_DATAGRAM + 1]).is_err());
    }
}
