//! A peer of a ring of records of one size that writes whatever it likes, also between any
//! two of this side's looks. This side ends in an error or takes as many records as fit the
//! ring; it never panics, never works without end, and never writes anywhere but where it
//! may.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use vmshm_link::LinkError;
use vmshm_link::fixed_ring::{FixedConsumer, FixedProducer, FixedRingLayout};
use vmshm_shm::{LocalMemory, SharedMemory};

use crate::fixed_ring_model::layout;
use crate::material::memories::{Access, Meddler, Notes, Watched, Watcher};
use crate::material::nasty_word;

/// Notes of who writes where, under a peer that meddles.
struct Both(Meddler, Notes);

impl Watcher for Both {
    fn before(&self, memory: &LocalMemory, access: Access) -> Result<(), vmshm_shm::Fault> {
        self.1.before(memory, access)?;
        self.0.before(memory, access)
    }
}

type Change = (u8, bool, u64);

fn changes() -> impl Strategy<Value = Vec<Change>> {
    vec((0_u8..6, any::<bool>(), nasty_word()), 0..200)
}

/// Writes the peer's `word` again and again: small steps, or anything.
fn meddler(changes: Vec<Change>, word: u64) -> Both {
    let mut changes = changes.into_iter();
    let mut wait = 0;
    let meddler = Meddler::new(move |memory, _| {
        if wait > 0 {
            wait -= 1;
            return;
        }
        if let Some((pause, small, value)) = changes.next() {
            wait = pause;
            let now = memory.load_relaxed(word).expect("inside");
            let value = if small {
                now.wrapping_add(value % 20)
            } else {
                value
            };
            memory.store_relaxed(word, value).expect("inside");
        }
    });
    Both(meddler, Notes::default())
}

fn only_wrote(hostile: &Watched<Both>, ring: &FixedRingLayout, words: [u64; 2], data: bool) {
    let records = ring.data..ring.data + ring.capacity * ring.stride;
    for at in hostile.watcher.1.written.borrow().iter() {
        assert!(
            words.contains(at) || (data && records.contains(at)),
            "{at:#x}"
        );
    }
}

proptest! {
    #[test]
    fn a_consumer_survives_any_producer(
        record in 1_u64..80,
        capacity in 1_u64..20,
        tail in nasty_word(),
        changes in changes(),
        batch in 1_usize..30,
        costly in any::<bool>(),
    ) {
        let (ring, size) = layout(record, capacity);
        let memory = Arc::new(LocalMemory::new(size));
        let hostile = Watched::new(&memory, meddler(changes, ring.tail)).costly(costly);
        let Ok(mut consumer) = FixedConsumer::resume(hostile.clone(), ring) else {
            return Ok(());
        };
        memory.store_relaxed(ring.tail, tail).expect("inside");
        let mut into = vec![0; usize::try_from(record).expect("small") * batch];
        let mut taken = 0;
        for _ in 0..100 {
            hostile.watcher.0.operations.set(0);
            match consumer.try_pop_all(&mut into) {
                Ok(count) => taken += count as u64,
                Err(LinkError::Violation { .. }) => {}
                Err(other) => prop_assert!(false, "{other}"),
            }
            prop_assert!(hostile.watcher.0.operations.get() < 40);
        }
        prop_assert_eq!(memory.load_relaxed(ring.head), Ok(taken));
        only_wrote(&hostile, &ring, [ring.head, ring.consumer_guard], false);
    }

    #[test]
    fn a_producer_survives_any_consumer(
        record in 1_u64..80,
        capacity in 1_u64..20,
        head in nasty_word(),
        changes in changes(),
        batch in 1_usize..30,
        costly in any::<bool>(),
    ) {
        let (ring, size) = layout(record, capacity);
        let memory = Arc::new(LocalMemory::new(size));
        let hostile = Watched::new(&memory, meddler(changes, ring.head)).costly(costly);
        let Ok(mut producer) = FixedProducer::resume(hostile.clone(), ring) else {
            return Ok(());
        };
        memory.store_relaxed(ring.head, head).expect("inside");
        let records = vec![0x55; usize::try_from(record).expect("small") * batch];
        for _ in 0..100 {
            hostile.watcher.0.operations.set(0);
            match producer.try_push_all(&records) {
                Ok(count) => prop_assert!(count as u64 <= ring.capacity),
                Err(LinkError::Violation { .. }) => {}
                Err(other) => prop_assert!(false, "{other}"),
            }
            let _ = producer.is_drained();
            prop_assert!(hostile.watcher.0.operations.get() < 40);
        }
        only_wrote(&hostile, &ring, [ring.tail, ring.producer_guard], true);
    }
}
