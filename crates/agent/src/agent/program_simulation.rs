//! A simulated program of the guest for tests, over a socket pair.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags,
    SocketType,
};
use vmshm_link::VERSION;
use vmshm_link::control::{Reply, Request};
use vmshm_link::local::{Datagram, MAX_DATAGRAM, parse};

use super::service::Service;
use super::simulation::turn;
use vmshm_channel::credentials::User;

/// A program that is connected to an agent.
pub(super) struct Program {
    pub(super) socket: OwnedFd,
    tag: u64,
}

/// What a program gets: the tag, the reply, and the file that came along.
pub(super) type Received = (u64, Reply, Option<OwnedFd>);

impl Program {
    /// Connects as a user, without a word.
    pub(super) fn connect(service: &mut Service, uid: u32) -> Self {
        Self::connect_after(service, uid, |_| ())
    }

    /// Connects as a user who says something before the agent can hear it.
    pub(super) fn connect_after(
        service: &mut Service,
        uid: u32,
        say: impl FnOnce(&OwnedFd),
    ) -> Self {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .expect("a socket pair");
        let user = User {
            uid,
            gid: uid,
            groups: Vec::new(),
        };
        say(&ours);
        service.programs.add(theirs, 4000 + uid, user);
        Self {
            socket: ours,
            tag: 0,
        }
    }

    /// Connects and greets.
    pub(super) fn start(service: &mut Service, uid: u32) -> Self {
        let program = Self::connect(service, uid);
        program.send_bytes(Datagram::hello(VERSION).bytes());
        turn(service);
        assert!(matches!(program.receive(), Some((0, Reply::Done, None))));
        program
    }

    pub(super) fn send_bytes(&self, bytes: &[u8]) {
        let sent = rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL);
        assert_eq!(sent, Ok(bytes.len()));
    }

    /// Sends a request; its tag.
    pub(super) fn send(&mut self, request: &Request) -> u64 {
        self.tag += 1;
        self.send_tagged(self.tag, request);
        self.tag
    }

    /// Sends a request under a tag that was there before.
    pub(super) fn send_tagged(&self, tag: u64, request: &Request) {
        self.send_bytes(Datagram::new(&request.to_message(tag)).bytes());
    }

    /// The next message, if one is there.
    pub(super) fn receive(&self) -> Option<Received> {
        let mut bytes = [0; MAX_DATAGRAM];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [std::io::IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let length = match rustix::net::recvmsg(&self.socket, &mut parts, &mut control, flags) {
            Ok(received) if received.bytes > 0 => received.bytes,
            Ok(_) => panic!("the connection has ended"),
            Err(Errno::AGAIN) => return None,
            Err(error) => panic!("{error}"),
        };
        let mut file = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut files) = message {
                file = files.next();
            }
        }
        let (kind, payload) = parse(&bytes[..length]).expect("a datagram");
        let (tag, reply) = Reply::from_payload(kind, payload).expect("a right reply");
        Some((tag, reply, file))
    }

    /// Asks and waits for the answer.
    pub(super) fn ask(
        &mut self,
        service: &mut Service,
        request: &Request,
    ) -> (Reply, Option<OwnedFd>) {
        let tag = self.send(request);
        for _ in 0..2000 {
            turn(service);
            if let Some((answered, reply, file)) = self.receive() {
                assert_eq!(answered, tag);
                return (reply, file);
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("no answer to {request:?}");
    }

    /// Whether the agent has ended the connection.
    pub(super) fn is_over(&self) -> bool {
        let mut bytes = [0; MAX_DATAGRAM];
        loop {
            match rustix::net::recv(&self.socket, &mut bytes[..], RecvFlags::empty()) {
                Ok((0, _)) | Err(Errno::CONNRESET) => return true,
                Ok(_) => {}
                Err(Errno::AGAIN) => return false,
                Err(error) => panic!("{error}"),
            }
        }
    }
}
