//! The tying of connections over loopback, with simulated guests as the VMs of this
//! host: agents that are what they say, and strangers of every kind.

mod addresses;
mod bells;
mod serial;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use vmshm_link::directory::DIRECTORY_SIZE;
use vmshm_link::fields::Text;
use vmshm_link::rendezvous::message::{
    Announce, GREETING_BYTES, Inbox, Incoming, Message, greeting,
};
use vmshm_link::rendezvous::{self, Nonce, Secret, countersign};
use vmshm_link::{GuestPhysical, VERSION, Version};
use vmshm_ram::FindError;
use vmshm_shm::LocalMemory;

use super::*;
use crate::identity::start_time;
use crate::listen::Suspect;

const SECRET: Secret = Secret([5; 16]);
/// Longer than any test takes that does not fail.
const LONG: Duration = Duration::from_secs(60);

/// A guest: its VM's process, its beacon's place and identity, its directory's memory.
#[derive(Clone)]
struct Guest {
    machine: Machine,
    announce: Announce,
    directory: Arc<LocalMemory>,
}

/// A guest whose VMM is this very process, so that it counts as running.
fn guest(epoch: u64, name: &str) -> Guest {
    let pid = std::process::id();
    let size = usize::try_from(DIRECTORY_SIZE).expect("small");
    Guest {
        machine: Machine {
            pid,
            start_time: start_time(u64::from(pid)).expect("we run"),
            vmm: "qemu".to_owned(),
            name: name.to_owned(),
        },
        announce: Announce {
            beacon: GuestPhysical(epoch << 21),
            epoch,
            boot_id: [1; 16],
            version: Text::new("0.1.0"),
            name: Text::new(name),
        },
        directory: Arc::new(LocalMemory::new(size)),
    }
}

/// A host with these guests; it counts how often they are looked at.
#[derive(Clone)]
struct Host {
    guests: Vec<Guest>,
    looks: Arc<Mutex<usize>>,
}

impl Lookout for Host {
    fn look(&mut self, announce: &Announce) -> Result<Looked, FindError> {
        *self.looks.lock().expect("not poisoned") += 1;
        let is_there = |guest: &&Guest| {
            guest.announce.beacon == announce.beacon && guest.announce.epoch == announce.epoch
        };
        let suspects = self.guests.iter().filter(is_there).map(|guest| Suspect {
            machine: guest.machine.clone(),
            directory: Box::new(Arc::clone(&guest.directory)),
        });
        Ok(Looked {
            suspects: suspects.collect(),
            unreadable: 2,
        })
    }
}

/// A listener on loopback, with what it has told.
struct Listening {
    listener: Listener,
    told: Vec<String>,
    looks: Arc<Mutex<usize>>,
}

fn listening(guests: &[Guest], limit: Duration) -> Listening {
    listening_at(&["127.0.0.1:0"], guests, limit).expect("binds")
}

fn listening_at(
    addresses: &[&str],
    guests: &[Guest],
    limit: Duration,
) -> Result<Listening, ListenError> {
    let looks = Arc::new(Mutex::new(0));
    let host = Host {
        guests: guests.to_vec(),
        looks: Arc::clone(&looks),
    };
    Ok(Listening {
        listener: Listener::bind(addresses, limit, Box::new(host))?,
        told: Vec::new(),
        looks,
    })
}

impl Listening {
    fn connect(&mut self) -> Talk {
        let Address::Tcp(address) = self.listener.addresses()[0] else {
            panic!("it listens over TCP first");
        };
        let socket = TcpStream::connect(address).expect("connects");
        socket.set_nonblocking(true).expect("set");
        Talk {
            socket,
            inbox: Inbox::default(),
        }
    }

    fn turn(&mut self) {
        let told = &mut self.told;
        self.listener
            .turn(Duration::from_millis(5), &mut |event| {
                told.push(match event {
                    Event::Tied {
                        machine, announce, ..
                    } => format!("tied {} at {}", machine.name, announce.beacon),
                    Event::Left { machine, why, .. } => format!("left {}: {why}", machine.name),
                    Event::Refused { why, .. } => format!("refused: {why}"),
                    Event::NotRecorded(error) => format!("not recorded: {error}"),
                });
            })
            .expect("turns");
    }

