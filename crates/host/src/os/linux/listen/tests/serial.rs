//! Agents over serial lines: tied, rung, restarted at any byte, gone without a word; and
//! lines that carry what nobody has sent.

use std::fs::File;
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::pty::OpenptFlags;
use tempfile::TempDir;
use vmshm_link::rendezvous::serial::{Decoder, FLUSH, Frame, Kind, MAX_CHUNK};

use super::*;

/// The guest's end of a line, and what it has understood.
struct Wire {
    line: File,
    decoder: Decoder,
    number: u32,
    /// What of the connection has not been taken.
    inbox: Inbox,
    closed: bool,
}

impl Wire {
    fn new(line: impl Into<std::os::fd::OwnedFd>) -> Self {
        let line = File::from(line.into());
        rustix::io::ioctl_fionbio(&line, true).expect("set");
        Self {
            line,
            decoder: Decoder::default(),
            number: 0,
            inbox: Inbox::default(),
            closed: false,
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.line.write_all(bytes).expect("there is room");
    }

    fn knock(&mut self, number: u32) {
        self.number = number;
        self.inbox = Inbox::default();
        self.closed = false;
        self.put(&FLUSH);
        self.put(Frame::new(Kind::Knock, number, &[]).as_bytes());
    }

    fn say(&mut self, kind: Kind, payload: &[u8]) {
        let frame = Frame::new(kind, self.number, payload);
        self.put(frame.as_bytes());
    }

    fn send(&mut self, message: Message) {
        self.say(Kind::Data, message.encode().as_bytes());
    }

    /// Takes what has come; the kinds of the frames of its connection.
    fn hear(&mut self) -> Vec<Kind> {
        let mut kinds = Vec::new();
        loop {
            while let Some(frame) = self.decoder.take() {
                if frame.connection != self.number {
                    continue;
                }
                kinds.push(frame.kind);
                self.closed |= frame.kind == Kind::Close;
                let payload = frame.payload();
                let space = self.inbox.space();
                space[..payload.len()].copy_from_slice(payload);
                self.inbox.filled(payload.len());
            }
            match self.line.read(self.decoder.space()) {
                Ok(count @ 1..) => self.decoder.filled(count),
                _ => return kinds,
            }
        }
    }
}

impl Listening {
    fn next(&mut self, wire: &mut Wire) -> Incoming {
        let deadline = Instant::now() + LONG;
        loop {
            wire.hear();
            if let Some(incoming) = wire.inbox.take().expect("right messages") {
                return incoming;
            }
            assert!(!wire.closed, "closed; told: {:?}", self.told);
            assert!(Instant::now() < deadline, "told: {:?}", self.told);
            self.turn();
        }
    }

    fn tie_on(&mut self, wire: &mut Wire, guest: &Guest, number: u32) {
        let deadline = Instant::now() + LONG;
        // Soon after another knock it is not heard.
        wire.knock(number);
        for turn in 1.. {
            self.turn();
            if wire.hear().contains(&Kind::Data) {
                break;
            }
            assert!(Instant::now() < deadline, "told: {:?}", self.told);
            if turn % 20 == 0 {
                wire.say(Kind::Knock, &[]);
            }
        }
        assert_eq!(self.next(wire), Incoming::Greeting(VERSION));
        wire.say(Kind::Data, &greeting());
        wire.send(Message::Announce(guest.announce));
        let Incoming::Message(Message::Challenge(nonce)) = self.next(wire) else {
            panic!("a challenge is expected");
        };
        let epoch = guest.announce.epoch;
        rendezvous::show(&*guest.directory, nonce, epoch, SECRET).expect("shown");
        wire.send(Message::Shown);
        let tied = Message::Tied(countersign(nonce, SECRET));
        assert_eq!(self.next(wire), Incoming::Message(tied));
    }
}

/// A VMM that offers a socket for a guest's serial port.
struct Vmm {
    _directory: TempDir,
    socket: UnixListener,
    address: String,
}

impl Vmm {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("serial");
        Self {
            _directory: directory,
            socket: UnixListener::bind(&path).expect("binds"),
            address: format!("serial:{}", path.display()),
        }
    }

    fn port(&self) -> Wire {
        Wire::new(self.socket.accept().expect("it connects").0)
    }
}

#[test]
fn an_agent_is_tied_over_a_line_and_again_after_it_was_cut_off_in_a_frame() {
    let (vmm, guest) = (Vmm::start(), guest(7, "one"));
    let mut host =
        listening_at(&[&vmm.address], std::slice::from_ref(&guest), LONG).expect("opens");
    assert_eq!(host.listener.addresses()[0].to_string(), vmm.address);
    let mut wire = vmm.port();
    wire.put(b"\r\nlogin: \x16vsh\x16");
    host.tie_on(&mut wire, &guest, 1);
    assert_eq!(host.news(), "tied one at 0xe00000");
    wire.say(Kind::Alive, &[]);
    let deadline = Instant::now() + LONG;
    while !wire.hear().contains(&Kind::Alive) {
        assert!(Instant::now() < deadline, "no answer");
        host.turn();
    }
    // Killed while it was sending, and started again.
    let bell = Message::Bell { region: 5 };
    let begun = Frame::new(Kind::Data, 1, bell.encode().as_bytes());
    wire.put(&begun.as_bytes()[..20]);
    host.tie_on(&mut wire, &guest, 2);
    let mut news = [host.news(), host.news()];
    news.sort();
    assert!(news[0].starts_with("left one"), "{news:?}");
    assert!(news[1].starts_with("tied one"), "{news:?}");
    assert_eq!(host.listener.ties().len(), 1);

    let place = &mut host.listener.peers[0];
    place.ring(9).expect("no error");
    assert_eq!(
        host.next(&mut wire),
        Incoming::Message(Message::Bell { region: 9 })
    );
    wire.say(Kind::Close, &[]);
    assert!(host.news().starts_with("left one"));
    // What belongs to no connection is closed.
    wire.say(Kind::Alive, &[]);
    let deadline = Instant::now() + LONG;
    while !wire.closed {
        assert!(Instant::now() < deadline, "no answer");
        host.turn();
        wire.hear();
    }
}

