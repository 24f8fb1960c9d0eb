//! Bells between a tied agent and programs of this user: both ways, past peers that end,
//! flood, send garbage or never read.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};

use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use tempfile::TempDir;
use vmshm_endpoint::Doorbell;
use vmshm_link::rendezvous::bells::MOST_BELLS;

use super::*;
use crate::doorbell::Doorbells;
use crate::os::linux::doorbell::wire::Datagram;
use crate::os::linux::listen::relay::MOST_CLIENTS;

/// A user's directory.
struct Home {
    _root: TempDir,
    directory: PathBuf,
}

impl Home {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let directory = root.path().join("vmshm");
        Self {
            _root: root,
            directory,
        }
    }

    /// A listener that this user's programs find.
    fn listening(&self, guests: &[Guest]) -> Listening {
        let mut host = listening(guests, LONG);
        let record = Record::open_in(std::slice::from_ref(&self.directory));
        host.listener.record = Some(record.expect("opens"));
        host.listener
            .relay_bells_in(&self.directory)
            .expect("opens");
        host
    }

    /// A program's doorbell, which may find no listener, and the regions it is woken for.
    fn doorbell(&self, guest: &Guest) -> (Arc<Doorbells>, Receiver<u64>) {
        let (woken, wakes) = channel();
        let places = vec![self.directory.clone()];
        let doorbells = Doorbells::connect_in(places, vmm_of(guest), move |region| {
            let _ = woken.send(region);
        });
        (doorbells.expect("there is a thread"), wakes)
    }

    /// A program's doorbell that has found its listener.
    fn connect(&self, host: &mut Listening, guest: &Guest) -> (Arc<Doorbells>, Receiver<u64>) {
        let (doorbells, wakes) = self.doorbell(guest);
        host.turn_until("connection", |_| doorbells.is_connected());
        (doorbells, wakes)
    }

    /// A program that does as it likes.
    fn raw(&self) -> OwnedFd {
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, kind, flags, None).expect("a socket");
        let path = wire::socket_in(&self.directory, std::process::id());
        let address = SocketAddrUnix::new(path).expect("short");
        rustix::net::connect(&socket, &address).expect("connects");
        socket
    }
}

fn vmm_of(guest: &Guest) -> Vmm {
    Vmm {
        pid: guest.machine.pid,
        start_time: guest.machine.start_time,
    }
}

fn say(socket: &OwnedFd, bytes: &[u8]) -> bool {
    rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_ok()
}

fn bell(region: u64) -> Incoming {
    Incoming::Message(Message::Bell { region })
}

impl Listening {
    fn turn_until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + LONG;
        while !holds(self) {
            assert!(
                Instant::now() < deadline,
                "no {what}; told: {:?}",
                self.told
            );
            self.turn();
        }
    }

    /// The doorbell looks more than once, and finds nothing.
    fn finds_none(&mut self, doorbells: &Doorbells) {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(1) {
            self.turn();
            assert!(!doorbells.is_connected(), "it is believed");
        }
    }

    fn clients(&self) -> usize {
        self.listener.relay.as_ref().expect("there").clients()
    }
}

#[test]
fn a_guest_wakes_programs_and_programs_wake_the_guest() {
    let (home, guest) = (Home::new(), guest(7, "one"));
    let mut host = home.listening(std::slice::from_ref(&guest));
    let mut talk = host.tie(&guest);
    let (first, wakes) = home.connect(&mut host, &guest);
    let (second, other_wakes) = home.connect(&mut host, &guest);
    talk.send(Message::Bell { region: 7 });
    for wakes in [&wakes, &other_wakes] {
        let mut seen = None;
        host.turn_until("wake", |_| {
            seen = wakes.try_recv().ok();
            seen.is_some()
        });
        assert_eq!(seen, Some(7));
    }
    first.ring(9);
    assert_eq!(host.message(&mut talk), bell(9));
    second.ring(u64::MAX);
    assert_eq!(host.message(&mut talk), bell(u64::MAX));
    drop(second);
    host.turn_until("end of one program", |host| host.clients() == 1);
    talk.send(Message::Bell { region: 8 });
    host.turn_until("wake", |_| wakes.try_recv() == Ok(8));
    assert!(other_wakes.try_recv().is_err());
}

