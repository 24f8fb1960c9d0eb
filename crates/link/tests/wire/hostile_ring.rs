//! A peer that writes whatever it likes into its words and into the records, also
//! between any two of this side's looks. This side ends in an error or takes records
//! that fit the ring; it never panics, never works without end, and never writes
//! anywhere but where it may.

use proptest::collection::vec;
use proptest::prelude::*;
use vmshm_link::LinkError;
use vmshm_link::ring::{Consumer, PADDING, Producer, RingLayout};
use vmshm_link::stream::{Received, StreamReader};
use vmshm_shm::{LocalMemory, SharedMemory};

use crate::material::memories::{Access, Meddler, Watched};
use crate::material::{assert_guards, capacities, layout, memory_for, nasty_word};

/// One word that the peer writes before one of this side's operations.
type Change = (u8, u64, u64);

fn changes() -> impl Strategy<Value = Vec<Change>> {
    vec((0_u8..6, any::<u64>(), nasty_word()), 0..200)
}

/// Writes the given words, one after some operations each, `tail` or `head` (`word`)
/// more often than the records.
fn meddler(changes: Vec<Change>, ring: RingLayout, word: u64) -> Meddler {
    let mut changes = changes.into_iter();
    let mut wait = 0;
    Meddler::new(move |memory, _| {
        if wait > 0 {
            wait -= 1;
            return;
        }
        if let Some((pause, place, value)) = changes.next() {
            wait = pause;
            let offset = match place % 3 {
                0 => word,
                _ => ring.data + place / 3 % (ring.capacity / 8) * 8,
            };
            // Small steps forward are the most credible lies.
            let value = match place % 9 {
                0 | 3 => memory
                    .load_relaxed(word)
                    .expect("inside")
                    .wrapping_add(value % 65 * 8),
                _ => value,
            };
            memory.store_relaxed(offset, value).expect("inside");
        }
    })
}

fn fill(memory: &LocalMemory, ring: RingLayout, words: &[u64]) {
    for (index, word) in words.iter().enumerate() {
        let at = ring.data + index as u64 * 8 % ring.capacity;
        memory.store_relaxed(at, *word).expect("inside");
    }
}

proptest! {
    #[test]
    fn a_consumer_survives_any_producer(
        capacity in capacities(),
        words in vec(nasty_word(), 0..64),
        tail in nasty_word(),
        changes in changes(),
    ) {
        let ring = layout(capacity);
        let memory = memory_for(capacity);
        fill(&memory, ring, &words);
        let hostile = Watched::new(&memory, meddler(changes, ring, ring.tail));
        let mut consumer = Consumer::start(hostile.clone(), ring).expect("fits");
        memory.store_relaxed(ring.tail, tail).expect("inside");
        let limit = ring.longest_record();
        let mut into = vec![0; usize::try_from(limit).expect("small")];
        for _ in 0..200 {
            hostile.watcher.operations.set(0);
            match consumer.try_pop(&mut into) {
                Ok(Some((kind, count))) => {
                    prop_assert!(count as u64 <= limit && kind != PADDING);
                }
                Ok(None) | Err(LinkError::Violation { .. }) => {}
                Err(other) => prop_assert!(false, "{other}"),
            }
            prop_assert!(hostile.watcher.operations.get() < 30);
        }
        assert_guards(&memory, capacity);
    }

    #[test]
    fn a_producer_survives_any_consumer(
        capacity in capacities(),
        head in nasty_word(),
        lengths in vec(0_usize..600, 1..200),
        changes in changes(),
    ) {
        let ring = layout(capacity);
        let memory = memory_for(capacity);
        let hostile = Watched::new(&memory, meddler(changes, ring, ring.head));
        let mut producer = Producer::start(hostile.clone(), ring).expect("fits");
        memory.store_relaxed(ring.head, head).expect("inside");
        for length in lengths {
            hostile.watcher.operations.set(0);
            match producer.try_push(1, &vec![0x55; length]) {
                Ok(_) | Err(LinkError::Violation { .. } | LinkError::TooLong { .. }) => {}
                Err(other) => prop_assert!(false, "{other}"),
            }
            let _ = producer.is_drained();
            prop_assert!(hostile.watcher.operations.get() < 30);
        }
        assert_guards(&memory, capacity);
    }

    #[test]
    fn a_stream_reader_survives_any_writer(
        capacity in capacities(),
        words in vec(nasty_word(), 0..64),
        changes in changes(),
        room in 0_usize..300,
    ) {
        let ring = layout(capacity);
        let memory = memory_for(capacity);
        fill(&memory, ring, &words);
        let hostile = Watched::new(&memory, meddler(changes, ring, ring.tail));
        let mut reader = StreamReader::start(hostile.clone(), ring).expect("fits");
        memory.store_relaxed(ring.tail, capacity / 2).expect("inside");
        let mut into = vec![0; room];
        for _ in 0..200 {
            hostile.watcher.operations.set(0);
            match reader.try_read(&mut into) {
                Ok(Received::Bytes(count)) => prop_assert!(count <= room),
                Ok(_) | Err(LinkError::Violation { .. }) => {}
                Err(other) => prop_assert!(false, "{other}"),
            }
            prop_assert!(hostile.watcher.operations.get() < 60);
        }
        assert_guards(&memory, capacity);
    }
}