#[test]
fn a_refused_agent_hears_of_it_and_an_ending_listener_says_so() {
    let (vmm, known, other) = (Vmm::start(), guest(7, "one"), guest(8, "other"));
    let mut host =
        listening_at(&[&vmm.address], std::slice::from_ref(&known), LONG).expect("opens");
    let mut wire = vmm.port();
    wire.knock(1);
    assert_eq!(host.next(&mut wire), Incoming::Greeting(VERSION));
    wire.say(Kind::Data, &greeting());
    wire.send(Message::Announce(other.announce));
    assert!(host.news().contains("no VM"));
    let deadline = Instant::now() + LONG;
    while !wire.closed {
        assert!(Instant::now() < deadline, "it does not hear of it");
        host.turn();
        wire.hear();
    }
    host.tie_on(&mut wire, &known, 2);
    drop(host);
    wire.hear();
    assert!(wire.closed);
    // The next listener closes whatever there was.
    let mut host = listening_at(&[&vmm.address], &[], LONG).expect("opens");
    let mut wire = vmm.port();
    host.turn();
    assert_eq!(wire.hear(), [Kind::Close], "of number zero, that is all");
}

#[test]
fn a_line_that_is_lost_is_opened_again() {
    let (vmm, guest) = (Vmm::start(), guest(7, "one"));
    let mut host =
        listening_at(&[&vmm.address], std::slice::from_ref(&guest), LONG).expect("opens");
    let mut wire = vmm.port();
    host.tie_on(&mut wire, &guest, 1);
    assert!(host.news().starts_with("tied"));
    drop(wire);
    assert!(host.news().starts_with("left"));
    vmm.socket.set_nonblocking(true).expect("set");
    let deadline = Instant::now() + LONG;
    let mut wire = loop {
        host.turn();
        assert!(Instant::now() < deadline, "it does not come back");
        if let Ok((socket, _)) = vmm.socket.accept() {
            break Wire::new(socket);
        }
    };
    host.tie_on(&mut wire, &guest, 2);
    assert!(host.news().starts_with("tied"));
}

#[test]
fn a_terminal_passes_bytes_as_they_are() {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = rustix::pty::openpt(flags).expect("a terminal");
    rustix::pty::grantpt(&ours).expect("granted");
    rustix::pty::unlockpt(&ours).expect("unlocked");
    let name = rustix::pty::ptsname(&ours, Vec::new()).expect("named");
    let address = format!("serial:{}", name.to_string_lossy());
    // Every byte that a terminal would change, in the name and in the numbers.
    let mut guest = guest(0x0d_0a_03_11_13_7f_ff, "one");
    guest.announce.beacon = GuestPhysical(0x20_0000);
    guest.announce.boot_id = [0, 3, 4, 10, 13, 17, 19, 26, 28, 127, 255, 9, 8, 21, 22, 23];
    let mut host = listening_at(&[&address], std::slice::from_ref(&guest), LONG).expect("opens");
    let error = listening_at(&[&address], &[], LONG)
        .err()
        .expect("one at a time");
    assert!(error.hint().is_some(), "{error}");
    let mut wire = Wire::new(ours);
    host.tie_on(&mut wire, &guest, 1);
    assert_eq!(host.news(), "tied one at 0x200000");
    drop(wire);
    assert!(host.news().starts_with("left one"));
}

#[test]
fn a_line_of_garbage_and_knocks_is_bounded_and_keeps_nobody_out() {
    let (vmm, guest) = (Vmm::start(), guest(7, "one"));
    let places = ["127.0.0.1:0", &vmm.address];
    let mut host = listening_at(&places, std::slice::from_ref(&guest), LONG).expect("opens");
    let (line, _) = vmm.socket.accept().expect("it connects");
    line.set_nonblocking(true).expect("set");
    let mut bytes = Vec::new();
    for number in 1..100 {
        for kind in [Kind::Knock, Kind::Data, Kind::Alive] {
            bytes.extend(Frame::new(kind, number, &[7; MAX_CHUNK]).as_bytes());
        }
        bytes.extend(b"\x16vsh garbage");
    }
    let mut sent = 0;
    let flood = |line: &UnixStream| {
        let mut line = line;
        line.write(&bytes).unwrap_or(0)
    };
    for _ in 0..50 {
        sent += flood(&line);
        host.turn();
    }
    let mut talk = host.connect();
    host.tie_over(&mut talk, &guest);
    for _ in 0..50 {
        sent += flood(&line);
        host.turn();
        assert!(host.listener.peers.len() <= 2, "one at a time");
    }
    assert!(sent > 64 << 10, "more than is read at once");
    assert!(host.told.iter().any(|news| news.starts_with("tied one")));
    assert!(!host.told.iter().any(|news| news.starts_with("left")));
}
