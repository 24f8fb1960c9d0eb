//! Messages between processes of one system: JSON frames over a connection that the system
//! lends, each with at most one thing that is handed over (a descriptor, a handle).
//!
//! A frame is its length (32 bits), the number of things handed over (32 bits, 0 or 1), the
//! JSON text, and what the system needs to say of the thing handed over ([`HANDED_BYTES`]). A
//! channel never blocks by itself. It refuses frames beyond [`FRAME_LIMIT`], peers that do
//! not take what was sent, and anything that does not parse: after an error the connection
//! is of no use.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::os::{Connection, HANDED_BYTES, Handed, HandedRef, Received, Sent};

/// The longest frame in bytes.
pub const FRAME_LIMIT: usize = 64 << 20;
/// The most bytes that wait for a peer that does not read.
const BACKLOG_LIMIT: usize = 2 * FRAME_LIMIT;
const HEADER: usize = 8;

/// Why a channel ended, or never came to be.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other side has closed it.
    #[error("the other side has closed the connection")]
    Closed,
    /// The other side did not answer in time.
    #[error("no answer within {} seconds", .0.as_secs())]
    Timeout(Duration),
    /// The other side does not read what it is sent.
    #[error("the other side does not take its messages")]
    Stuck,
    /// A frame that cannot be.
    #[error("the other side sent a malformed message: {0}")]
    Malformed(String),
    /// A message of our own that is too long to send.
    #[error("a message of {0} bytes is too long to send")]
    TooLong(usize),
    /// The system failed.
    #[error("the connection failed: {0}")]
    System(#[from] io::Error),
}

#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    handed: Option<Handed>,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Channel {
    pub(crate) connection: Connection,
    incoming: Vec<u8>,
    outgoing: VecDeque<Outgoing>,
    backlog: usize,
    /// The longest frame that is taken, and the most bytes that wait.
    limits: (usize, usize),
}

impl Channel {
    pub(crate) const fn over(connection: Connection) -> Self {
        Self {
            connection,
            incoming: Vec::new(),
            outgoing: VecDeque::new(),
            backlog: 0,
            limits: (FRAME_LIMIT, BACKLOG_LIMIT),
        }
    }

    /// Takes no frames longer than `incoming` bytes from now on, and keeps no more than
    /// `waiting` bytes for the peer, where it is not trusted with so much of our memory.
    pub fn set_limits(&mut self, incoming: usize, waiting: usize) {
        self.limits = (incoming.min(FRAME_LIMIT), waiting.min(BACKLOG_LIMIT));
    }

    /// How many bytes wait for the peer to read.
    pub fn backlog(&self) -> usize {
        self.backlog + self.connection.unsent()
    }

