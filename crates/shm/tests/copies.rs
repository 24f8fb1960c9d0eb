//! Copies in and out are what a plain copy would be, for every length and alignment
//! around the places where the way of copying changes.

use proptest::prelude::*;
use vmshm_shm::{LocalMemory, SharedMemory};

const LONGEST: usize = 600;
const SIZE: usize = LONGEST + 64;

/// Bytes none of which is zero, different at each place.
fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|index| u8::try_from(index % 251 + 1).expect("small"))
        .collect()
}

fn check_write(memory: &LocalMemory, at: usize, from: &[u8]) {
    memory.write(0, &[0; SIZE]).expect("inside");
    memory.write(at as u64, from).expect("inside");
    let mut expected = vec![0; SIZE];
    expected[at..at + from.len()].copy_from_slice(from);
    let mut found = vec![9; SIZE];
    memory.read(0, &mut found).expect("inside");
    assert_eq!(found, expected, "{} bytes written at {at}", from.len());
}

fn check_read(memory: &LocalMemory, whole: &[u8], at: usize, skip: usize, length: usize) {
    let mut buffer = vec![0; skip + length + 8];
    memory
        .read(at as u64, &mut buffer[skip..skip + length])
        .expect("inside");
    assert_eq!(
        buffer[skip..skip + length],
        whole[at..at + length],
        "{length} bytes read at {at}"
    );
    let beside = buffer[..skip].iter().chain(&buffer[skip + length..]);
    assert!(beside.into_iter().all(|byte| *byte == 0));
}

#[test]
fn every_length_at_every_alignment_is_a_plain_copy() {
    let memory = LocalMemory::new(SIZE);
    let bytes = pattern(SIZE);
    for length in 0..=LONGEST {
        for at in 0..8 {
            // The private side starts at another alignment each time.
            let skip = (length + at) % 8;
            check_write(&memory, at, &bytes[skip..skip + length]);
        }
    }
    memory.write(0, &bytes).expect("inside");
    for length in 0..=LONGEST {
        for at in 0..8 {
            check_read(&memory, &bytes, at, (length + at) % 8, length);
        }
    }
}

#[test]
fn a_copy_may_end_with_the_memory() {
    let memory = LocalMemory::new(SIZE);
    let bytes = pattern(SIZE);
    memory.write(0, &bytes).expect("inside");
    let size = usize::try_from(memory.size()).expect("small");
    for length in 0..=LONGEST.min(size) {
        let at = size - length;
        if at + length <= bytes.len() {
            check_read(&memory, &bytes, at, 0, length);
        }
    }
}

proptest! {
    #[test]
    fn any_writes_and_reads_are_those_of_plain_bytes(
        writes in proptest::collection::vec((0..SIZE, 0..SIZE, any::<u8>()), 1..40),
    ) {
        let memory = LocalMemory::new(SIZE);
        let mut model = vec![0; SIZE];
        for (at, length, byte) in writes {
            let length = length.min(SIZE - at);
            memory.write(at as u64, &vec![byte; length]).expect("inside");
            model[at..at + length].fill(byte);
            let mut found = vec![0; length];
            memory.read(at as u64, &mut found).expect("inside");
            prop_assert_eq!(&found[..], &model[at..at + length]);
        }
        let mut found = vec![0; SIZE];
        memory.read(0, &mut found).expect("inside");
        prop_assert_eq!(found, model);
    }
}
