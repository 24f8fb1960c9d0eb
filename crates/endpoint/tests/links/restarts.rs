//! Ring and latest while programs are killed in the middle of an access and started again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use vmshm_endpoint::loopback::{Loopback, Place};
use vmshm_endpoint::{Latest, LinkFailure, Ring, loopback};

use crate::latests::Value;
use crate::{LONG, Numbers};

const KILLS: u64 = 200;

/// A program that dies at random moments, and how often it has.
struct Mortal<P: Place> {
    program: Arc<Loopback<P>>,
    numbers: Numbers,
    deaths: u64,
    /// How many accesses it lives through at most.
    longest: u64,
}

impl<P: Place> Mortal<P> {
    fn new(program: Arc<Loopback<P>>, seed: u64, longest: u64) -> Self {
        let mut mortal = Self {
            program,
            numbers: Numbers(seed),
            deaths: 0,
            longest,
        };
        mortal.arm();
        mortal
    }

    fn arm(&mut self) {
        if self.deaths < KILLS {
            self.program.kill_after(self.numbers.below(self.longest));
        }
    }

    /// Counts a failure as a death, and brings the link back. It may die in that, too.
    fn die(
        &mut self,
        failure: &LinkFailure,
        mut reconnect: impl FnMut() -> Result<(), vmshm_endpoint::OpenError>,
    ) {
        assert!(matches!(failure, LinkFailure::Ended(_)), "{failure}");
        self.deaths += 1;
        reconnect().expect("is brought back");
        self.arm();
    }
}

fn send<P: Place>(
    mut ring: Ring<u64, Loopback<P>>,
    mut mortal: Mortal<P>,
    receiver_deaths: &AtomicU64,
    done: &AtomicBool,
) -> u64 {
    let mut number = 0;
    // Both must have died often, whichever of them the system lets run.
    while mortal.deaths < KILLS || receiver_deaths.load(Ordering::Relaxed) < KILLS {
        // One that failed may have been sent or not: the next one is sent either way.
        number += 1;
        if let Err(failure) = ring.send(&number) {
            mortal.die(&failure, || ring.reconnect(LONG));
        }
        if done.load(Ordering::Relaxed) {
            return number;
        }
    }
    ring.send(&u64::MAX).expect("nobody kills it any more");
    number
}

#[test]
fn a_ring_keeps_its_order_over_two_hundred_deaths_of_each_side() {
    let (host, guest) = loopback::pair();
    let ours = host.region("a").size(1 << 13).ring::<u64>().expect("opens");
    let mut theirs = guest.region("a").ring::<u64>().expect("opens");
    let done = AtomicBool::new(false);
    let deaths = AtomicU64::new(0);
    let sender = Mortal::new(host, 11, 400);
    let mut receiver = Mortal::new(guest, 23, 300);
    thread::scope(|scope| {
        let (done, deaths) = (&done, &deaths);
        let sent = scope.spawn(move || send(ours, sender, deaths, done));
        let (mut last, mut missing) = (0, 0);
        loop {
            match theirs.receive_timeout(LONG) {
                Ok(u64::MAX) => break,
                Ok(number) => {
                    assert!(number > last, "{number} after {last}");
                    missing += number - last - 1;
                    last = number;
                }
                Err(failure) => {
                    receiver.die(&failure, || theirs.reconnect(LONG));
                    deaths.store(receiver.deaths, Ordering::Relaxed);
                }
            }
        }
        done.store(true, Ordering::Relaxed);
        let sent = sent.join().expect("no panic");
        missing += sent - last;
        assert!(receiver.deaths >= KILLS, "{}", receiver.deaths);
        // A death may take the record that was under way, and no other.
        assert!(missing <= receiver.deaths + KILLS, "{missing} of {sent}");
    });
}

fn publish<P: Place>(mut latest: Latest<Value, Loopback<P>>, mut mortal: Mortal<P>) {
    let mut number = 0;
    while mortal.deaths < KILLS {
        number += 1;
        if let Err(failure) = latest.publish(&Value {
            words: [number; 32],
        }) {
            mortal.die(&failure, || latest.reconnect(LONG));
        }
    }
    latest
        .publish(&Value {
            words: [u64::MAX; 32],
        })
        .expect("nobody kills it any more");
}

#[test]
fn a_latest_stays_whole_over_two_hundred_deaths_of_each_side() {
    let (host, guest) = loopback::pair();
    let ours = host.region("a").latest::<Value>().expect("opens");
    let mut theirs = guest.region("a").latest::<Value>().expect("opens");
    let writer = Mortal::new(host, 5, 300);
    let mut reader = Mortal::new(guest, 7, 200);
    thread::scope(|scope| {
        scope.spawn(move || publish(ours, writer));
        let (mut seen, mut last) = (0, 0);
        while last < u64::MAX || reader.deaths < KILLS {
            match theirs.read() {
                Ok(None) => {}
                Ok(Some((version, value))) => {
                    let number = value.words[0];
                    assert_eq!(value.words, [number; 32]);
                    assert!(version >= seen && number >= last);
                    (seen, last) = (version, number);
                }
                Err(failure) => reader.die(&failure, || theirs.reconnect(LONG)),
            }
        }
    });
}
