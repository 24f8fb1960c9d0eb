//! What the tests share: messages about screens, places for rings, snapshots of memory, and made-up bytes.

pub mod memories;
pub mod screens;

use std::sync::Arc;

use proptest::prelude::*;
use vmshm_link::mix::mix;
use vmshm_link::ring::RingLayout;
use vmshm_shm::{LocalMemory, SharedMemory};

/// Where the tests put a ring: one line for each word, some bytes that must not be
/// touched, the records, and such bytes again.
pub const fn layout(capacity: u64) -> RingLayout {
    RingLayout {
        tail: 0,
        head: 64,
        data: 128 + GUARD,
        capacity,
    }
}

/// Bytes before and after the records that no ring may touch.
pub const GUARD: u64 = 64;
const GUARD_BYTES: [u8; 64] = [0xa7; 64];

/// A memory for [`layout`], with its guards in place.
pub fn memory_for(capacity: u64) -> Arc<LocalMemory> {
    let size = usize::try_from(128 + 2 * GUARD + capacity).expect("a test's ring is small");
    let memory = LocalMemory::new(size);
    for at in [128, 128 + GUARD + capacity] {
        memory.write(at, &GUARD_BYTES).expect("inside");
    }
    Arc::new(memory)
}

/// Checks that nobody wrote beside the records.
pub fn assert_guards(memory: &impl SharedMemory, capacity: u64) {
    for at in [128, 128 + GUARD + capacity] {
        let mut found = [0; 64];
        memory.read(at, &mut found).expect("inside");
        assert_eq!(found, GUARD_BYTES, "guard at {at:#x}");
    }
}

/// All bytes of a memory.
pub fn snapshot(memory: &impl SharedMemory) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(memory.size()).expect("a test's memory is small")];
    memory.read(0, &mut bytes).expect("inside");
    bytes
}

/// Sets a memory back to what it was.
pub fn restore(memory: &impl SharedMemory, bytes: &[u8]) {
    memory.write(0, bytes).expect("inside");
}

/// Bytes that depend on a number, and differ from those of any other number.
pub fn payload(number: u64, length: usize) -> Vec<u8> {
    (0..length as u64)
        .flat_map(|index| mix(number, index).to_le_bytes())
        .take(length)
        .collect()
}

/// Powers of two that suit a small ring.
pub fn capacities() -> impl Strategy<Value = u64> {
    (6_u32..=12).prop_map(|bits| 1 << bits)
}

/// Words that are more likely to hurt than any others.
pub fn nasty_word() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => 0_u64..4096,
        2 => (0_u64..600).prop_map(|word| word * 8),
        1 => any::<u64>(),
        1 => (0_u64..64).prop_map(|back| u64::MAX - back),
        1 => (0_u32..64).prop_map(|bit| 1 << bit),
        1 => (0_u64..512).prop_map(|length| 0xffff_u64 << 32 | length),
        2 => (0_u64..512, 0_u64..4).prop_map(|(length, kind)| kind << 32 | length),
    ]
}
