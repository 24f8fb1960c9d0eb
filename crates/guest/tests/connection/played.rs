//! An agent played by the test: listens, and says what the test has it say.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use tempfile::TempDir;
use vmshm_link::control::{RegionReply, Reply, Request};
use vmshm_link::local::{self, Datagram, HELLO, MAX_DATAGRAM};

/// Size of the regions that are played.
pub const SIZE: u64 = 16 << 12;

/// Where the played agent listens.
pub struct Listener {
    socket: OwnedFd,
    directory: TempDir,
}

/// A program that has called.
pub struct Caller(OwnedFd);

fn seqpacket() -> OwnedFd {
    rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .expect("a socket")
}

impl Listener {
    pub fn new() -> Self {
        let mut listener = Self {
            socket: seqpacket(),
            directory: tempfile::tempdir().expect("a directory"),
        };
        listener.listen();
        listener
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    /// Begins again, as an agent that is started anew.
    pub fn listen(&mut self) {
        let _ = std::fs::remove_file(self.path());
        self.socket = seqpacket();
        let address = SocketAddrUnix::new(self.path()).expect("short");
        rustix::net::bind(&self.socket, &address).expect("bound");
        rustix::net::listen(&self.socket, 4).expect("listens");
    }

    /// No agent is there any more.
    pub fn vanish(&mut self) {
        std::fs::remove_file(self.path()).expect("was there");
        self.socket = seqpacket();
    }

    /// The next caller, before it is greeted.
    pub fn accept(&self) -> Caller {
        Caller(rustix::net::accept(&self.socket).expect("a caller"))
    }

    /// The next caller, greeted.
    pub fn welcome(&self) -> Caller {
        let caller = self.accept();
        let (kind, payload) = caller.datagram().expect("a hello");
        assert_eq!(kind, HELLO);
        assert_eq!(local::hello_version(&payload), vmshm_link::VERSION);
        caller.say(0, &Reply::Done);
        caller
    }
}

impl Caller {
    /// What comes next; nothing when it has hung up.
    pub fn datagram(&self) -> Option<(u16, Vec<u8>)> {
        let mut bytes = [0; MAX_DATAGRAM];
        let mut control = RecvAncillaryBuffer::default();
        let part = &mut [IoSliceMut::new(&mut bytes)];
        let message = rustix::net::recvmsg(&self.0, part, &mut control, RecvFlags::empty());
        let length = message.expect("received").bytes;
        (length > 0).then(|| {
            let (kind, payload) = local::parse(&bytes[..length]).expect("well formed");
            (kind, payload.to_vec())
        })
    }

    /// The next request and its tag.
    pub fn request(&self) -> (u64, Request) {
        let (kind, payload) = self.datagram().expect("a request");
        let (tag, request) = Request::from_payload(kind, &payload);
        (tag, request.expect("known"))
    }

    /// The next request, which asks for the region `name`.
    pub fn asked_for(&self, name: &str) -> u64 {
        let (tag, request) = self.request();
        match request {
            Request::Link { name: asked, .. } => assert_eq!(asked.as_str(), name),
            other => panic!("{other:?}"),
        }
        tag
    }

    pub fn say(&self, tag: u64, reply: &Reply) {
        self.bytes(Datagram::new(&reply.to_message(tag)).bytes());
    }

    pub fn bytes(&self, bytes: &[u8]) {
        rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL).expect("sent");
    }

    /// Grants a region with its file.
    pub fn grant(&self, tag: u64, region: u64, file: impl AsFd) {
        let datagram = Datagram::new(&reply(region, true).to_message(tag));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files = [file.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&files));
        let part = [IoSlice::new(datagram.bytes())];
        rustix::net::sendmsg(&self.0, &part, &mut control, SendFlags::empty()).expect("sent");
    }
}

/// What the agent says of a region.
pub fn reply(region: u64, ready: bool) -> Reply {
    Reply::Region(RegionReply {
        region,
        size: SIZE,
        extents: 1,
        ready,
        key: 0,
        placement: 0,
    })
}

/// A region's file as the keeper makes them.
pub fn sealed() -> OwnedFd {
    let file = unsealed();
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals).expect("sealed");
    file
}

/// The same without seals.
pub fn unsealed() -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("vmshm-test", flags).expect("made");
    rustix::fs::ftruncate(&file, SIZE).expect("resized");
    file
}
