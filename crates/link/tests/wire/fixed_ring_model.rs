//! The ring of records of one size against a queue, with ends that die at any moment and
//! others that resume: the same records come out in the same order, and nothing beside the
//! ring is touched.

use std::collections::VecDeque;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use vmshm_link::LinkError;
use vmshm_link::duplex::Side;
use vmshm_link::fixed_ring::{FixedConsumer, FixedProducer, FixedRingLayout};
use vmshm_shm::{LocalMemory, SharedMemory};

use crate::material::memories::{Notes, Watched};
use crate::material::payload;

#[derive(Debug, Clone)]
enum Step {
    Push,
    PushAll(usize),
    Pop,
    PopAll(usize),
    Drained,
    NewProducer,
    NewConsumer,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Push),
        4 => (0_usize..40).prop_map(Step::PushAll),
        4 => Just(Step::Pop),
        4 => (0_usize..40).prop_map(Step::PopAll),
        1 => Just(Step::Drained),
        1 => Just(Step::NewProducer),
        1 => Just(Step::NewConsumer),
    ]
}

/// A ring behind some bytes and before some that nobody may touch.
pub fn layout(record: u64, capacity: u64) -> (FixedRingLayout, usize) {
    let size = FixedRingLayout::region_size(record, capacity);
    let ring = FixedRingLayout::in_region(size, record, Side::Guest).expect("fits");
    (ring, usize::try_from(size).expect("small"))
}

fn run(record: usize, capacity: u64, costly: bool, steps: &[Step]) {
    let (ring, size) = layout(record as u64, capacity);
    let memory = Arc::new(LocalMemory::new(size));
    let watched = Watched::new(&memory, Notes::default()).costly(costly);
    let mut producer = FixedProducer::resume(watched.clone(), ring).expect("empty");
    let mut consumer = FixedConsumer::resume(watched.clone(), ring).expect("empty");
    let mut model: VecDeque<Vec<u8>> = VecDeque::new();
    let room = usize::try_from(ring.capacity).expect("small");
    let mut next = 0;
    let mut make = |count: usize| -> Vec<Vec<u8>> {
        (0..count)
            .map(|_| {
                next += 1;
                payload(next, record)
            })
            .collect()
    };
    for step in steps {
        match *step {
            Step::Push => {
                let made = make(1);
                let pushed = producer.try_push(&made[0]).expect("right");
                assert_eq!(pushed, model.len() < room);
                model.extend(made.into_iter().filter(|_| pushed));
            }
            Step::PushAll(count) => {
                let made = make(count);
                let pushed = producer.try_push_all(&made.concat()).expect("right");
                assert_eq!(pushed, count.min(room - model.len()));
                model.extend(made.into_iter().take(pushed));
            }
            Step::Pop => {
                let mut into = vec![0; record];
                let popped = consumer.try_pop(&mut into).expect("right");
                assert_eq!(popped.then_some(into), model.pop_front());
            }
            Step::PopAll(count) => {
                let mut into = vec![0; record * count];
                let popped = consumer.try_pop_all(&mut into).expect("right");
                assert!(popped <= count && (popped > 0 || count == 0 || model.is_empty()));
                let expected: Vec<_> = model.drain(..popped).flatten().collect();
                assert_eq!(into[..popped * record], expected);
            }
            Step::Drained => {
                assert_eq!(producer.is_drained(), Ok(model.is_empty()));
            }
            Step::NewProducer => {
                producer = FixedProducer::resume(watched.clone(), ring).expect("as left");
            }
            Step::NewConsumer => {
                consumer = FixedConsumer::resume(watched.clone(), ring).expect("as left");
            }
        }
        producer.verify().expect("nobody else writes");
        consumer.verify().expect("nobody else writes");
    }
    let data = ring.data..ring.data + ring.capacity * ring.stride;
    let words = [
        ring.tail,
        ring.head,
        ring.producer_guard,
        ring.consumer_guard,
    ];
    for at in watched.watcher.written.borrow().iter() {
        assert!(data.contains(at) || words.contains(at), "{at:#x}");
    }
}

