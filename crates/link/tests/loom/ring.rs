//! Producer and consumer of a ring that is too small for what passes through it.

use loom::thread;
use vmshm_link::ring::{Consumer, Producer, RingLayout};

use crate::check;
use crate::memory::LoomMemory;

const LAYOUT: RingLayout = RingLayout {
    tail: 0,
    head: 8,
    data: 16,
    capacity: 64,
};

fn start() -> (Producer<LoomMemory>, Consumer<LoomMemory>) {
    let memory = LoomMemory::new(80, &[(0, 80)]);
    let producer = Producer::start(memory.clone(), LAYOUT).expect("fits");
    let consumer = Consumer::start(memory, LAYOUT).expect("fits");
    (producer, consumer)
}

fn bytes(number: usize, length: usize) -> Vec<u8> {
    let first = u8::try_from(number).expect("small") * 32 + 1;
    (first..).take(length).collect()
}

/// Takes one record, and checks that it is the right one.
fn take(consumer: &mut Consumer<LoomMemory>, number: usize, length: usize) {
    let mut into = [0; 24];
    let (kind, count) = loop {
        match consumer.try_pop(&mut into).expect("a right peer") {
            Some(found) => break found,
            None => thread::yield_now(),
        }
    };
    assert_eq!(usize::from(kind), number);
    assert_eq!(into[..count], bytes(number, length));
}

fn pass(lengths: &'static [usize], preemptions: usize) {
    check(preemptions, move || {
        let (mut producer, mut consumer) = start();
        let sender = thread::spawn(move || {
            for (number, length) in lengths.iter().enumerate() {
                let kind = u16::try_from(number).expect("small");
                while !producer
                    .try_push(kind, &bytes(number, *length))
                    .expect("a right peer")
                {
                    thread::yield_now();
                }
            }
            producer
        });
        for (number, length) in lengths.iter().enumerate() {
            take(&mut consumer, number, *length);
        }
        assert_eq!(consumer.peek(), Ok(None));
        let mut producer = sender.join().expect("no panic");
        assert_eq!(producer.is_drained(), Ok(true));
    });
}

#[test]
fn records_of_several_lengths_arrive_whole() {
    pass(&[0, 5, 16, 13], 4);
}

#[test]
fn a_full_ring_waits_and_its_bytes_are_used_again() {
    // 32 + 32 fill it; the third may only overwrite what was taken.
    pass(&[24, 24, 24, 24], 4);
}

#[test]
fn a_record_that_does_not_fit_before_the_end_goes_behind_padding() {
    // 24 + 24 leave 16 before the end, which the third does not fit.
    pass(&[16, 16, 24, 0], 4);
}

#[test]
fn a_batch_becomes_visible_as_a_whole() {
    check(4, || {
        let (mut producer, mut consumer) = start();
        let sender = thread::spawn(move || {
            assert_eq!(producer.try_stage(0, &bytes(0, 8)), Ok(true));
            let mut room = producer.reserve(24).expect("fits").expect("room");
            room.write(0, &bytes(1, 16)).expect("inside");
            room.commit(1, 12).expect("inside");
            producer.publish().expect("reachable");
        });
        take(&mut consumer, 0, 8);
        let record = consumer.peek().expect("right").expect("both or none");
        let mut into = [0; 12];
        assert_eq!(consumer.read(record, 0, &mut into[..8]), Ok(8));
        assert_eq!(consumer.read(record, 8, &mut into[8..]), Ok(4));
        assert_eq!(into[..], bytes(1, 12));
        consumer.release(record).expect("there");
        sender.join().expect("no panic");
    });
}

#[test]
fn a_producer_sees_what_was_taken() {
    check(4, || {
        let (mut producer, mut consumer) = start();
        assert_eq!(producer.try_push(0, &bytes(0, 24)), Ok(true));
        assert_eq!(producer.try_push(1, &bytes(1, 24)), Ok(true));
        let receiver = thread::spawn(move || {
            take(&mut consumer, 0, 24);
            take(&mut consumer, 1, 24);
        });
        // Nothing is staged, whatever of it fits by now.
        assert!(producer.reserve(8).is_ok());
        while !producer.is_drained().expect("a right peer") {
            thread::yield_now();
        }
        receiver.join().expect("no panic");
    });
}