    /// Turns until something was told, and gives that.
    fn news(&mut self) -> String {
        let deadline = Instant::now() + LONG;
        while self.told.is_empty() {
            assert!(Instant::now() < deadline, "nothing happens");
            self.turn();
        }
        self.told.remove(0)
    }

    /// Turns until the peer has received a message.
    fn message(&mut self, talk: &mut Talk) -> Incoming {
        let deadline = Instant::now() + LONG;
        loop {
            if let Some(incoming) = talk.receive() {
                return incoming;
            }
            assert!(
                Instant::now() < deadline,
                "no message; told: {:?}",
                self.told
            );
            self.turn();
        }
    }

    fn tie(&mut self, guest: &Guest) -> Talk {
        let mut talk = self.connect();
        self.tie_over(&mut talk, guest);
        talk
    }

    fn tie_over(&mut self, talk: &mut Talk, guest: &Guest) {
        let nonce = self.challenge(talk, &guest.announce);
        let epoch = guest.announce.epoch;
        rendezvous::show(&*guest.directory, nonce, epoch, SECRET).expect("shown");
        talk.send(Message::Shown);
        let tied = self.message(talk);
        let expected = countersign(nonce, SECRET);
        assert_eq!(tied, Incoming::Message(Message::Tied(expected)));
    }

    fn challenge(&mut self, talk: &mut Talk, announce: &Announce) -> Nonce {
        talk.write(&greeting());
        talk.send(Message::Announce(*announce));
        assert_eq!(self.message(talk), Incoming::Greeting(VERSION));
        match self.message(talk) {
            Incoming::Message(Message::Challenge(nonce)) => nonce,
            other => panic!("a challenge is expected, not {other:?}"),
        }
    }

    fn looks(&self) -> usize {
        *self.looks.lock().expect("not poisoned")
    }
}

/// A peer's end.
struct Talk {
    socket: TcpStream,
    inbox: Inbox,
}

impl Talk {
    fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("written");
    }

    fn send(&mut self, message: Message) {
        self.write(message.encode().as_bytes());
    }

    fn receive(&mut self) -> Option<Incoming> {
        if let Ok(count) = self.socket.read(self.inbox.space()) {
            self.inbox.filled(count);
        }
        self.inbox.take().expect("right messages")
    }

    /// Everything that comes until the other side closes.
    fn rest(mut self) -> Vec<u8> {
        self.socket.set_nonblocking(false).expect("set");
        self.socket.set_read_timeout(Some(LONG)).expect("set");
        let mut bytes = Vec::new();
        // A reset says the same as an end.
        let _ = self.socket.read_to_end(&mut bytes);
        bytes
    }
}

#[test]
fn two_agents_at_once_are_each_tied_to_their_own_vm() {
    let mut guests = [guest(7, "one"), guest(8, "other")];
    // Two processes that run: this one, and the one that started it.
    let parent = std::os::unix::process::parent_id();
    guests[1].machine.pid = parent;
    guests[1].machine.start_time = start_time(u64::from(parent)).expect("it runs");
    let mut host = listening(&guests, LONG);
    let mut talks = [host.connect(), host.connect()];
    let nonces = [0, 1].map(|at| host.challenge(&mut talks[at], &guests[at].announce));
    assert_ne!(nonces[0], nonces[1]);
    for at in [1, 0] {
        let epoch = guests[at].announce.epoch;
        rendezvous::show(&*guests[at].directory, nonces[at], epoch, SECRET).expect("shown");
        talks[at].send(Message::Shown);
    }
    let mut news = [host.news(), host.news()];
    news.sort();
    assert_eq!(news, ["tied one at 0xe00000", "tied other at 0x1000000"]);
    let mut ties: Vec<_> = host.listener.ties();
    ties.sort_by_key(|tie| tie.beacon);
    assert_eq!(ties[0].pid, guests[0].machine.pid);
    assert_eq!(ties[1].pid, guests[1].machine.pid);
    let [one, other] = talks;
    drop(one);
    assert!(host.news().starts_with("left one: it has closed"));
    drop(other);
    assert!(host.news().starts_with("left other: it has closed"));
    assert!(host.listener.ties().is_empty());
}

