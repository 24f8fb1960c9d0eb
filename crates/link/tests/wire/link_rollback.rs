//! Links whose memory goes back to an earlier state: no end hands out or makes visible
//! anything after that.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use vmshm_link::LinkError;
use vmshm_link::fixed_ring::{FixedConsumer, FixedProducer};
use vmshm_link::latest::{LatestReader, LatestWriter};
use vmshm_shm::{Fault, LocalMemory, SharedMemory};

use crate::fixed_ring_model::layout;
use crate::latest_model::layout as latest_layout;
use crate::material::{payload, restore, snapshot};

fn is_rolled_back<T: std::fmt::Debug>(result: &Result<T, LinkError>) -> bool {
    matches!(result, Err(LinkError::RolledBack { .. }))
}

fn is_noticed<T: std::fmt::Debug>(result: &Result<T, LinkError>) -> bool {
    is_rolled_back(result) || matches!(result, Err(LinkError::Violation { .. }))
}

proptest! {
    #[test]
    fn a_producer_makes_nothing_visible_after_a_rollback(
        before in 0_u64..40,
        after in 1_u64..40,
        taken in 0_u64..20,
        batch in any::<bool>(),
    ) {
        let (ring, size) = layout(8, 8);
        let memory = LocalMemory::new(size);
        let mut producer = FixedProducer::resume(&memory, ring).expect("empty");
        let mut consumer = FixedConsumer::resume(&memory, ring).expect("empty");
        let mut push = |count: u64| {
            for number in 0..count {
                while !producer.try_push(&number.to_le_bytes()).expect("right") {
                    assert!(consumer.try_pop(&mut [0; 8]).expect("right"));
                }
            }
        };
        push(before);
        let earlier = snapshot(&memory);
        push(after);
        for _ in 0..taken {
            consumer.try_pop(&mut [0; 8]).expect("right");
        }
        restore(&memory, &earlier);
        prop_assert!(is_rolled_back(&producer.verify()));
        for _ in 0..3 {
            let result = if batch {
                producer.try_push_all(&[1; 16]).map(|_| ())
            } else {
                producer.try_push(&[1; 8]).map(|_| ())
            };
            prop_assert!(is_rolled_back(&result), "{result:?}");
        }
        let mut tail = [0; 8];
        let at = usize::try_from(ring.tail).expect("small");
        tail.copy_from_slice(&earlier[at..at + 8]);
        prop_assert_eq!(memory.load_relaxed(ring.tail), Ok(u64::from_le_bytes(tail)));
    }

    /// The earlier state is from before the first, any later, or no record at all of what
    /// the consumer knows of.
    #[test]
    fn a_consumer_hands_nothing_out_after_a_rollback(
        early in 0_u64..6,
        early_taken in 0_u64..6,
        late in 1_u64..6,
        late_taken in 0_u64..12,
        batch in any::<bool>(),
    ) {
        let (ring, size) = layout(8, 16);
        let memory = LocalMemory::new(size);
        let mut producer = FixedProducer::resume(&memory, ring).expect("empty");
        let mut consumer = FixedConsumer::resume(&memory, ring).expect("empty");
        let mut push = |count: u64| {
            for number in 0..count {
                assert!(producer.try_push(&number.to_le_bytes()).expect("right"));
            }
        };
        push(early);
        for _ in 0..early_taken {
            consumer.try_pop(&mut [0; 8]).expect("right");
        }
        let earlier = snapshot(&memory);
        push(late);
        let mut moved = false;
        for _ in 0..late_taken {
            moved |= consumer.try_pop(&mut [0; 8]).expect("right");
        }
        restore(&memory, &earlier);
        // What it knew of before may be handed out as long as that state holds it, too.
        let mut held = if moved { 0 } else { early - early_taken.min(early) };
        let mut into = [0; 16];
        for _ in 0..4 {
            let result = if batch {
                consumer.try_pop_all(&mut into)
            } else {
                consumer.try_pop(&mut into[..8]).map(usize::from)
            };
            match result {
                Ok(count) => {
                    prop_assert!(count as u64 <= held, "{count} of {held}");
                    held -= count as u64;
                }
                Err(_) => prop_assert!(is_noticed(&result), "{result:?}"),
            }
        }
        if moved {
            prop_assert!(is_rolled_back(&consumer.verify()));
        }
    }

    #[test]
    fn a_latest_that_goes_back_is_noticed_by_both_ends(before in 0_u64..9, after in 1_u64..9) {
        let (latest, size) = latest_layout(100);
        let memory = LocalMemory::new(size);
        let mut writer = LatestWriter::resume(&memory, latest).expect("empty");
        let mut reader = LatestReader::open(&memory, latest).expect("fits");
        let mut publish = |count: u64| {
            for number in 0..count {
                writer.publish(&payload(number, 100)).expect("right");
            }
        };
        publish(before);
        let earlier = snapshot(&memory);
        publish(after);
        let mut into = [0; 100];
        prop_assert!(reader.try_read(&mut into).expect("right").is_some());
        restore(&memory, &earlier);
        prop_assert!(is_noticed(&reader.try_read(&mut into)));
        prop_assert!(is_noticed(&reader.newest()));
        prop_assert!(is_rolled_back(&writer.publish(&[1])));
        prop_assert!(is_rolled_back(&writer.publish(&[1])));
        prop_assert!(is_rolled_back(&writer.verify()));
        prop_assert_eq!(snapshot(&memory), earlier);
    }
}

