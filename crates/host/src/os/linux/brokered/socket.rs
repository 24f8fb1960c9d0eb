//! A socket that keeps datagrams apart, with at most one descriptor each. It never blocks by
//! itself: whoever waits says until when.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use vmshm_channel::timespec;

use crate::brokered::wire::{MAX_PACKET, Packet};
use crate::deadline::Deadline;

/// Time between two attempts while the broker has no room for another caller.
const RETRY: Duration = Duration::from_millis(10);

/// One end of a connection.
#[derive(Debug)]
pub struct Socket(OwnedFd);

/// What came over it.
#[derive(Debug)]
pub struct Received {
    bytes: [u8; MAX_PACKET + 1],
    length: usize,
    /// The first descriptor that came with it; others were closed.
    pub file: Option<OwnedFd>,
    /// Whether descriptors came for which there was no room.
    pub had_more: bool,
}

impl Received {
    /// The datagram; longer than any is allowed to be where it was cut short.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Socket {
    /// Takes a connected socket.
    #[must_use]
    pub const fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Connects to whoever listens at `path`, and waits while they have no room.
    pub(super) fn connect(path: &Path, until: Deadline) -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let address = SocketAddrUnix::new(path)?;
        loop {
            match rustix::net::connect(&socket, &address) {
                Ok(()) | Err(Errno::ISCONN) => return Ok(Self(socket)),
                Err(Errno::AGAIN | Errno::INTR) if !until.has_passed() => {
                    std::thread::sleep(RETRY);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends at once or not at all: `AGAIN` when the other side does not read. A descriptor
    /// goes along with the datagram, or neither goes.
    ///
    /// # Errors
    /// What the system says.
    pub fn try_send(&self, packet: &Packet, file: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if let Some(file) = &file {
            control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(file)));
        }
        let part = [IoSlice::new(packet.bytes())];
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        loop {
            match rustix::net::sendmsg(&self.0, &part, &mut control, flags) {
                Err(Errno::INTR) => {}
                result => return result.map(drop),
            }
        }
    }

    /// The next datagram, if one is there; nothing when the other side has closed the
    /// connection. `AGAIN` when none is there.
    ///
    /// # Errors
    /// What the system says.
    pub fn try_receive(&self) -> Result<Option<Received>, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        self.receive_into(RecvAncillaryBuffer::new(&mut space))
    }

    /// As [`try_receive`](Self::try_receive), where no descriptor is wanted: the system drops
    /// them, and `had_more` says so.
    ///
    /// # Errors
    /// What the system says.
    pub fn try_receive_plain(&self) -> Result<Option<Received>, Errno> {
        self.receive_into(RecvAncillaryBuffer::default())
    }

    fn receive_into(
        &self,
        mut control: RecvAncillaryBuffer<'_>,
    ) -> Result<Option<Received>, Errno> {
        let mut received = Received {
            bytes: [0; MAX_PACKET + 1],
            length: 0,
            file: None,
            had_more: false,
        };
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let message = loop {
            let mut part = [IoSliceMut::new(&mut received.bytes)];
            match rustix::net::recvmsg(&self.0, &mut part, &mut control, flags) {
                // They went without reading what we said. The system tells that once, and
                // before their last words, which are still there.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                result => break result?,
            }
        };
        for extra in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = extra {
                for file in files {
                    received.file.get_or_insert(file);
                }
            }
        }
        received.had_more = message.flags.contains(ReturnFlags::CTRUNC);
        received.length = message.bytes;
        Ok((message.bytes > 0).then_some(received))
    }

    /// Waits for so long, or until the other side has hung up, whatever else there is to
    /// read; whether it has.
    ///
    /// # Errors
    /// What the system says.
    pub fn wait_for_end(&self, patience: Duration) -> Result<bool, Errno> {
        let mut fds = [PollFd::new(&self.0, PollFlags::empty())];
        match rustix::event::poll(&mut fds, Some(&timespec(patience))) {
            Ok(count) => Ok(count > 0),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Waits until the socket can be read, or `patience` is over.
    ///
    /// # Errors
    /// What the system says.
    pub fn wait(&self, patience: Duration) -> Result<(), Errno> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&timespec(patience))) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brokered::wire::{FromBroker, ToBroker};

    /// A broker that has no room says so and hangs up, while the client still says hello.
    #[test]
    fn last_words_are_heard_although_ours_were_not_read() {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .map(|(ours, theirs)| (Socket::new(ours), Socket::new(theirs)))
                .expect("made");
        let last = FromBroker::Refused {
            explanation: "there is no room".to_owned(),
            hint: String::new(),
        };
        let hello = ToBroker::Regions { tag: 1 };
        ours.try_send(&hello.to_packet(), None).expect("sent");
        theirs.try_send(&last.to_packet(), None).expect("sent");
        drop(theirs);
        let heard = ours.try_receive().expect("no error").expect("last words");
        assert_eq!(FromBroker::parse(heard.bytes()), Ok(last));
        assert!(ours.try_receive().expect("no error").is_none());
    }
}
