//! Rings of typed records.

use std::thread;

use vmshm_endpoint::{LinkFailure, Ring, loopback};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{LONG, SHORT};

#[derive(Debug, Clone, Copy, PartialEq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Wide {
    number: u64,
    words: [u32; 11],
    rest: [u8; 4],
}

impl Wide {
    fn new(number: u64) -> Self {
        let word = u32::try_from(number).expect("small");
        Self {
            number,
            words: [word; 11],
            rest: word.to_le_bytes(),
        }
    }
}

#[test]
fn records_of_a_page_wrap_and_keep_their_order() {
    let (host, guest) = loopback::pair();
    let mut ours = host
        .region("wide")
        .size(1 << 13)
        .ring::<Wide>()
        .expect("opens");
    let mut theirs = guest.region("wide").ring::<Wide>().expect("opens");
    let count = ours.capacity() * 50 + 3;
    thread::scope(|scope| {
        scope.spawn(move || {
            for number in 0..count {
                ours.send(&Wide::new(number)).expect("sends");
            }
        });
        for number in 0..count {
            assert_eq!(theirs.receive(), Ok(Wide::new(number)));
        }
        assert_eq!(theirs.try_receive(), Ok(None));
    });
}

#[test]
fn batches_of_all_lengths_keep_their_order_both_ways() {
    fn talk(mut ring: Ring<u64, impl vmshm_endpoint::Connection>) {
        let total = 20_000_u64;
        let (mut sender, mut receiver) = {
            let (sender, receiver) = ring.split();
            ring = Ring::join(sender, receiver).expect("of one ring");
            ring.split()
        };
        thread::scope(|scope| {
            scope.spawn(move || {
                let numbers: Vec<u64> = (0..total).collect();
                let mut rest = numbers.as_slice();
                let mut length = 1;
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(length.min(rest.len()));
                    sender.send_all(now).expect("sends");
                    (rest, length) = (later, length * 3 % 1001 + 1);
                }
            });
            let mut next = 0;
            let mut batch = [0; 700];
            while next < total {
                let room = usize::try_from(next % 699).expect("small") + 1;
                let count = receiver.receive_into(&mut batch[..room]).expect("receives");
                assert!(count > 0);
                for number in &batch[..count] {
                    assert_eq!(*number, next);
                    next += 1;
                }
            }
        });
    }
    let (host, guest) = loopback::pair();
    let ours = host
        .region("batches")
        .size(1 << 13)
        .ring::<u64>()
        .expect("opens");
    let theirs = guest.region("batches").ring::<u64>().expect("opens");
    thread::scope(|scope| {
        scope.spawn(|| talk(ours));
        talk(theirs);
    });
}

#[test]
fn a_full_ring_takes_no_more_and_an_empty_one_gives_nothing() {
    let (host, guest) = loopback::pair();
    let mut ours = host
        .region("full")
        .size(1 << 13)
        .ring::<u64>()
        .expect("opens");
    let mut theirs = guest.region("full").ring::<u64>().expect("opens");
    assert_eq!(
        theirs.receive_timeout(SHORT),
        Err(LinkFailure::Timeout(SHORT))
    );
    let capacity = ours.capacity();
    let numbers: Vec<u64> = (0..capacity).collect();
    ours.send_all(&numbers).expect("fits");
    assert_eq!(ours.try_send(&0), Ok(false));
    assert_eq!(
        ours.send_timeout(&0, SHORT),
        Err(LinkFailure::Timeout(SHORT))
    );
    let (mut sender, _receiver) = ours.split();
    assert_eq!(sender.try_send_all(&numbers), Ok(0));
    assert_eq!(sender.is_drained(), Ok(false));
    for number in numbers {
        assert_eq!(theirs.receive_timeout(LONG), Ok(number));
    }
    assert_eq!(sender.is_drained(), Ok(true));
    assert_eq!(sender.try_send_all(&[1, 2]), Ok(2));
    assert_eq!(theirs.receive_into(&mut []), Ok(0));
}

#[test]
fn halves_of_different_rings_are_given_back() {
    let (host, guest) = loopback::pair();
    let ours = host.region("a").size(1 << 13).ring::<u64>().expect("opens");
    let theirs = guest.region("a").ring::<u64>().expect("opens");
    let other = host.region("b").size(1 << 13).ring::<u64>().expect("opens");
    let (sender, _own) = ours.split();
    let (_other, receiver) = other.split();
    let apart = Ring::join(sender, receiver).expect_err("of two rings");
    let (mut sender, receiver) = *apart.halves;
    sender.send(&1).expect("still works");
    drop((receiver, theirs));
}

/// Whatever access is the last one: what was received is handed out, what was not comes again.
#[test]
fn a_record_is_received_or_still_there_when_the_memory_goes() {
    for accesses in 1..30 {
        let (host, guest) = loopback::pair();
        let mut sender = host
            .region("q")
            .size(3 * 4096)
            .ring::<[u8; 1024]>()
            .expect("opens");
        let mut receiver = guest.region("q").ring::<[u8; 1024]>().expect("opens");
        sender.send(&[1; 1024]).expect("there is room");
        guest.kill_after(accesses);
        let taken = receiver.try_receive();
        guest.kill_after(u64::MAX);
        receiver.reconnect(LONG).expect("opens again");
        let left = receiver.try_receive().expect("alive");
        assert_eq!(taken.is_ok(), left.is_none(), "after {accesses} accesses");
    }
}
