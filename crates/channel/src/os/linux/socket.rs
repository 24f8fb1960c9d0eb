//! The socket under a channel. It refuses peers that send more descriptors than frames could
//! carry.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::channel::{Channel, ChannelError};
use crate::os::{Received, Sent};

/// Bytes of a frame that tell of a descriptor: none, it travels beside them.
pub(crate) const HANDED_BYTES: usize = 0;
/// Descriptors that may arrive before their frames are whole.
const DESCRIPTOR_LIMIT: usize = 256;
const READ_SIZE: usize = 64 << 10;

/// A connected socket that never blocks.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: UnixStream,
    descriptors: VecDeque<OwnedFd>,
}

impl Connection {
    /// Takes a connected socket.
    pub(crate) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            descriptors: VecDeque::new(),
        })
    }

    /// Bytes that were taken but not sent: the kernel's are not counted.
    #[allow(clippy::unused_self, reason = "other systems count")]
    pub(crate) const fn unsent(&self) -> usize {
        0
    }

    /// What is to be kept until its frame is sent, and what the frame says of it.
    #[allow(clippy::unused_self, reason = "other systems hand over at once")]
    pub(crate) fn hand_over(
        &self,
        handed: BorrowedFd<'_>,
    ) -> io::Result<(Option<OwnedFd>, [u8; HANDED_BYTES])> {
        Ok((Some(handed.try_clone_to_owned()?), []))
    }

    /// The descriptor that came with a frame.
    pub(crate) fn take_handed(&mut self, _: &[u8]) -> Option<OwnedFd> {
        self.descriptors.pop_front()
    }

    /// Sends as much as the socket takes now, the descriptor with the first byte.
    pub(crate) fn send_some(&self, bytes: &[u8], handed: Option<&OwnedFd>) -> io::Result<Sent> {
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let descriptor = handed.map(AsFd::as_fd);
            if let Some(fd) = &descriptor {
                control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(fd)));
            }
            let part = [IoSlice::new(bytes)];
            match rustix::net::sendmsg(&self.socket, &part, &mut control, SendFlags::NOSIGNAL) {
                Ok(count) => return Ok(Sent::Bytes(count)),
                Err(Errno::AGAIN) => return Ok(Sent::Later),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => return Ok(Sent::Gone),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes in what is there now.
    pub(crate) fn receive_some(&mut self, into: &mut Vec<u8>) -> io::Result<Received> {
        loop {
            match self.read_some(into) {
                Ok(0) | Err(Errno::CONNRESET) => return Ok(Received::End),
                Ok(_) => return Ok(Received::Bytes),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn read_some(&mut self, into: &mut Vec<u8>) -> Result<usize, Errno> {
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
        into.extend_from_slice(&bytes[..received.bytes]);
        Ok(received.bytes)
    }

    /// Waits for something to receive (`news`), or until something can be sent (`room`). Whether
    /// there is something to receive.
    pub(crate) fn wait(&self, news: bool, room: bool, longest: Duration) -> io::Result<bool> {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, news);
        flags.set(PollFlags::OUT, room);
        let mut fds = [PollFd::new(&self.socket, flags)];
        match rustix::event::poll(&mut fds, Some(&timespec(longest))) {
            Ok(_) => Ok(!(fds[0].revents() - PollFlags::OUT).is_empty()),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Channel {
    /// Takes a connected socket.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        Ok(Self::over(Connection::new(socket)?))
    }

    /// The process at the other end, and its user.
    ///
    /// # Errors
    /// What the system says.
    pub fn peer(&self) -> io::Result<(u32, u32)> {
        let credentials = rustix::net::sockopt::socket_peercred(&self.connection.socket)?;
        let pid = credentials.pid.as_raw_nonzero().get();
        Ok((pid.unsigned_abs(), credentials.uid.as_raw()))
    }

    /// What to poll for.
    pub fn interest(&self) -> PollFlags {
        if self.has_unflushed() {
            PollFlags::IN | PollFlags::OUT
        } else {
            PollFlags::IN
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.socket.as_fd()
    }
}

impl From<Errno> for ChannelError {
    fn from(error: Errno) -> Self {
        Self::System(error.into())
    }
}

/// A duration as the system's calls take it.
pub fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
