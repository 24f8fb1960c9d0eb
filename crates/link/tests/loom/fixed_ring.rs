//! Producer and consumer of a ring of records of one size, also with ends that die before
//! any of their operations and others that resume.

use loom::thread;
use vmshm_link::fixed_ring::{FixedConsumer, FixedProducer, FixedRingLayout};
use vmshm_shm::SharedMemory;

use crate::check;
use crate::memory::{Dying, LoomMemory};

const LAYOUT: FixedRingLayout = FixedRingLayout {
    tail: 0,
    head: 8,
    producer_guard: 16,
    consumer_guard: 24,
    data: 32,
    record: 16,
    stride: 16,
    capacity: 2,
};
const LAST: u64 = 4;

fn memory() -> LoomMemory {
    LoomMemory::new(64, &[(0, 64)])
}

fn record(number: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes[8..].copy_from_slice(&(!number).to_le_bytes());
    bytes
}

fn number(bytes: [u8; 16]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[..8]);
    let number = u64::from_le_bytes(word);
    assert_eq!(bytes, record(number), "a torn record");
    number
}

/// Sends records up to the last one, from whichever the ring's tail says is next.
fn send(memory: impl SharedMemory) -> Option<()> {
    let next = memory.load_relaxed(LAYOUT.tail).ok()?;
    let mut producer = FixedProducer::resume(memory, LAYOUT).ok()?;
    for number in next..LAST {
        while !producer.try_push(&record(number)).ok()? {
            thread::yield_now();
        }
    }
    Some(())
}

/// Takes records from the one that the ring's head says is next; gives how many came.
fn receive(memory: impl SharedMemory, mut each: impl FnMut(u64)) -> Option<()> {
    let next = memory.load_relaxed(LAYOUT.head).ok()?;
    let mut consumer = FixedConsumer::resume(memory, LAYOUT).ok()?;
    for _ in next..LAST {
        let mut bytes = [0; 16];
        while !consumer.try_pop(&mut bytes).ok()? {
            thread::yield_now();
        }
        each(number(bytes));
    }
    Some(())
}

#[test]
fn records_arrive_whole_and_in_order() {
    check(3, || {
        let memory = memory();
        let sending = memory.clone();
        let sender = thread::spawn(move || send(sending).expect("a right peer"));
        let mut expected = 0;
        receive(memory, |number| {
            assert_eq!(number, expected);
            expected += 1;
        })
        .expect("a right peer");
        sender.join().expect("no panic");
    });
}

#[test]
fn batches_arrive_whole_and_in_order() {
    check(3, || {
        let memory = memory();
        let mut producer = FixedProducer::resume(memory.clone(), LAYOUT).expect("empty");
        let mut consumer = FixedConsumer::resume(memory, LAYOUT).expect("empty");
        let sender = thread::spawn(move || {
            let bytes = [record(0), record(1), record(2)].concat();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                match producer.try_push_all(rest).expect("a right peer") {
                    0 => thread::yield_now(),
                    count => rest = &rest[count * 16..],
                }
            }
        });
        let mut bytes = [0; 48];
        let mut done = 0;
        while done < 3 {
            let count = consumer.try_pop_all(&mut bytes[done * 16..]);
            match count.expect("a right peer") {
                0 => thread::yield_now(),
                count => done += count,
            }
        }
        assert_eq!(bytes[..], [record(0), record(1), record(2)].concat());
        sender.join().expect("no panic");
    });
}

#[test]
fn a_producer_that_dies_anywhere_is_followed_by_one_that_goes_on() {
    for step in 1..16 {
        check(2, move || {
            let memory = memory();
            let sending = memory.clone();
            let sender = thread::spawn(move || {
                let _ = send(Dying::new(sending.clone(), step));
                send(sending).expect("a right peer");
            });
            let mut expected = 0;
            receive(memory, |number| {
                assert_eq!(number, expected);
                expected += 1;
            })
            .expect("a right peer");
            sender.join().expect("no panic");
        });
    }
}

#[test]
fn a_consumer_that_dies_anywhere_is_followed_by_one_that_goes_on() {
    for step in 1..20 {
        check(2, move || {
            let memory = memory();
            let sending = memory.clone();
            let sender = thread::spawn(move || send(sending).expect("a right peer"));
            let mut expected = 0;
            let mut each = |number| {
                assert_eq!(number, expected, "lost, doubled or out of order");
                expected += 1;
            };
            let _ = receive(Dying::new(memory.clone(), step), &mut each);
            receive(memory, &mut each).expect("a right peer");
            assert_eq!(expected, LAST);
            sender.join().expect("no panic");
        });
    }
}