/// The state from before a record was published comes back after the consumer has seen the
/// tail, and before it has given anything back: the second look at the tail shows it.
#[test]
fn a_state_without_the_first_record_is_noticed_before_it_is_handed_out() {
    use crate::material::memories::{Access, Meddler, Watched};
    use std::sync::Arc;
    let (ring, size) = layout(8, 8);
    let memory = Arc::new(LocalMemory::new(size));
    let earlier = snapshot(&*memory);
    let mut producer = FixedProducer::resume(Arc::clone(&memory), ring).expect("empty");
    assert_eq!(producer.try_push(&[7; 8]), Ok(true));
    let meddler = Meddler::new(move |memory, access| {
        if matches!(access, Access::Load { offset } if offset >= ring.data) {
            restore(memory, &earlier);
        }
    });
    let watched = Watched::new(&memory, meddler);
    let mut consumer = FixedConsumer::resume(watched, ring).expect("right");
    let result = consumer.try_pop(&mut [0; 8]);
    assert!(is_noticed(&result), "{result:?}");
}

/// A memory that goes back to an earlier state at its next copy into it.
#[derive(Debug, Clone)]
struct Returning {
    memory: Arc<LocalMemory>,
    state: Arc<Mutex<Option<Vec<u8>>>>,
}

impl SharedMemory for Returning {
    fn size(&self) -> u64 {
        self.memory.size()
    }
    fn load_relaxed(&self, offset: u64) -> Result<u64, Fault> {
        self.memory.load_relaxed(offset)
    }
    fn load_acquire(&self, offset: u64) -> Result<u64, Fault> {
        self.memory.load_acquire(offset)
    }
    fn store_relaxed(&self, offset: u64, value: u64) -> Result<(), Fault> {
        self.memory.store_relaxed(offset, value)
    }
    fn store_release(&self, offset: u64, value: u64) -> Result<(), Fault> {
        self.memory.store_release(offset, value)
    }
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.memory.read(offset, into)
    }
    fn write(&self, offset: u64, from: &[u8]) -> Result<(), Fault> {
        if let Some(state) = self.state.lock().expect("no panic").take() {
            restore(&self.memory, &state);
        }
        self.memory.write(offset, from)
    }
}

#[test]
fn a_state_that_returns_during_a_copy_makes_nothing_visible() {
    let (ring, size) = layout(64, 16);
    let memory = Returning {
        memory: Arc::new(LocalMemory::new(size)),
        state: Arc::default(),
    };
    let mut producer = FixedProducer::resume(memory.clone(), ring).expect("empty");
    let mut push = |number: u8| producer.try_push(&[number; 64]);
    for number in 1..=3 {
        assert_eq!(push(number), Ok(true));
    }
    let earlier = snapshot(&memory.memory);
    for number in 4..=5 {
        assert_eq!(push(number), Ok(true));
    }
    *memory.state.lock().expect("no panic") = Some(earlier);
    assert!(is_rolled_back(&push(6)));
    assert!(is_rolled_back(&push(7)));
    assert_eq!(memory.load_relaxed(ring.tail), Ok(3));
}

#[test]
fn a_consumer_that_waits_in_vain_after_a_rollback_finds_out() {
    let (ring, size) = layout(8, 8);
    let memory = LocalMemory::new(size);
    let mut producer = FixedProducer::resume(&memory, ring).expect("empty");
    let mut consumer = FixedConsumer::resume(&memory, ring).expect("empty");
    while producer.try_push(&[1; 8]).expect("right") {}
    let full = snapshot(&memory);
    while consumer.try_pop(&mut [0; 8]).expect("right") {}
    restore(&memory, &full);
    assert!(is_rolled_back(&consumer.try_pop(&mut [0; 8])));
}