#[test]
fn whoever_announces_another_vms_beacon_is_refused_and_learns_nothing_but_the_nonce() {
    let (victim, liar) = (guest(7, "victim"), guest(8, "liar"));
    let mut host = listening(&[victim.clone(), liar.clone()], LONG);
    let mut talk = host.connect();
    let nonce = host.challenge(&mut talk, &victim.announce);
    // It can write its own memory, in every way, but not the victim's.
    for epoch in [victim.announce.epoch, liar.announce.epoch] {
        rendezvous::show(&*liar.directory, nonce, epoch, SECRET).expect("shown");
    }
    talk.send(Message::Shown);
    let news = host.news();
    assert!(
        news.contains("did not appear in the memory of victim"),
        "{news}"
    );
    assert!(talk.rest().is_empty());
    // Meanwhile the victim's own connection works.
    let _talk = host.tie(&victim);
    assert_eq!(host.news(), "tied victim at 0xe00000");
}

#[test]
fn an_old_answer_does_not_serve_for_a_new_nonce() {
    let guest = guest(7, "one");
    let mut host = listening(std::slice::from_ref(&guest), LONG);
    drop(host.tie(&guest));
    assert!(host.news().starts_with("tied"));
    assert!(host.news().starts_with("left"));
    let mut talk = host.connect();
    host.challenge(&mut talk, &guest.announce);
    talk.send(Message::Shown);
    assert!(host.news().contains("did not appear"));
}

#[test]
fn an_answer_in_two_processes_is_refused() {
    let (one, mut alias) = (guest(7, "one"), guest(7, "alias"));
    alias.directory = Arc::clone(&one.directory);
    let mut host = listening(&[one.clone(), alias], LONG);
    let mut talk = host.connect();
    let nonce = host.challenge(&mut talk, &one.announce);
    rendezvous::show(&*one.directory, nonce, 7, SECRET).expect("shown");
    talk.send(Message::Shown);
    let news = host.news();
    assert!(
        news.contains("several processes") && news.contains("alias"),
        "{news}"
    );
}

#[test]
fn strangers_get_a_greeting_and_nothing_else() {
    let guest = guest(7, "one");
    let mut host = listening(std::slice::from_ref(&guest), LONG);
    let other = Version {
        major: VERSION.major + 1,
        minor: 3,
    };
    let mut other_major = greeting();
    other_major[8..].copy_from_slice(&other.to_word().to_le_bytes());
    let unknown = Announce {
        epoch: 99,
        ..guest.announce
    };
    let elsewhere = Announce {
        beacon: GuestPhysical(0x20_0000),
        ..guest.announce
    };
    let after_greeting =
        |message: Message| [greeting().as_slice(), message.encode().as_bytes()].concat();
    for (said, words) in [
        (
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            vec!["does not speak".to_owned()],
        ),
        (
            other_major.to_vec(),
            vec![other.to_string(), VERSION.to_string()],
        ),
        (
            after_greeting(Message::Announce(unknown)),
            vec!["no VM".to_owned(), "2 VMs".to_owned()],
        ),
        (
            after_greeting(Message::Announce(elsewhere)),
            vec!["no VM".to_owned()],
        ),
        (
            after_greeting(Message::Shown),
            vec!["broke the protocol".to_owned()],
        ),
        (
            after_greeting(Message::Tied(countersign(Nonce([0; 16]), SECRET))),
            vec!["broke".to_owned()],
        ),
        (
            [greeting().as_slice(), &[0xff; 8]].concat(),
            vec!["4294967295 bytes".to_owned()],
        ),
    ] {
        let mut talk = host.connect();
        talk.write(&said);
        let news = host.news();
        assert!(news.starts_with("refused: "), "{news}");
        assert!(
            words.iter().all(|word| news.contains(word)),
            "{words:?}: {news}"
        );
        assert_eq!(talk.rest(), greeting(), "to {said:?}");
    }
    // One who says nothing at all and goes.
    drop(host.connect());
    assert!(host.news().contains("has closed"));
}