    /// Whether there is something that only [`Channel::flush`] sends.
    pub fn has_unflushed(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Queues a message and sends as much as the connection takes now. A peer that is gone
    /// is noticed by [`Channel::receive`], after its last messages.
    ///
    /// # Errors
    /// [`ChannelError`]; nothing was queued then.
    pub fn send<T: Serialize>(
        &mut self,
        message: &T,
        handed: Option<HandedRef<'_>>,
    ) -> Result<(), ChannelError> {
        let mut bytes = frame(message)?;
        let described = if handed.is_some() { HANDED_BYTES } else { 0 };
        if self.backlog() + bytes.len() + described > self.limits.1 {
            return Err(ChannelError::Stuck);
        }
        let handed = match handed {
            None => None,
            Some(handed) => {
                bytes[4..HEADER].copy_from_slice(&1_u32.to_le_bytes());
                let (kept, description) = self.connection.hand_over(handed)?;
                bytes.extend(description);
                kept
            }
        };
        self.backlog += bytes.len();
        self.outgoing.push_back(Outgoing {
            bytes,
            sent: 0,
            handed,
        });
        self.flush()
    }

    /// Sends what is queued, as far as the connection takes it now.
    ///
    /// # Errors
    /// [`ChannelError::System`].
    pub fn flush(&mut self) -> Result<(), ChannelError> {
        while let Some(frame) = self.outgoing.front_mut() {
            let rest = frame.bytes.get(frame.sent..).unwrap_or_default();
            match self.connection.send_some(rest, frame.handed.as_ref())? {
                Sent::Bytes(count) => {
                    frame.handed = None;
                    frame.sent += count;
                    self.backlog -= count;
                    if frame.sent == frame.bytes.len() {
                        self.outgoing.pop_front();
                    }
                }
                Sent::Later => break,
                Sent::Gone => {
                    self.outgoing.clear();
                    self.backlog = 0;
                }
            }
        }
        Ok(())
    }

    /// The next message, if a whole one is there.
    ///
    /// # Errors
    /// [`ChannelError`]; [`ChannelError::Closed`] after the peer's last message.
    pub fn receive<T: DeserializeOwned>(
        &mut self,
    ) -> Result<Option<(T, Option<Handed>)>, ChannelError> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(Some(frame));
            }
            match self.connection.receive_some(&mut self.incoming)? {
                Received::Bytes => {}
                Received::Nothing => return Ok(None),
                Received::End => return Err(ChannelError::Closed),
            }
        }
    }

    fn take_frame<T: DeserializeOwned>(
        &mut self,
    ) -> Result<Option<(T, Option<Handed>)>, ChannelError> {
        let malformed = |what: &str| ChannelError::Malformed(what.to_owned());
        let Some(([l0, l1, l2, l3, d0, d1, d2, d3], rest)) =
            self.incoming.split_first_chunk::<HEADER>()
        else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([*l0, *l1, *l2, *l3]);
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= self.limits.0)
            .ok_or_else(|| malformed("too long"))?;
        let described = match u32::from_le_bytes([*d0, *d1, *d2, *d3]) {
            0 => None,
            1 => Some(HANDED_BYTES),
            _ => return Err(malformed("too many descriptors")),
        };
        let whole = length + described.unwrap_or(0);
        let Some((text, description)) = rest.get(..whole).map(|rest| rest.split_at(length)) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(text)
            .map_err(|error| ChannelError::Malformed(error.to_string()))?;
        let handed = match described {
            None => None,
            Some(_) => match self.connection.take_handed(description) {
                Some(handed) => Some(handed),
                None => return Err(malformed("a descriptor is missing")),
            },
        };
        self.incoming.drain(..HEADER + whole);
        Ok(Some((message, handed)))
    }

    /// Sends all that is queued, waiting up to `patience`.
    ///
    /// # Errors
    /// [`ChannelError::Timeout`], or what the system says.
    pub fn drain(&mut self, patience: Duration) -> Result<(), ChannelError> {
        let deadline = Instant::now() + patience;
        while self.backlog() > 0 {
            self.wait_until(deadline, patience, false, true)?;
            self.flush()?;
        }
        Ok(())
    }

    /// Waits up to `patience` for the next message.
    ///
    /// # Errors
    /// [`ChannelError::Timeout`], or as [`Channel::receive`].
    pub fn next<T: DeserializeOwned>(
        &mut self,
        patience: Duration,
    ) -> Result<(T, Option<Handed>), ChannelError> {
        let deadline = Instant::now() + patience;
        loop {
            self.flush()?;
            if let Some(message) = self.receive()? {
                return Ok(message);
            }
            self.wait_until(deadline, patience, true, self.has_unflushed())?;
        }
    }

    /// Waits until the peer has sent something or is gone, or, with `room`, until it takes
    /// more; no longer than `longest`. Whether there is something to [receive](Channel::receive).
    ///
    /// # Errors
    /// What the system says.
    pub fn wait(&self, room: bool, longest: Duration) -> io::Result<bool> {
        self.connection.wait(true, room, longest)
    }

    fn wait_until(
        &self,
        deadline: Instant,
        patience: Duration,
        news: bool,
        room: bool,
    ) -> Result<(), ChannelError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ChannelError::Timeout(patience));
        }
        self.connection.wait(news, room, left)?;
        Ok(())
    }
}

