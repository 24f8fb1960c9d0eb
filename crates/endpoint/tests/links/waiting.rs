//! Sleeping and waking. Time limits here are bounds that are never reached.

use std::thread;
use std::time::Duration;

use vmshm_endpoint::{Connection, RegionOptions, loopback};

use crate::LONG;

/// Sleeps as soon as it can, and for ever if nobody rings.
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

#[test]
fn an_end_that_slept_leaves_its_word_even() {
    use vmshm_endpoint::{RegionKind, Role, Side, Wish};
    use vmshm_shm::SharedMemory;

    let (host, guest) = loopback::pair();
    let mut ours = sleepy(host.region("a").size(1 << 13))
        .ring::<u64>()
        .expect("opens");
    let held = guest
        .open(&Wish {
            name: "a".to_owned(),
            kind: RegionKind::Ring,
            size: 0,
            record: 8,
            role: Role::End,
            timeout: Duration::ZERO,
        })
        .expect("opens");
    let asleep = || {
        held.memory
            .load_acquire(Side::Host.asleep())
            .expect("inside")
    };
    assert_eq!(asleep(), 0);
    let timeout = Duration::from_millis(30);
    assert!(ours.receive_timeout(timeout).is_err());
    assert!(asleep() > 0 && asleep().is_multiple_of(2));
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
