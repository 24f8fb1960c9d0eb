//! The newest value against a single cell, with writers and readers that go and come, and
//! with a writer that laps a reader between any two of its steps.

use std::cell::Cell;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use vmshm_link::LinkError;
use vmshm_link::duplex::Side;
use vmshm_link::latest::{LatestLayout, LatestReader, LatestWriter};
use vmshm_shm::{LocalMemory, SharedMemory};

use crate::material::memories::{Failing, Meddler, Notes, Watched};
use crate::material::{nasty_word, payload};

/// Slots for values of up to `value` bytes, and the size of their region.
pub fn layout(value: u64) -> (LatestLayout, usize) {
    let size = LatestLayout::region_size(value);
    let latest = LatestLayout::in_region(size, value, Side::Host).expect("fits");
    (latest, usize::try_from(size).expect("small"))
}

#[derive(Debug, Clone)]
enum Step {
    Publish(usize),
    Read,
    NewWriter,
    NewReader,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_usize..700).prop_map(Step::Publish),
        4 => Just(Step::Read),
        1 => Just(Step::NewWriter),
        1 => Just(Step::NewReader),
    ]
}

proptest! {
    #[test]
    fn the_newest_value_is_a_cell(
        value in prop_oneof![1_u64..700, Just(8)],
        costly in any::<bool>(),
        steps in vec(step(), 0..100),
    ) {
        let (latest, size) = layout(value);
        let memory = Arc::new(LocalMemory::new(size));
        let writing = Watched::new(&memory, Notes::default()).costly(costly);
        let reading = Watched::new(&memory, Notes::default()).costly(costly);
        let mut writer = LatestWriter::resume(writing.clone(), latest).expect("empty");
        let mut reader = LatestReader::open(reading.clone(), latest).expect("fits");
        let mut model: Option<(u64, Vec<u8>)> = None;
        let limit = usize::try_from(value).expect("small");
        let mut into = vec![0; limit];
        for step in steps {
            match step {
                Step::Publish(length) if length > limit => {
                    let error = LinkError::TooLong { length: length as u64, limit: value };
                    prop_assert_eq!(writer.publish(&vec![0; length]), Err(error));
                }
                Step::Publish(length) => {
                    let version = model.as_ref().map_or(0, |(version, _)| *version) + 1;
                    let bytes = payload(version, length);
                    prop_assert_eq!(writer.publish(&bytes), Ok(version));
                    model = Some((version, bytes));
                }
                Step::Read => {
                    let found = reader.try_read(&mut into).expect("right");
                    let found = found.map(|(version, count)| (version, into[..count].to_vec()));
                    prop_assert_eq!(&found, &model);
                }
                Step::NewWriter => {
                    writer = LatestWriter::resume(writing.clone(), latest).expect("as left");
                }
                Step::NewReader => {
                    reader = LatestReader::open(reading.clone(), latest).expect("fits");
                }
            }
            let newest = model.as_ref().map_or(0, |(version, _)| *version);
            prop_assert_eq!(writer.version(), newest);
            prop_assert_eq!(reader.newest(), Ok(newest));
            writer.verify().expect("nobody else writes");
        }
        prop_assert!(reading.watcher.written.borrow().is_empty());
        let slots = latest.slots..latest.slots + 4 * latest.stride;
        for at in writing.watcher.written.borrow().iter() {
            prop_assert!(*at == latest.newest || slots.contains(at));
        }
    }

    #[test]
    fn a_reader_survives_any_writer(
        value in 1_u64..300,
        costly in any::<bool>(),
        changes in vec((0_u8..4, any::<u64>(), nasty_word()), 0..200),
    ) {
        let (latest, size) = layout(value);
        let memory = Arc::new(LocalMemory::new(size));
        let mut changes = changes.into_iter();
        let meddler = Meddler::new(move |memory, _| {
            let Some((kind, place, word)) = changes.next() else { return };
            let newest = memory.load_relaxed(latest.newest).expect("inside");
            let (at, word) = match kind {
                0 => (latest.newest, newest.wrapping_add(place % 5)),
                1 => (latest.newest, word),
                2 => (latest.slots + place % 4 * latest.stride, word),
                _ => (latest.slots + place % (latest.stride / 2) * 8, word),
            };
            memory.store_relaxed(at, word).expect("inside");
        });
        let hostile = Watched::new(&memory, meddler).costly(costly);
        let mut reader = LatestReader::open(hostile.clone(), latest).expect("fits");
        let mut into = vec![0; usize::try_from(value).expect("small")];
        let mut last = 0;
        for _ in 0..100 {
            hostile.watcher.operations.set(0);
            match reader.try_read(&mut into) {
                Ok(Some((version, count))) => {
                    prop_assert!(version >= last && version > 0 && count <= into.len());
                    last = version;
                }
                Ok(None) | Err(LinkError::Violation { .. } | LinkError::TooLong { .. }) => {}
                Err(other) => prop_assert!(false, "{other}"),
            }
            prop_assert!(hostile.watcher.operations.get() < 30);
        }
    }
}