#[test]
fn slow_and_silent_strangers_are_let_go_however_they_trickle() {
    let limit = Duration::from_millis(300);
    let mut host = listening(&[], limit);
    let silent = host.connect();
    let mut trickling = host.connect();
    let start = Instant::now();
    let mut said = greeting().into_iter().cycle().take(GREETING_BYTES - 1);
    while host.told.len() < 2 {
        assert!(start.elapsed() < LONG, "they stay");
        if let Some(byte) = said.next() {
            trickling.write(&[byte]);
        }
        host.turn();
    }
    assert!(start.elapsed() >= limit);
    assert!(
        host.told
            .iter()
            .all(|news| news.contains("did not prove itself"))
    );
    assert_eq!(silent.rest().len(), GREETING_BYTES);
    assert_eq!(trickling.rest().len(), GREETING_BYTES);
    assert_eq!(host.looks(), 0);
}

#[test]
fn many_strangers_cannot_keep_an_agent_out_or_grow_without_bound() {
    let guest = guest(7, "one");
    let mut host = listening(std::slice::from_ref(&guest), LONG);
    let mut strangers = Vec::new();
    for _ in 0..3 * MOST_STRANGERS {
        strangers.push(host.connect());
        host.turn();
        assert!(host.listener.peers.len() <= MOST_STRANGERS);
    }
    let displaced = host
        .told
        .iter()
        .filter(|news| news.contains("too many"))
        .count();
    assert!(
        displaced >= 2 * MOST_STRANGERS - ACCEPTS_PER_TURN,
        "{displaced}"
    );
    host.told.clear();
    let _talk = host.tie(&guest);
    assert!(
        host.told.iter().any(|news| news.starts_with("tied one")),
        "{:?}",
        host.told
    );
}

#[test]
fn a_tied_agent_may_say_what_a_later_version_means_but_not_without_end() {
    let guest = guest(7, "one");
    let mut host = listening(std::slice::from_ref(&guest), LONG);
    let mut talk = host.tie(&guest);
    assert!(host.news().starts_with("tied"));
    let foreign = [4_u32.to_le_bytes(), 1000_u32.to_le_bytes(), [1; 4]].concat();
    talk.write(&foreign);
    for _ in 0..10 {
        host.turn();
    }
    assert!(host.told.is_empty(), "{:?}", host.told);
    // One that does not end is only read so fast, and keeps nobody else out.
    let mut sent = 0;
    let is_heard = |host: &Listening| host.listener.peers[0].heard_again(Instant::now());
    while is_heard(&host).is_none() {
        // Errors are expected where nobody reads so fast.
        sent += talk.socket.write(&foreign.repeat(20)).unwrap_or(0);
        host.turn();
        assert!(sent < 100 * peer::FLOOD, "all of it is read");
    }
    assert!(host.told.is_empty(), "{:?}", host.told);
    drop(talk);
    assert!(host.news().starts_with("left one: it has closed"));
}

#[test]
fn a_vm_that_ends_takes_its_tie_with_it_and_a_new_connection_replaces_the_old() {
    let mut child = std::process::Command::new("sleep")
        .arg("600")
        .spawn()
        .expect("sleep starts");
    let mut guest = guest(7, "one");
    guest.machine.pid = child.id();
    guest.machine.start_time = start_time(u64::from(child.id())).expect("it runs");
    let mut host = listening(std::slice::from_ref(&guest), LONG);
    let first = host.tie(&guest);
    assert!(host.news().starts_with("tied"));
    let _second = host.tie(&guest);
    assert_eq!(host.news(), "tied one at 0xe00000");
    assert_eq!(host.news(), "left one: it has connected anew");
    assert_eq!(host.listener.ties().len(), 1);
    // Only what it had been sent before it was replaced.
    assert!(first.rest().is_empty());
    child.kill().expect("killed");
    child.wait().expect("reaped");
    assert_eq!(host.news(), "left one: the VM has ended");
    assert!(host.listener.ties().is_empty());
}
