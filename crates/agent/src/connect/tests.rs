//! The connecting thread against listeners on loopback: it tries again, ties, and carries
//! bells both ways without waiting for anybody.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use rustix::fs::MemfdFlags;
use vmshm_link::directory::DIRECTORY_SIZE;
use vmshm_link::fields::Text;
use vmshm_link::rendezvous::message::{GREETING_BYTES, greeting};
use vmshm_link::rendezvous::{self, Nonce, countersign};
use vmshm_link::{GuestPhysical, Version};
use vmshm_shm::Protection;

use super::*;

const NONCE: Nonce = Nonce([3; 16]);

fn start(listens: SocketAddr) -> (Connector, Arc<Window>) {
    let file = rustix::fs::memfd_create("directory", MemfdFlags::CLOEXEC).expect("a memfd");
    rustix::fs::ftruncate(&file, DIRECTORY_SIZE).expect("a size");
    let directory = Window::open(&file, 0, DIRECTORY_SIZE, Protection::ReadWrite);
    let announce = Announce {
        beacon: GuestPhysical(0x20_0000),
        epoch: 7,
        boot_id: [1; 16],
        version: Text::new("0.1.0"),
        name: Text::new("guest"),
    };
    let listener = format!("tcp:{listens}").parse().expect("right");
    let directory = Arc::new(directory.expect("maps"));
    let connector = Connector::start(listener, announce, Arc::clone(&directory), |_| {});
    (connector.expect("a thread"), directory)
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "no {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn it_tries_again_until_somebody_is_there_speaks_second_and_ends_with_the_agent() {
    // An address that no other test of this system listens or calls at while nobody is there.
    let [.., high, low] = std::process::id().to_be_bytes();
    let own = Ipv4Addr::new(127, 77, high, low.clamp(1, 254));
    let address = {
        let taken = TcpListener::bind((own, 0)).expect("binds");
        taken.local_addr().expect("an address")
    };
    let (connector, _) = start(address);
    let mut reason = None;
    wait_for("failure", || {
        let info = connector.info();
        reason = info.reason;
        info.state == ConnectionState::Waiting
    });
    let reason = reason.unwrap_or_default();
    assert!(reason.contains("refused"), "{reason}");

    let listener = TcpListener::bind(address).expect("binds");
    let (mut socket, _) = listener.accept().expect("it connects");
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .expect("set");
    let early = socket.read(&mut [0; 16]);
    assert!(early.is_err(), "said before it was greeted: {early:?}");
    socket.write_all(&greeting()).expect("sent");
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("set");
    let mut answer = [0; GREETING_BYTES];
    socket.read_exact(&mut answer).expect("it greets");
    assert_eq!(answer, greeting());

    // One that hangs up is connected to again.
    drop(socket);
    let (mut socket, _) = listener.accept().expect("it connects again");
    drop(connector);
    let mut rest = Vec::new();
    let _ = socket.read_to_end(&mut rest);
    assert!(rest.is_empty(), "said to who does not greet: {rest:?}");
}

/// A listener that ties the agent; it speaks this version.
struct Host {
    socket: TcpStream,
    inbox: Inbox,
}

impl Host {
    fn tie(listener: &TcpListener, directory: &Window, version: Version) -> Self {
        let (socket, _) = listener.accept().expect("it connects");
        let limit = Some(Duration::from_secs(60));
        socket.set_read_timeout(limit).expect("set");
        let inbox = Inbox::default();
        let mut host = Self { socket, inbox };
        let mut hello = greeting();
        hello[8..].copy_from_slice(&version.to_word().to_le_bytes());
        host.socket.write_all(&hello).expect("sent");
        assert!(matches!(host.next(), Incoming::Greeting(_)));
        assert!(matches!(
            host.next(),
            Incoming::Message(Message::Announce(_))
        ));
        host.send(Message::Challenge(NONCE));
        assert_eq!(host.next(), Incoming::Message(Message::Shown));
        let secret = rendezvous::look(directory, NONCE, 7).expect("read");
        host.send(Message::Tied(countersign(NONCE, secret.expect("shown"))));
        host
    }

    fn send(&mut self, message: Message) {
        let bytes = message.encode();
        self.socket.write_all(bytes.as_bytes()).expect("sent");
    }

    fn next(&mut self) -> Incoming {
        loop {
            if let Some(incoming) = self.inbox.take().expect("well formed") {
                return incoming;
            }
            let count = self.socket.read(self.inbox.space()).expect("read");
            assert!(count > 0, "it has hung up");
            self.inbox.filled(count);
        }
    }
}

#[test]
fn bells_go_both_ways_once_it_is_tied() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let (connector, directory) = start(listener.local_addr().expect("an address"));
    // Nobody is there yet: lost.
    connector.ring(1);
    let mut host = Host::tie(&listener, &directory, vmshm_link::VERSION);
    wait_for("tie", || connector.info().state == ConnectionState::Tied);
    connector.ring(5);
    let bell = |region| Incoming::Message(Message::Bell { region });
    assert_eq!(host.next(), bell(5));
    for region in [7, 9, 7] {
        host.send(Message::Bell { region });
    }
    let mut seen = Vec::new();
    wait_for("bells", || {
        let mut fds = [PollFd::new(&connector, PollFlags::IN)];
        let limit = timespec(Duration::from_secs(60));
        rustix::event::poll(&mut fds, Some(&limit)).expect("polled");
        seen.extend(connector.take_bells());
        seen.contains(&7) && seen.contains(&9)
    });
    assert!(connector.take_bells().iter().all(|region| *region == 7));

    // A burst is neither lost nor repeated without end, as long as it is no longer than
    // what is remembered.
    (100..160).for_each(|region| connector.ring(region));
    for region in 100..160 {
        assert_eq!(host.next(), bell(region));
    }
    // One that never reads does not hold up the agent.
    (0..1_000_000).for_each(|region| connector.ring(region));
    drop(connector);
    let mut rest = Vec::new();
    let _ = host.socket.read_to_end(&mut rest);
    // Far more than the system keeps for a connection.
    assert!(rest.len() < 1_000_000 * 16 / 2, "{}", rest.len());
}

#[test]
fn a_listener_of_an_older_version_is_not_rung() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let (connector, directory) = start(listener.local_addr().expect("an address"));
    let older = Version { major: 1, minor: 0 };
    let mut host = Host::tie(&listener, &directory, older);
    wait_for("tie", || connector.info().state == ConnectionState::Tied);
    connector.ring(5);
    drop(connector);
    let mut rest = Vec::new();
    let _ = host.socket.read_to_end(&mut rest);
    assert!(rest.is_empty(), "{rest:?}");
}
