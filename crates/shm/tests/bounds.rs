//! Every access is checked before it is made: bounds, alignment, and the arithmetic of
//! both.

use std::sync::Arc;

use proptest::prelude::*;
use vmshm_shm::{Fault, LocalMemory, SharedMemory};

const SIZE: u64 = 64;

fn memory() -> LocalMemory {
    LocalMemory::new(usize::try_from(SIZE).expect("small"))
}

fn outside(offset: u64, length: u64) -> Fault {
    Fault::OutOfBounds {
        offset,
        length,
        size: SIZE,
    }
}

type WordAccess = fn(&LocalMemory, u64) -> Result<u64, Fault>;

const WORDS: [WordAccess; 4] = [
    |memory, offset| memory.load_relaxed(offset),
    |memory, offset| memory.load_acquire(offset),
    |memory, offset| memory.store_relaxed(offset, 7).map(|()| 0),
    |memory, offset| memory.store_release(offset, 7).map(|()| 0),
];

#[test]
fn words_outside_are_refused_also_where_the_sum_overflows() {
    let memory = memory();
    for access in WORDS {
        assert_eq!(access(&memory, 56).map(drop), Ok(()));
        for offset in [64, 72, 1 << 32, 1 << 63, u64::MAX - 7] {
            assert_eq!(access(&memory, offset), Err(outside(offset, 8)));
        }
    }
}

#[test]
fn words_at_odd_places_are_refused() {
    let memory = memory();
    for access in WORDS {
        for offset in [1, 2, 4, 7, 57, 63, 65, u64::MAX] {
            assert_eq!(access(&memory, offset), Err(Fault::Misaligned { offset }));
        }
    }
    let mut all = [1; 64];
    memory.read(0, &mut all).expect("inside");
    assert_eq!(all, [0; 64], "a refused store wrote something");
}

#[test]
fn copies_outside_are_refused_and_write_nothing() {
    let memory = memory();
    for (offset, length) in [
        (0, 65),
        (64, 1),
        (63, 2),
        (65, 0),
        (1 << 40, 8),
        (u64::MAX, 0),
        (u64::MAX, 1),
        (u64::MAX - 3, 8),
    ] {
        let mut buffer = vec![9; length];
        let refused = Err(outside(offset, length as u64));
        assert_eq!(memory.write(offset, &buffer), refused);
        assert_eq!(memory.read(offset, &mut buffer), refused);
        assert_eq!(buffer, vec![9; length], "a refused read changed the buffer");
    }
    let mut all = [1; 64];
    memory.read(0, &mut all).expect("inside");
    assert_eq!(all, [0; 64], "a refused write wrote something");
}

#[test]
fn a_copy_of_nothing_is_allowed_up_to_the_end() {
    let memory = memory();
    for offset in 0..=SIZE {
        assert_eq!(memory.read(offset, &mut []), Ok(()));
        assert_eq!(memory.write(offset, &[]), Ok(()));
    }
    let empty = LocalMemory::new(0);
    assert_eq!(empty.size(), 0);
    assert_eq!(empty.read(0, &mut []), Ok(()));
    assert_eq!(empty.write(0, &[]), Ok(()));
    assert!(empty.load_relaxed(0).is_err());
}

#[test]
fn sizes_are_rounded_up_to_words_and_memory_starts_as_zeros() {
    for (size, rounded) in [(1, 8), (7, 8), (8, 8), (9, 16), (4096, 4096)] {
        let memory = LocalMemory::new(size);
        assert_eq!(memory.size(), rounded);
        assert_eq!(memory.load_acquire(rounded - 8), Ok(0));
    }
}

#[test]
fn pointers_to_a_memory_are_the_memory() {
    let shared = Arc::new(memory());
    let other = Arc::clone(&shared);
    let by_reference: &LocalMemory = &shared;
    SharedMemory::store_release(&by_reference, 8, 5).expect("inside");
    assert_eq!(SharedMemory::load_acquire(&other, 8), Ok(5));
    SharedMemory::store_relaxed(&other, 16, 6).expect("inside");
    assert_eq!(SharedMemory::load_relaxed(&by_reference, 16), Ok(6));
    SharedMemory::write(&other, 1, &[1, 2]).expect("inside");
    let mut found = [0; 2];
    SharedMemory::read(&by_reference, 1, &mut found).expect("inside");
    assert_eq!((found, SharedMemory::size(&other)), ([1, 2], SIZE));
}

#[test]
fn words_and_copies_see_the_same_bytes() {
    let memory = memory();
    memory
        .store_relaxed(8, u64::from_le_bytes(*b"abcdefgh"))
        .expect("inside");
    let mut found = [0; 4];
    memory.read(10, &mut found).expect("inside");
    assert_eq!(&found, b"cdef");
    memory.write(13, b"XY").expect("inside");
    assert_eq!(
        memory.load_relaxed(8).map(u64::to_le_bytes),
        Ok(*b"abcdeXYh")
    );
}

proptest! {
    #[test]
    fn an_access_is_made_exactly_when_it_lies_inside(
        offset in prop_oneof![0_u64..80, any::<u64>(), (0_u64..80).prop_map(|back| u64::MAX - back)],
        length in 0_usize..80,
    ) {
        let memory = memory();
        let fits = offset.checked_add(length as u64).is_some_and(|end| end <= SIZE);
        prop_assert_eq!(memory.write(offset, &vec![1; length]).is_ok(), fits);
        prop_assert_eq!(memory.read(offset, &mut vec![1; length]).is_ok(), fits);
        let fits = offset % 8 == 0 && offset < SIZE;
        for access in WORDS {
            prop_assert_eq!(access(&memory, offset).is_ok(), fits);
        }
    }
}
