//! Sleeping and waking. Time limits here are bounds that are never reached.

use std::thread;
use std::time::Duration;

use vmshm_endpoint::{Connection, Held, RegionKind, RegionOptions, Role, Side, Wish, loopback};
use vmshm_shm::SharedMemory;

use crate::LONG;

/// Sleeps as soon as it can, and ever longer if nobody rings.
fn sleepy<C: Connection>(options: RegionOptions<C>) -> RegionOptions<C> {
    options.spins(0).longest_sleep(LONG)
}

#[test]
fn a_doorbell_wakes_a_receiver_and_a_sender_again_and_again() {
    let (host, guest) = loopback::pair();
    let ours = sleepy(host.region("a").size(1 << 13));
    let mut ours = ours.ring::<u64>().expect("opens");
    let theirs = sleepy(guest.region("a")).ring::<u64>().expect("opens");
    let (mut sender, mut receiver) = theirs.split();
    thread::scope(|scope| {
        scope.spawn(move || {
            for number in 0..60 {
                assert_eq!(receiver.receive_timeout(LONG), Ok(number));
            }
        });
        scope.spawn(move || {
            for number in 0..3000 {
                sender.send(&number).expect("sends");
            }
        });
        for number in 0..60 {
            thread::sleep(Duration::from_millis(number % 7));
            ours.send(&number).expect("sends");
        }
        for number in 0..3000 {
            if number % 500 == 0 {
                thread::sleep(Duration::from_millis(20));
            }
            assert_eq!(ours.receive(), Ok(number));
        }
    });
}

#[test]
fn without_a_doorbell_a_sleeper_looks_again_by_itself() {
    let (host, guest) = loopback::pair_without_doorbell();
    let bound = Duration::from_millis(2);
    let mut ours = host
        .region("a")
        .size(1 << 13)
        .longest_sleep(bound)
        .byte_ring()
        .expect("opens");
    let mut theirs = guest
        .region("a")
        .longest_sleep(bound)
        .byte_ring()
        .expect("opens");
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut record = Vec::new();
            for number in 0..20_u8 {
                theirs.receive(&mut record).expect("comes");
                assert_eq!(record, [number]);
            }
        });
        for number in 0..20 {
            thread::sleep(Duration::from_millis(10));
            ours.send(&[number]).expect("sends");
        }
    });
}

/// The guest's end of the ring "a" as its bare memory and tether.
fn bare(
    guest: &loopback::Loopback<loopback::InGuest>,
) -> Held<loopback::Loopback<loopback::InGuest>> {
    guest
        .open(&Wish {
            name: "a".to_owned(),
            kind: RegionKind::Ring,
            size: 0,
            record: 8,
            role: Role::End,
            timeout: Duration::ZERO,
        })
        .expect("opens")
}

#[test]
fn a_sleeper_is_rung_for_once_and_nobody_else_is() {
    let (host, guest) = loopback::pair();
    let mut ours = host.region("a").size(1 << 13).ring::<u64>().expect("opens");
    let held = bare(&guest);
    let (asleep, rings) = (Side::Guest.asleep(), || held.tether.rings());
    let sleep = |word| held.memory.store_release(asleep, word).expect("inside");
    ours.send(&1).expect("sends");
    assert_eq!(rings(), 0, "nobody sleeps");
    sleep(1);
    for _ in 0..3 {
        ours.send(&1).expect("sends");
        assert_eq!(rings(), 1);
    }
    sleep(2);
    ours.send_all(&[1, 2]).expect("sends");
    assert_eq!(rings(), 1);
    sleep(3);
    ours.send_all(&[1, 2]).expect("sends");
    assert_eq!(rings(), 2);
}

#[test]
fn a_sender_that_sleeps_for_room_is_rung_for_when_a_quarter_is_free() {
    let (host, guest) = loopback::pair();
    let mut ours = host.region("a").size(1 << 13).ring::<u64>().expect("opens");
    let held = bare(&guest);
    let rings = || held.tether.rings();
    held.memory
        .store_release(Side::Guest.front(), ours.capacity())
        .expect("inside");
    held.memory
        .store_release(Side::Guest.asleep(), 1)
        .expect("inside");
    for taken in 1..=ours.capacity() {
        assert_eq!(ours.receive(), Ok(0));
        assert_eq!(rings(), u64::from(taken >= ours.capacity() / 4));
    }
    // And when the ring is found empty, however little was taken.
    held.memory
        .store_release(Side::Guest.front(), ours.capacity() + 1)
        .expect("inside");
    held.memory
        .store_release(Side::Guest.asleep(), 3)
        .expect("inside");
    assert_eq!(ours.receive(), Ok(0));
    assert_eq!(rings(), 1);
    assert_eq!(ours.try_receive(), Ok(None));
    assert_eq!(rings(), 2);
}

#[test]
fn an_end_that_slept_leaves_its_word_even() {
    let (host, guest) = loopback::pair();
    let mut ours = sleepy(host.region("a").size(1 << 13))
        .ring::<u64>()
        .expect("opens");
    let held = bare(&guest);
    let asleep = || {
        held.memory
            .load_acquire(Side::Host.asleep())
            .expect("inside")
    };
    assert_eq!(asleep(), 0);
    let timeout = Duration::from_millis(30);
    // On a busy machine a wait may be over before it has come to sleeping.
    while asleep() == 0 {
        assert!(ours.receive_timeout(timeout).is_err());
    }
    assert!(asleep().is_multiple_of(2));
    thread::scope(|scope| {
        scope.spawn(move || ours.receive_timeout(LONG).expect("comes"));
        while asleep().is_multiple_of(2) {
            thread::yield_now();
        }
        // It sleeps and nobody rings for it: the bell of its connection has to end that.
        held.memory
            .write(4096, &7_u64.to_ne_bytes())
            .expect("inside");
        held.memory
            .store_release(Side::Guest.front(), 1)
            .expect("inside");
        held.doorbell.as_ref().expect("has one").ring(held.region);
    });
}