proptest! {
    #[test]
    fn a_ring_of_one_size_is_a_queue(
        record in prop_oneof![Just(8_usize), 1_usize..200, Just(700)],
        capacity in 1_u64..40,
        costly in any::<bool>(),
        steps in vec(step(), 0..300),
    ) {
        run(record, capacity, costly, &steps);
    }
}

#[test]
fn bytes_that_are_not_whole_records_are_refused() {
    let (ring, size) = layout(8, 8);
    let memory = LocalMemory::new(size);
    let mut producer = FixedProducer::resume(&memory, ring).expect("empty");
    let mut consumer = FixedConsumer::resume(&memory, ring).expect("empty");
    for length in [0, 7, 9, 16] {
        let error = LinkError::NotWhole { length, record: 8 };
        let mut bytes = vec![0; usize::try_from(length).expect("small")];
        assert_eq!(producer.try_push(&bytes), Err(error));
        assert_eq!(consumer.try_pop(&mut bytes), Err(error));
        if length % 8 != 0 {
            assert_eq!(producer.try_push_all(&bytes), Err(error));
            assert_eq!(consumer.try_pop_all(&mut bytes), Err(error));
        }
    }
    assert_eq!(producer.try_push_all(&[]), Ok(0));
    assert_eq!(consumer.try_pop_all(&mut []), Ok(0));
    assert!(producer.is_drained().expect("right"));
}

#[test]
fn a_batch_over_costly_memory_takes_few_calls() {
    let (ring, size) = layout(24, 1024);
    let memory = Arc::new(LocalMemory::new(size));
    let counting =
        || Watched::new(&memory, crate::material::memories::Failing::from(u64::MAX)).costly(true);
    let (sending, receiving) = (counting(), counting());
    let mut producer = FixedProducer::resume(sending.clone(), ring).expect("empty");
    let mut consumer = FixedConsumer::resume(receiving.clone(), ring).expect("empty");
    let mut batch = payload(1, 24 * 512);
    let calls = |side: &Watched<crate::material::memories::Failing>| side.watcher.done.replace(0);
    calls(&sending);
    calls(&receiving);
    assert_eq!(producer.try_push_all(&batch), Ok(512));
    assert_eq!(calls(&sending), 5);
    assert_eq!(consumer.try_pop_all(&mut batch), Ok(512));
    assert!(calls(&receiving) <= 7);
    assert_eq!(batch, payload(1, 24 * 512));
}

#[test]
fn words_that_no_end_leaves_are_refused_at_resume() {
    let (ring, size) = layout(8, 8);
    for (tail, head) in [
        (9, 0),
        (0, 1),
        (1 << 63, 1 << 63),
        (u64::MAX, u64::MAX),
        (7, 8),
    ] {
        let memory = LocalMemory::new(size);
        memory.store_relaxed(ring.tail, tail).expect("inside");
        memory.store_relaxed(ring.head, head).expect("inside");
        assert!(
            FixedProducer::resume(&memory, ring).is_err(),
            "{tail} {head}"
        );
        assert!(
            FixedConsumer::resume(&memory, ring).is_err(),
            "{tail} {head}"
        );
    }
}

#[test]
fn layouts_that_do_not_fit_are_refused() {
    let (right, size) = layout(8, 8);
    let memory = LocalMemory::new(size);
    let refuse = |change: fn(&mut FixedRingLayout)| {
        let mut ring = right;
        change(&mut ring);
        assert!(FixedProducer::resume(&memory, ring).is_err(), "{ring:?}");
        assert!(FixedConsumer::resume(&memory, ring).is_err(), "{ring:?}");
    };
    refuse(|ring| ring.record = 0);
    refuse(|ring| ring.record = 9);
    refuse(|ring| ring.stride = 9);
    refuse(|ring| ring.stride = 1 << 63);
    refuse(|ring| ring.capacity = 0);
    refuse(|ring| ring.capacity = 12);
    refuse(|ring| ring.capacity = 1 << 63);
    refuse(|ring| ring.data = 4);
    refuse(|ring| ring.data = u64::MAX - 7);
    FixedProducer::resume(&memory, right).expect("fits");
}