/// A writer that publishes `burst` values before each of the reader's operations.
fn lapped(burst: u64, costly: bool) -> (usize, usize) {
    let (latest, size) = layout(1000);
    let memory = Arc::new(LocalMemory::new(size));
    let own = Arc::clone(&memory);
    let mut writer = LatestWriter::resume(own, latest).expect("empty");
    let turn = Cell::new(0_u64);
    let meddler = Meddler::new(move |_, _| {
        turn.set(turn.get() + 1);
        for _ in 0..burst {
            let next = writer.version() + 1;
            writer.publish(&payload(next, 1000)).expect("right");
        }
    });
    let hostile = Watched::new(&memory, meddler).costly(costly);
    let mut reader = LatestReader::open(hostile.clone(), latest).expect("fits");
    let (mut read, mut lapped) = (0, 0);
    let mut into = [0; 1000];
    for _ in 0..200 {
        hostile.watcher.operations.set(0);
        match reader.try_read(&mut into).expect("right") {
            Some((version, count)) => {
                assert_eq!(into[..count], payload(version, 1000), "a torn value");
                read += 1;
            }
            None => lapped += 1,
        }
        assert!(hostile.watcher.operations.get() <= 16);
    }
    (read, lapped)
}

#[test]
fn a_reader_that_is_lapped_gives_up_and_hands_out_nothing_torn() {
    for costly in [false, true] {
        assert_eq!(lapped(0, costly), (0, 200), "no value yet");
        let (read, _) = lapped(1, costly);
        assert!(read == 0, "three values came between the looks");
        assert_eq!(lapped(4, costly), (0, 200));
    }
}

#[test]
fn a_value_that_its_writer_died_over_is_never_seen() {
    let (latest, size) = layout(1000);
    let memory = Arc::new(LocalMemory::new(size));
    let mut reader = LatestReader::open(&*memory, latest).expect("fits");
    let mut into = [0; 1000];
    let mut version = 0;
    for round in 0..40 {
        // The writer dies before its operation of this number, after some whole values.
        let dying = Watched::new(&memory, Failing::from(2 + round % 13));
        if let Ok(mut writer) = LatestWriter::resume(dying, latest) {
            while writer.publish(&payload(writer.version() + 1, 1000)).is_ok() {
                version += 1;
            }
        }
        let found = reader.try_read(&mut into).expect("right");
        assert_eq!(found, (version > 0).then_some((version, 1000)));
        assert!(version == 0 || into[..] == payload(version, 1000));
    }
    assert!(version > 20);
}

#[test]
fn a_value_longer_than_the_room_or_the_slot_is_an_error() {
    let (latest, size) = layout(64);
    let memory = LocalMemory::new(size);
    let mut writer = LatestWriter::resume(&memory, latest).expect("empty");
    let mut reader = LatestReader::open(&memory, latest).expect("fits");
    assert_eq!(writer.publish(&[1; 64]), Ok(1));
    let error = LinkError::TooLong {
        length: 64,
        limit: 63,
    };
    assert_eq!(reader.try_read(&mut [0; 63]), Err(error));
    let slot = latest.slots + latest.stride;
    memory.store_relaxed(slot, 65).expect("inside");
    assert!(matches!(
        reader.try_read(&mut [0; 100]),
        Err(LinkError::Violation { .. })
    ));
    memory
        .store_relaxed(latest.newest, u64::MAX)
        .expect("inside");
    assert!(LatestWriter::resume(&memory, latest).is_err());
}
