//! Rings of records of any length.

use std::thread;
use std::time::Duration;

use vmshm_endpoint::{ByteRing, LinkFailure, loopback};

use crate::{Numbers, SHORT};

fn record(number: u64, length: u64) -> Vec<u8> {
    (0..length)
        .map(|at| (number + at).to_le_bytes()[0])
        .collect()
}

#[test]
fn records_of_all_lengths_keep_their_order() {
    let (host, guest) = loopback::pair();
    let mut ours = host
        .region("bytes")
        .size(1 << 14)
        .byte_ring()
        .expect("opens");
    let mut theirs = guest.region("bytes").byte_ring().expect("opens");
    let longest = ours.longest_record();
    let lengths = || {
        let mut numbers = Numbers(7);
        std::iter::repeat_with(move || numbers.below(longest + 1)).take(3000)
    };
    thread::scope(|scope| {
        scope.spawn(move || {
            for (number, length) in (0..).zip(lengths()) {
                if number % 2 == 0 {
                    ours.send(&record(number, length)).expect("sends");
                } else {
                    let mut room = ours.reserve(length).expect("room");
                    assert_eq!(room.len(), length);
                    let bytes = record(number, length);
                    let (head, tail) = bytes.split_at(bytes.len() / 2);
                    room.write(head.len() as u64, tail)
                        .and_then(|room| room.write(0, head))
                        .expect("inside");
                    room.commit(length).expect("sends");
                }
            }
        });
        let mut received = Vec::new();
        for (number, length) in (0..).zip(lengths()) {
            if number % 3 == 0 {
                let found = theirs.peek().expect("comes");
                assert_eq!(found.len(), length);
                let mut part = vec![0; 100];
                let count = found.read(length / 2, &mut part).expect("honest");
                let all = record(number, length);
                let at = usize::try_from(length / 2).expect("short");
                assert_eq!(part[..count], all[at..all.len().min(at + 100)]);
                found.release().expect("honest");
            } else {
                theirs.receive(&mut received).expect("comes");
                assert_eq!(received, record(number, length));
            }
        }
    });
}

#[test]
fn what_is_not_committed_is_not_sent_and_what_is_not_released_comes_again() {
    let (host, guest) = loopback::pair();
    let mut ours = host
        .region("bytes")
        .size(1 << 13)
        .byte_ring()
        .expect("opens");
    let mut theirs = guest.region("bytes").byte_ring().expect("opens");
    ours.reserve(100)
        .expect("room")
        .write(0, b"never")
        .expect("inside");
    assert!(theirs.try_peek().expect("honest").is_none());
    ours.send(b"").expect("sends");
    for _ in 0..2 {
        assert!(theirs.peek().expect("honest").is_empty());
    }
    let mut received = b"before".to_vec();
    assert_eq!(theirs.try_receive(&mut received), Ok(true));
    assert_eq!(received, b"");
    assert_eq!(theirs.try_receive(&mut received), Ok(false));
    let timeout = theirs.receive_timeout(&mut received, SHORT);
    assert_eq!(timeout, Err(LinkFailure::Timeout(SHORT)));
}

#[test]
fn a_record_that_could_never_fit_is_refused_and_ends_nothing() {
    let (host, guest) = loopback::pair();
    let mut ours = host
        .region("bytes")
        .size(1 << 13)
        .byte_ring()
        .expect("opens");
    let mut theirs = guest.region("bytes").byte_ring().expect("opens");
    let limit = ours.longest_record();
    let long = vec![1; usize::try_from(limit).expect("short") + 1];
    let too_long = LinkFailure::TooLong {
        length: limit + 1,
        limit,
    };
    assert_eq!(ours.send(&long), Err(too_long.clone()));
    assert_eq!(ours.try_send(&long), Err(too_long.clone()));
    assert_eq!(ours.reserve(limit + 1).map(drop), Err(too_long));
    let mut room = ours.reserve(4).expect("room");
    assert!(matches!(
        room.write(1, b"four"),
        Err(LinkFailure::TooLong { .. })
    ));
    assert!(matches!(
        room.write(u64::MAX, b"4"),
        Err(LinkFailure::TooLong { .. })
    ));
    assert!(matches!(room.commit(5), Err(LinkFailure::TooLong { .. })));
    ours.send(&long[1..]).expect("fits");
    assert_eq!(ours.try_send(&long[1..]), Ok(true));
    assert_eq!(ours.try_send(&[1]), Ok(false));
    assert_eq!(
        ours.send_timeout(&[1], SHORT),
        Err(LinkFailure::Timeout(SHORT))
    );
    let mut received = Vec::new();
    theirs.receive(&mut received).expect("comes");
    assert_eq!(received, long[1..]);
}

#[test]
fn a_record_that_no_application_wrote_ends_the_link() {
    use vmshm_endpoint::{Connection, RegionKind, Role, Side, Wish};
    use vmshm_link::ring::{Producer, RingLayout};
    use vmshm_shm::SharedMemory;

    let (host, guest) = loopback::pair();
    let mut ours: ByteRing<_> = host
        .region("bytes")
        .size(1 << 13)
        .byte_ring()
        .expect("opens");
    let held = guest
        .open(&Wish {
            name: "bytes".to_owned(),
            kind: RegionKind::Ring,
            size: 0,
            record: 0,
            role: Role::End,
            timeout: Duration::ZERO,
        })
        .expect("opens");
    let layout = RingLayout::in_region(held.memory.size(), Side::Guest).expect("fits");
    let mut hostile = Producer::resume(held.memory, layout).expect("fits");
    hostile.try_push(77, b"strange").expect("room");
    for _ in 0..2 {
        assert!(matches!(
            ours.try_peek().map(drop),
            Err(LinkFailure::Ended(_))
        ));
    }
}

#[test]
fn room_that_was_given_up_does_not_count_as_sent() {
    let (host, guest) = loopback::pair();
    let ring = host.region("b").size(3 * 4096).byte_ring().expect("opens");
    let mut other = guest.region("b").byte_ring().expect("opens");
    let (mut sender, _receiver) = ring.split();
    let mut record = Vec::new();
    for _ in 0..3 {
        sender.send(&[1; 1000]).expect("there is room");
        other.receive(&mut record).expect("it comes");
    }
    // It would lie before the ring's end, so the ring is filled up first.
    drop(sender.reserve(1500).expect("there is room"));
    assert_eq!(sender.is_drained(), Ok(true));
}