#[test]
fn without_a_listener_that_is_tied_to_that_vm_there_is_no_doorbell() {
    let (home, guest) = (Home::new(), guest(7, "one"));
    let mut host = home.listening(std::slice::from_ref(&guest));
    host.finds_none(&home.doorbell(&guest).0);
    let _talk = host.tie(&guest);
    let mut another = guest.clone();
    another.machine.start_time += 1;
    host.finds_none(&home.doorbell(&another).0);
    // One that says so nevertheless is not believed.
    let liar = home.raw();
    assert!(say(&liar, &Datagram::Register(vmm_of(&another)).encode()));
    host.turn_until("program", |host| host.clients() == 1);
    host.turn_until("end of it", |host| host.clients() == 0);
    // What others may enter is not looked at.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&home.directory, mode).expect("set");
    host.finds_none(&home.doorbell(&guest).0);
    assert!(Relay::open(Path::new("/nowhere/at/all")).is_err());
}

#[test]
fn a_listener_and_an_agent_that_come_later_are_found() {
    let (home, guest) = (Home::new(), guest(7, "one"));
    let (doorbells, wakes) = home.doorbell(&guest);
    doorbells.ring(1);
    let mut host = home.listening(std::slice::from_ref(&guest));
    host.finds_none(&doorbells);
    let mut talk = host.tie(&guest);
    host.turn_until("connection", |_| doorbells.is_connected());
    doorbells.ring(2);
    assert_eq!(
        host.message(&mut talk),
        bell(2),
        "what was rung before is lost"
    );
    talk.send(Message::Bell { region: 3 });
    host.turn_until("wake", |_| wakes.try_recv() == Ok(3));
}

#[test]
fn a_listener_that_does_not_answer_holds_up_neither_the_start_nor_the_end() {
    let (home, guest) = (Home::new(), guest(7, "one"));
    let mut host = home.listening(std::slice::from_ref(&guest));
    let _talk = host.tie(&guest);
    let start = Instant::now();
    // It has no turn meanwhile, as if its process were stopped.
    for _ in 0..5 {
        let (doorbells, _wakes) = home.doorbell(&guest);
        std::thread::sleep(Duration::from_millis(100));
        assert!(!doorbells.is_connected());
        drop(doorbells);
    }
    // The answer of each would have been waited for two seconds long.
    assert!(start.elapsed() < Duration::from_secs(6));
    host.turn_until("end of them", |host| host.clients() == 0);
}

#[test]
fn a_doorbell_finds_the_next_listener_and_the_next_connection_of_the_agent() {
    let (home, guest) = (Home::new(), guest(7, "one"));
    let mut host = home.listening(std::slice::from_ref(&guest));
    let talk = host.tie(&guest);
    let (doorbells, wakes) = home.connect(&mut host, &guest);
    assert!(doorbells.is_connected());
    // The agent goes and comes.
    drop(talk);
    host.turn_until("end", |_| !doorbells.is_connected());
    doorbells.ring(1);
    let talk = host.tie(&guest);
    host.turn_until("connection", |_| doorbells.is_connected());
    // The listener goes, and another one comes.
    drop(talk);
    drop(host);
    let deadline = Instant::now() + LONG;
    while doorbells.is_connected() {
        assert!(Instant::now() < deadline, "it does not notice");
        std::thread::sleep(Duration::from_millis(5));
    }
    doorbells.ring(2);
    let mut host = home.listening(std::slice::from_ref(&guest));
    let mut talk = host.tie(&guest);
    host.turn_until("connection", |_| doorbells.is_connected());
    doorbells.ring(3);
    assert_eq!(
        host.message(&mut talk),
        bell(3),
        "what was rung meanwhile is lost"
    );
    talk.send(Message::Bell { region: 4 });
    host.turn_until("wake", |_| wakes.try_recv() == Ok(4));
}

