//! One side of a ring and a latest that are checked as hard as can be, on the host or in the guest:
//!
//! ```text
//! link-peer (host VM | guest) NAME steady STOP     checks until the file STOP is there, then says what it saw
//! link-peer (host VM | guest) NAME victim STATE    the same until it is killed; STATE is where it was killed last time
//! link-peer (host VM | guest) NAME echo            sends each number of the ring NAME back until u64::MAX comes
//! link-peer (host VM | guest) NAME sleepy          the same, always asleep until the doorbell wakes it
//! link-peer kill COUNT SHORTEST -- COMMAND… STATE  runs the victim COUNT times, and kills it at random moments
//! ```
//!
//! Every record and value says who sent it, its number, and a checksum over both. Nothing that was sent may be lost,
//! torn, repeated or out of order; a victim may lose the one record that it had received and not noted.
#![allow(
    clippy::expect_used,
    reason = "a program of the tests says by panicking that it cannot go on"
)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use vmshm_endpoint::{Connection, Latest, RegionOptions, Ring};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// What is sent and published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Item {
    /// Who sends: another one for every process.
    sender: u64,
    number: u64,
    /// Both, mixed, in every word.
    checks: [u64; 14],
}

impl Item {
    fn new(sender: u64, number: u64) -> Self {
        let mut word = sender ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let checks = [0; 14].map(|_: u64| {
            word = (word ^ (word >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word
        });
        Self {
            sender,
            number,
            checks,
        }
    }

    fn check(&self) {
        assert_eq!(*self, Self::new(self.sender, self.number), "a torn item");
    }
}

/// Who sleeps so long is woken, or the test is over.
const SLEEPY: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["kill", count, shortest, "--", command @ .., state] => {
            kill_at_random(number(count), number(shortest), command, state);
        }
        ["host", vm, name, role @ ..] => {
            let vm = wait_for("a session", || vmshm_host::Vm::connect(vm).map_err(say));
            run(&|region| vm.region(region), name, role);
        }
        ["guest", name, role @ ..] => {
            let agent = wait_for("the agent", || vmshm_guest::Agent::connect().map_err(say));
            run(&|region| agent.region(region), name, role);
        }
        other => panic!("no such way: {other:?}"),
    }
    ExitCode::SUCCESS
}

fn say(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("there are random numbers");
    u64::from_le_bytes(bytes)
}

/// What a killed predecessor held may be free only in a moment.
fn wait_for<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < deadline, "no {what}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn run<C: Connection>(region: &dyn Fn(&str) -> RegionOptions<C>, name: &str, role: &[&str]) {
    match role {
        ["echo"] => return echo(&|| region(name)),
        ["sleepy"] => return echo(&|| region(name).spins(0).longest_sleep(SLEEPY)),
        _ => {}
    }
    let mut side = wait_for("ring and latest", || Side::open(region, name));
    match role {
        ["steady", stop] => side.stay(Path::new(stop)),
        ["victim", state] => side.run_until_killed(&PathBuf::from(state)),
        other => panic!("no such role: {other:?}"),
    }
}

/// Ends well after the last number, and when the link ends, which is told.
fn echo<C: Connection>(options: &dyn Fn() -> RegionOptions<C>) {
    let mut ring = wait_for("ring", || {
        let options = options().timeout(Duration::from_secs(20));
        options.ring::<u64>().map_err(say)
    });
    loop {
        match ring.receive() {
            Ok(u64::MAX) => break,
            Ok(number) => ring.send(&number).expect("the ring lives"),
            Err(failure) => {
                println!("{failure}");
                break;
            }
        }
    }
}

struct Side<C: Connection> {
    ring: Ring<Item, C>,
    latest: Latest<Item, C>,
    me: u64,
    sent: u64,
    /// The sender and number of the last record.
    last: Option<(u64, u64)>,
    received: u64,
    senders: u64,
    version: u64,
    values: u64,
}