/// A message as it travels when nothing is handed over with it.
///
/// # Errors
/// [`ChannelError::TooLong`], and [`ChannelError::Malformed`] for what JSON cannot say.
pub fn frame<T: Serialize>(message: &T) -> Result<Vec<u8>, ChannelError> {
    let mut bytes = vec![0; HEADER];
    serde_json::to_writer(&mut bytes, message)
        .map_err(|error| ChannelError::Malformed(error.to_string()))?;
    let length = bytes.len() - HEADER;
    let short = u32::try_from(length).ok().filter(|_| length <= FRAME_LIMIT);
    let header = short.ok_or(ChannelError::TooLong(length))?;
    bytes[..4].copy_from_slice(&header.to_le_bytes());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::trial;

    fn pair() -> (Channel, Channel) {
        trial::pair().expect("succeeds")
    }

    const PATIENCE: Duration = Duration::from_secs(5);

    #[test]
    fn messages_and_descriptors_arrive_in_order() {
        let (mut one, mut other) = pair();
        let file = trial::file().expect("succeeds");
        one.send(&"first", None).expect("succeeds");
        one.send(&"second", Some(crate::borrowed(&file)))
            .expect("succeeds");
        one.send(&"third", None).expect("succeeds");
        let mut next = || other.next::<String>(PATIENCE).expect("succeeds");
        assert!(matches!(next(), (text, None) if text == "first"));
        assert!(matches!(next(), (text, Some(_)) if text == "second"));
        assert!(matches!(next(), (text, None) if text == "third"));
        assert!(other.receive::<String>().expect("succeeds").is_none());
    }

    #[test]
    fn long_messages_cross_although_the_socket_takes_them_in_parts() {
        let (mut one, mut other) = pair();
        let long = "x".repeat(3 << 20);
        let file = trial::file().expect("succeeds");
        one.send(&long, Some(crate::borrowed(&file)))
            .expect("succeeds");
        assert!(one.backlog() > 0);
        let reader = std::thread::spawn(move || other.next::<String>(PATIENCE).expect("succeeds"));
        one.drain(PATIENCE).expect("succeeds");
        let (text, descriptor) = reader.join().expect("succeeds");
        assert_eq!(text, long);
        assert!(descriptor.is_some());
    }

    #[test]
    fn the_last_messages_of_a_dead_peer_are_read_before_its_end() {
        let (mut one, mut other) = pair();
        other.send(&"unread", None).expect("succeeds");
        one.send(&"last words", None).expect("succeeds");
        drop(one);
        assert_eq!(
            other.next::<String>(PATIENCE).expect("succeeds").0,
            "last words"
        );
        assert!(matches!(
            other.next::<String>(PATIENCE),
            Err(ChannelError::Closed)
        ));
        // Sending to a dead peer is no error of its own.
        other.send(&"too late", None).expect("succeeds");
    }

    #[test]
    fn malformed_frames_are_refused() {
        let mut too_long = u32::MAX.to_le_bytes().to_vec();
        too_long.extend([0; 4]);
        let missing = [2_u32.to_le_bytes(), 1_u32.to_le_bytes()].concat();
        let no_json = [2_u32.to_le_bytes(), 0_u32.to_le_bytes()].concat();
        let wrong_type = [1_u32.to_le_bytes(), 0_u32.to_le_bytes()].concat();
        for (head, body) in [
            (too_long, "".as_bytes()),
            (
                missing,
                &[b"\"\"".as_slice(), &[0xff; HANDED_BYTES]].concat(),
            ),
            (no_json, b"{{"),
            (wrong_type, b"7"),
        ] {
            let bytes = [head.as_slice(), body].concat();
            let mut other = trial::that_hears(&bytes).expect("succeeds");
            assert!(matches!(
                other.next::<String>(PATIENCE),
                Err(ChannelError::Malformed(_))
            ));
        }
    }

    #[test]
    fn a_peer_that_is_not_trusted_with_much_gets_less() {
        let (mut one, mut other) = pair();
        other.set_limits(100_000, 300_000);
        one.send(&"x".repeat(99_000), None).expect("succeeds");
        assert!(other.next::<String>(PATIENCE).is_ok());
        one.send(&"x".repeat(101_000), None).expect("succeeds");
        let refused = other.next::<String>(PATIENCE);
        assert!(matches!(refused, Err(ChannelError::Malformed(_))));
        let long = "x".repeat(200_000);
        while other.backlog() < 90_000 {
            other.send(&long, None).expect("succeeds");
        }
        let mut stuck = false;
        for _ in 0..2 {
            stuck |= matches!(other.send(&long, None), Err(ChannelError::Stuck));
        }
        assert!(stuck && other.backlog() <= 300_000);
    }

    #[test]
    fn a_peer_that_says_nothing_is_not_waited_for_forever() {
        let (_one, mut other) = pair();
        let patience = Duration::from_millis(30);
        assert!(matches!(
            other.next::<String>(patience),
            Err(ChannelError::Timeout(_))
        ));
    }
}
