//! Messages between processes of one guest: JSON frames over a Unix stream socket,
//! each with at most one file descriptor.
//!
//! A frame is its length (32 bits), the number of its descriptors (32 bits, 0 or 1)
//! and the JSON text. A channel never blocks by itself. It refuses frames beyond
//! [`FRAME_LIMIT`], peers that do not take what was sent, and anything that does not
//! parse: after an error the connection is of no use.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest frame in bytes.
pub const FRAME_LIMIT: usize = 64 << 20;
/// The most bytes that wait for a peer that does not read.
const BACKLOG_LIMIT: usize = 2 * FRAME_LIMIT;
/// Descriptors that may arrive before their frames are whole.
const DESCRIPTOR_LIMIT: usize = 256;
const HEADER: usize = 8;
const READ_SIZE: usize = 64 << 10;

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

impl From<Errno> for ChannelError {
    fn from(error: Errno) -> Self {
        Self::System(error.into())
    }
}

#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    descriptor: Option<OwnedFd>,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Channel {
    socket: UnixStream,
    incoming: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
    outgoing: VecDeque<Outgoing>,
    backlog: usize,
    /// The longest frame that is taken, and the most bytes that wait.
    limits: (usize, usize),
}

impl Channel {
    /// Takes a connected socket.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            incoming: Vec::new(),
            descriptors: VecDeque::new(),
            outgoing: VecDeque::new(),
            backlog: 0,
            limits: (FRAME_LIMIT, BACKLOG_LIMIT),
        })
    }

    /// Takes no frames longer than `incoming` bytes from now on, and keeps no more than
    /// `waiting` bytes for the peer, where it is not trusted with so much of our memory.
    pub fn set_limits(&mut self, incoming: usize, waiting: usize) {
        self.limits = (incoming.min(FRAME_LIMIT), waiting.min(BACKLOG_LIMIT));
    }

    /// How many bytes wait for the peer to read.
    pub const fn backlog(&self) -> usize {
        self.backlog
    }

    /// The process at the other end, and its user.
    pub fn peer(&self) -> io::Result<(u32, u32)> {
        let credentials = rustix::net::sockopt::socket_peercred(&self.socket)?;
        let pid = credentials.pid.as_raw_nonzero().get();
        Ok((pid.unsigned_abs(), credentials.uid.as_raw()))
    }

    /// What to poll for.
    pub fn interest(&self) -> PollFlags {
        if self.outgoing.is_empty() {
            PollFlags::IN
        } else {
            PollFlags::IN | PollFlags::OUT
        }
    }

    /// Queues a message and sends as much as the socket takes now. A peer that is gone
    /// is noticed by [`Channel::receive`], after its last messages.
    pub fn send<T: Serialize>(
        &mut self,
        message: &T,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<(), ChannelError> {
        let mut bytes = vec![0; HEADER];
        serde_json::to_writer(&mut bytes, message)
            .map_err(|error| ChannelError::Malformed(error.to_string()))?;
        let length = bytes.len() - HEADER;
        let short = u32::try_from(length).ok().filter(|_| length <= FRAME_LIMIT);
        let header = short.ok_or(ChannelError::TooLong(length))?;
        bytes[..4].copy_from_slice(&header.to_le_bytes());
        bytes[4..HEADER].copy_from_slice(&u32::from(descriptor.is_some()).to_le_bytes());
        if self.backlog + bytes.len() > self.limits.1 {
            return Err(ChannelError::Stuck);
        }
        self.backlog += bytes.len();
        self.outgoing.push_back(Outgoing {
            bytes,
            sent: 0,
            descriptor: descriptor.map(|fd| fd.try_clone_to_owned()).transpose()?,
        });
        self.flush()
    }

    /// Sends what is queued, as far as the socket takes it now.
    pub fn flush(&mut self) -> Result<(), ChannelError> {
        while let Some(frame) = self.outgoing.front_mut() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let descriptors = frame.descriptor.as_ref().map(AsFd::as_fd);
            if let Some(fd) = &descriptors {
                control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(fd)));
            }
            let part = [IoSlice::new(&frame.bytes[frame.sent..])];
            match rustix::net::sendmsg(&self.socket, &part, &mut control, SendFlags::NOSIGNAL) {
                Ok(count) => {
                    frame.descriptor = None;
                    frame.sent += count;
                    self.backlog -= count;
                    if frame.sent == frame.bytes.len() {
                        self.outgoing.pop_front();
                    }
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => {
                    self.outgoing.clear();
                    self.backlog = 0;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The next message, if a whole one is there.
    pub fn receive<T: DeserializeOwned>(
        &mut self,
    ) -> Result<Option<(T, Option<OwnedFd>)>, ChannelError> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(Some(frame));
            }
            match self.read_some() {
                Ok(0) => return Err(ChannelError::Closed),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::CONNRESET) => return Err(ChannelError::Closed),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn take_frame<T: DeserializeOwned>(
        &mut self,
    ) -> Result<Option<(T, Option<OwnedFd>)>, ChannelError> {
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
        let descriptors = u32::from_le_bytes([*d0, *d1, *d2, *d3]);
        let Some(text) = rest.get(..length) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(text)
            .map_err(|error| ChannelError::Malformed(error.to_string()))?;
        let descriptor = match descriptors {
            0 => None,
            1 => match self.descriptors.pop_front() {
                Some(fd) => Some(fd),
                None => return Err(malformed("a descriptor is missing")),
            },
            _ => return Err(malformed("too many descriptors")),
        };
        self.incoming.drain(..HEADER + length);
        Ok(Some((message, descriptor)))
    }

    fn read_some(&mut self) -> Result<usize, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = vec![0; READ_SIZE];
        let received = rustix::net::recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        if self.descriptors.len() > DESCRIPTOR_LIMIT {
            return Err(Errno::PROTO);
        }
        self.incoming.extend_from_slice(&bytes[..received.bytes]);
        Ok(received.bytes)
    }

    /// Sends all that is queued, waiting up to `patience`.
    pub fn drain(&mut self, patience: Duration) -> Result<(), ChannelError> {
        let deadline = Instant::now() + patience;
        while !self.outgoing.is_empty() {
            self.wait(PollFlags::OUT, deadline, patience)?;
            self.flush()?;
        }
        Ok(())
    }

    /// Waits up to `patience` for the next message.
    pub fn next<T: DeserializeOwned>(
        &mut self,
        patience: Duration,
    ) -> Result<(T, Option<OwnedFd>), ChannelError> {
        let deadline = Instant::now() + patience;
        loop {
            self.flush()?;
            if let Some(message) = self.receive()? {
                return Ok(message);
            }
            self.wait(self.interest(), deadline, patience)?;
        }
    }

    fn wait(
        &self,
        flags: PollFlags,
        deadline: Instant,
        patience: Duration,
    ) -> Result<(), ChannelError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ChannelError::Timeout(patience));
        }
        let mut fds = [PollFd::new(&self.socket, flags)];
        match rustix::event::poll(&mut fds, Some(&timespec(left))) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A duration as the system's calls take it.
pub fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn pair() -> (Channel, Channel) {
        let (one, other) = UnixStream::pair().expect("succeeds");
        (
            Channel::new(one).expect("succeeds"),
            Channel::new(other).expect("succeeds"),
        )
    }

    const PATIENCE: Duration = Duration::from_secs(5);

    #[test]
    fn messages_and_descriptors_arrive_in_order() {
        let (mut one, mut other) = pair();
        let file = std::fs::File::open("/dev/null").expect("succeeds");
        one.send(&"first", None).expect("succeeds");
        one.send(&"second", Some(file.as_fd())).expect("succeeds");
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
        let file = std::fs::File::open("/dev/null").expect("succeeds");
        one.send(&long, Some(file.as_fd())).expect("succeeds");
        assert!(!one.outgoing.is_empty());
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
            other.receive::<String>(),
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
            (missing, b"\"\""),
            (no_json, b"{{"),
            (wrong_type, b"7"),
        ] {
            let (mut raw, other) = UnixStream::pair().expect("succeeds");
            let mut other = Channel::new(other).expect("succeeds");
            raw.write_all(&head).expect("succeeds");
            raw.write_all(body).expect("succeeds");
            assert!(matches!(
                other.receive::<String>(),
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
