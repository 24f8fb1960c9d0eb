//! The socket to the agent: datagrams with at most one descriptor each.
//!
//! It never blocks by itself. Whoever waits says until when.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType,
};
use vmshm_link::local::{Datagram, MAX_DATAGRAM};

use crate::deadline::{Deadline, timespec};

/// Time between two attempts while the agent has no room for another caller.
const RETRY: Duration = Duration::from_millis(10);

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

/// What came over it.
#[derive(Debug)]
pub(crate) struct Received {
    bytes: [u8; MAX_DATAGRAM + 1],
    length: usize,
    /// The first descriptor that came with it; others were closed.
    pub file: Option<OwnedFd>,
}

impl Received {
    /// The datagram; longer than any is allowed to be where it was cut short.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Socket {
    /// Connects to whoever listens at `path`, and waits while they have no room.
    pub(crate) fn connect(path: &Path, until: Deadline) -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let address = SocketAddrUnix::new(path)?;
        loop {
            match rustix::net::connect(&socket, &address) {
                Ok(()) | Err(Errno::ISCONN) => return Ok(Self(socket)),
                Err(Errno::AGAIN | Errno::INTR) if !until.has_passed() => until.pause(RETRY),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends at once or not at all: `AGAIN` when the other side does not read.
    pub(crate) fn try_send(&self, datagram: &Datagram) -> Result<(), Errno> {
        let mut none = SendAncillaryBuffer::default();
        let part = [IoSlice::new(datagram.bytes())];
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        loop {
            match rustix::net::sendmsg(&self.0, &part, &mut none, flags) {
                Err(Errno::INTR) => {}
                result => return result.map(drop),
            }
        }
    }

    /// Sends as soon as the other side has room; `TIMEDOUT` when it never had.
    pub(crate) fn send(&self, datagram: &Datagram, until: Deadline) -> Result<(), Errno> {
        loop {
            match self.try_send(datagram) {
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, until)?,
                result => return result,
            }
        }
    }

    /// Waits for the next datagram; nothing when the other side has closed the connection.
    /// `TIMEDOUT` when none came.
    pub(crate) fn receive(&self, until: Deadline) -> Result<Option<Received>, Errno> {
        let mut was_reset = false;
        loop {
            match self.try_receive() {
                Err(Errno::AGAIN) => self.wait(PollFlags::IN, until)?,
                Err(Errno::INTR) => {}
                // They went without reading what we said; their last words come after this.
                Err(Errno::CONNRESET) if !was_reset => was_reset = true,
                Err(Errno::CONNRESET) => return Ok(None),
                result => return result,
            }
        }
    }

    fn try_receive(&self) -> Result<Option<Received>, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut received = Received {
            bytes: [0; MAX_DATAGRAM + 1],
            length: 0,
            file: None,
        };
        let message = rustix::net::recvmsg(
            &self.0,
            &mut [IoSliceMut::new(&mut received.bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        for extra in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = extra {
                for file in files {
                    received.file.get_or_insert(file);
                }
            }
        }
        received.length = message.bytes;
        Ok((message.bytes > 0).then_some(received))
    }

    /// Ends the connection, for this side's reader, too.
    pub(crate) fn hang_up(&self) {
        // What fails here was over before.
        let _ = rustix::net::shutdown(&self.0, Shutdown::Both);
    }

    fn wait(&self, flags: PollFlags, until: Deadline) -> Result<(), Errno> {
        let left = until.left();
        if left.is_zero() {
            return Err(Errno::TIMEDOUT);
        }
        let mut fds = [PollFd::new(&self.0, flags)];
        match rustix::event::poll(&mut fds, Some(&timespec(left))) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