impl<C: Connection> Side<C> {
    fn open(region: &dyn Fn(&str) -> RegionOptions<C>, name: &str) -> Result<Self, String> {
        let options =
            |kind: &str| region(&format!("{name}-{kind}")).timeout(Duration::from_secs(20));
        Ok(Self {
            ring: options("ring").size(1 << 15).ring().map_err(say)?,
            latest: options("latest").latest().map_err(say)?,
            me: random(),
            sent: 0,
            last: None,
            received: 0,
            senders: 0,
            version: 0,
            values: 0,
        })
    }

    /// Sends, publishes, receives and reads once each.
    fn step(&mut self) {
        if self
            .ring
            .try_send(&Item::new(self.me, self.sent))
            .expect("the ring lives")
        {
            self.sent += 1;
        }
        let value = Item::new(self.me, self.sent);
        self.latest.publish(&value).expect("the latest lives");
        if let Some((version, value)) = self.latest.read().expect("the latest lives") {
            value.check();
            assert!(version >= self.version, "the newest value went back");
            self.values += u64::from(version > self.version);
            self.version = version;
        }
    }

    fn receive(&mut self) -> Option<Item> {
        let wait = Duration::from_millis(2);
        let item = match self.ring.receive_timeout(wait) {
            Ok(item) => item,
            Err(vmshm_endpoint::LinkFailure::Timeout(_)) => return None,
            Err(failure) => panic!("{failure}"),
        };
        item.check();
        self.received += 1;
        Some(item)
    }

    fn stay(&mut self, stop: &Path) {
        // A file is looked at seldom: in the guest it costs more than a record.
        for round in 0_u64.. {
            if round % 64 == 0 && stop.exists() {
                break;
            }
            self.step();
            let Some(item) = self.receive() else { continue };
            match self.last {
                Some((sender, number)) if sender == item.sender => {
                    assert_eq!(item.number, number + 1, "lost, repeated or out of order");
                }
                _ => {
                    assert_eq!(item.number, 0, "the first records of a sender are lost");
                    self.senders += 1;
                }
            }
            self.last = Some((item.sender, item.number));
        }
        println!(
            r#"{{"received":{},"senders":{},"sent":{},"values":{}}}"#,
            self.received, self.senders, self.sent, self.values
        );
    }

    fn run_until_killed(&mut self, state: &Path) {
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false);
        let file = file.open(state).expect("the state can be kept");
        let mut words = [0_u64; 2];
        let _ = file.read_exact_at(words.as_mut_bytes(), 0);
        let mut noted = Some(words).filter(|words| words[0] != 0);
        let mut first = true;
        loop {
            self.step();
            let Some(item) = self.receive() else { continue };
            if let Some([sender, number]) = noted {
                let next = number + 1;
                let right = item.number == next || (first && item.number == next + 1);
                assert!(
                    item.sender == sender && right,
                    "{} came after {number}",
                    item.number
                );
            }
            first = false;
            noted = Some([item.sender, item.number]);
            file.write_all_at([item.sender, item.number].as_bytes(), 0)
                .expect("the state can be kept");
        }
    }
}

/// Kills within `shortest` milliseconds of the start, and within more where victims die before they come to work: how
/// long attaching takes is the machine's affair, and some are to die attaching and some at work.
///
/// Only what a victim does by itself is its fault: one that ends before it is killed has found something wrong.
fn kill_at_random(count: u64, shortest: u64, command: &[&str], state: &str) {
    let (program, arguments) = command.split_first().expect("a command");
    let shortest = shortest * 1000;
    let mut longest = shortest;
    let mut noted = std::fs::read(state).unwrap_or_default();
    for round in 0..count {
        let mut victim = Command::new(program)
            .args(arguments)
            .arg(state)
            .spawn()
            .expect("the victim starts");
        std::thread::sleep(Duration::from_micros(random() % longest));
        let ended = victim.try_wait().expect("it is a child");
        assert!(
            ended.is_none(),
            "the victim ended by itself in round {round}"
        );
        victim.kill().expect("it is a child");
        victim.wait().expect("it is a child");
        let now = std::fs::read(state).unwrap_or_default();
        longest = if now == noted {
            longest + longest / 16
        } else {
            shortest.max(longest - longest / 4)
        };
        noted = now;
    }
    println!("killed {count} times");
}