#[test]
fn programs_that_send_garbage_nothing_or_too_much_are_bounded() {
    let (home, guest) = (Home::new(), guest(7, "one"));
    let mut host = home.listening(std::slice::from_ref(&guest));
    let mut talk = host.tie(&guest);
    let register = Datagram::Register(vmm_of(&guest)).encode();
    for garbage in [
        b"GET / HTTP/1.1\r\n".to_vec(),
        vec![0; 4096],
        Datagram::Bell(7).encode(),
        Datagram::Registered.encode(),
        [&register[..], &[0]].concat(),
    ] {
        let program = home.raw();
        assert!(say(&program, &garbage));
        host.turn_until("program", |host| host.clients() == 1);
        host.turn_until("end of it", |host| host.clients() == 0);
    }
    // One that registers twice.
    let program = home.raw();
    assert!(say(&program, &register) && say(&program, &register));
    host.turn_until("program", |host| host.clients() == 1);
    host.turn_until("end of it", |host| host.clients() == 0);

    // More than are taken, and none of them says who it is.
    let mut silent = Vec::new();
    for _ in 0..MOST_CLIENTS + 20 {
        silent.push(home.raw());
        host.turn();
        assert!(host.clients() <= MOST_CLIENTS);
    }
    host.turn_until("end of the silent", |host| host.clients() == 0);
    drop(silent);

    // One that rings without end keeps nobody from being served.
    let (doorbells, wakes) = home.connect(&mut host, &guest);
    let flood = home.raw();
    assert!(say(&flood, &register));
    let mut rung = 0_u64;
    for _ in 0..2000 {
        while say(&flood, &Datagram::Bell(rung % 1000).encode()) {
            rung += 1;
        }
        host.turn();
        while talk.receive().is_some() {}
    }
    talk.send(Message::Bell { region: 5 });
    host.turn_until("wake", |_| wakes.try_recv() == Ok(5));
    drop(flood);
    host.turn_until("end of the flood", |host| {
        while talk.receive().is_some() {}
        host.clients() == 1
    });
    doorbells.ring(1_000_000);
    host.turn_until("bell", |_| {
        std::iter::from_fn(|| talk.receive()).any(|message| message == bell(1_000_000))
    });
}

#[test]
fn a_program_that_never_reads_gets_a_bounded_number_of_bells() {
    let (home, guest) = (Home::new(), guest(7, "one"));
    let mut host = home.listening(std::slice::from_ref(&guest));
    let mut talk = host.tie(&guest);
    let lazy = home.raw();
    assert!(say(&lazy, &Datagram::Register(vmm_of(&guest)).encode()));
    host.turn_until("program", |host| host.clients() == 1);
    let (_doorbells, wakes) = home.connect(&mut host, &guest);
    // Never more at once than are remembered: one that reads misses none, however slow it is.
    let (mut rung, mut woken) = (0, 0);
    while rung < 5000 {
        for _ in 0..MOST_BELLS / 2 {
            talk.send(Message::Bell { region: rung });
            rung += 1;
        }
        host.turn_until("wakes", |_| {
            woken += wakes.try_iter().count() as u64;
            woken == rung
        });
    }
    let mut waiting = 0;
    let mut space = [0; 64];
    let flags = rustix::net::RecvFlags::DONTWAIT;
    while rustix::net::recv(&lazy, &mut space[..], flags).is_ok() {
        waiting += 1;
    }
    assert!(waiting > MOST_BELLS && waiting < 4000, "{waiting}");
    // Those that were remembered come now.
    host.turn_until("the rest", |_| {
        rustix::net::recv(&lazy, &mut space[..], flags).is_ok()
    });
}

#[test]
fn an_agent_that_takes_no_bells_holds_nobody_up() {
    let (home, guest) = (Home::new(), guest(7, "one"));
    let mut host = home.listening(std::slice::from_ref(&guest));
    let mut talk = host.tie(&guest);
    let (doorbells, wakes) = home.connect(&mut host, &guest);
    // More than the connection holds.
    let peer = |host: &Listening| host.listener.peers[0].interest(Instant::now());
    let mut region = 0;
    while !peer(&host).contains(rustix::event::PollFlags::OUT) {
        assert!(region < 100_000_000, "all of it is taken");
        region += 1;
        let place = &mut host.listener.peers[0];
        place.ring(region).expect("no error");
    }
    talk.send(Message::Bell { region: 5 });
    host.turn_until("wake", |_| wakes.try_recv() == Ok(5));
    doorbells.ring(u64::MAX);
    host.turn_until("all bells", |host| {
        while talk.receive().is_some() {}
        !peer(host).contains(rustix::event::PollFlags::OUT)
    });
    doorbells.ring(0);
    host.turn_until("bell", |_| talk.receive() == Some(bell(0)));
}