/// A producer that keeps a ring of `header`s full for ever: it takes every byte back
/// as soon as the consumer gives it.
fn endless(header: u64, ring: RingLayout) -> Meddler {
    Meddler::new(move |memory, access| {
        if let Access::Load { offset } = access {
            if offset == ring.tail {
                let head = memory.load_relaxed(ring.head).expect("inside");
                memory
                    .store_relaxed(ring.tail, head + ring.capacity)
                    .expect("inside");
            } else if offset >= ring.data {
                memory.store_relaxed(offset, header).expect("inside");
            }
        }
    })
}

#[test]
fn padding_without_end_does_not_keep_a_consumer_busy() {
    for length in [0, 8, 24, 56] {
        let ring = layout(64);
        let header = u64::from(PADDING) << 32 | length;
        let hostile = Watched::new(&memory_for(64), endless(header, ring));
        let mut consumer = Consumer::start(hostile, ring).expect("fits");
        assert!(matches!(consumer.peek(), Err(LinkError::Violation { .. })));
    }
}

#[test]
fn empty_data_without_end_does_not_keep_a_reader_busy() {
    const DATA: u64 = 1 << 32;
    let ring = layout(64);
    let hostile = Watched::new(&memory_for(64), endless(DATA, ring));
    let mut reader = StreamReader::start(hostile, ring).expect("fits");
    assert!(matches!(
        reader.try_read(&mut [0; 8]),
        Err(LinkError::Violation { .. })
    ));
}

#[test]
fn a_record_longer_than_any_producer_writes_is_refused() {
    let ring = layout(256);
    let memory = memory_for(256);
    let mut consumer = Consumer::start(&*memory, ring).expect("fits");
    for length in [121, 128, 240, 248, 0xffff_ffff] {
        memory
            .store_relaxed(ring.data, 1 << 32 | length)
            .expect("inside");
        memory.store_relaxed(ring.tail, 256).expect("inside");
        assert!(consumer.peek().is_err(), "{length}");
    }
    memory
        .store_relaxed(ring.data, 1 << 32 | 120)
        .expect("inside");
    assert_eq!(consumer.peek().expect("right").expect("there").length, 120);
}

#[test]
fn a_tail_or_head_that_goes_too_far_or_back_is_refused() {
    let ring = layout(64);
    for bad in [4, 72, 1 << 63, u64::MAX, u64::MAX - 7] {
        let memory = memory_for(64);
        let mut consumer = Consumer::start(&*memory, ring).expect("fits");
        memory.store_relaxed(ring.tail, bad).expect("inside");
        assert!(consumer.peek().is_err(), "{bad:#x}");
        let mut producer = Producer::start(&*memory, ring).expect("fits");
        assert_eq!(producer.try_push(1, &[1; 24]), Ok(true));
        memory.store_relaxed(ring.head, bad).expect("inside");
        assert!(producer.is_drained().is_err(), "{bad:#x}");
    }
}
