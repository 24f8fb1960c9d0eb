//! Frames regions that hold anything: a reader against a source that writes what it likes, also
//! between any two of the reader's looks, a source against such readers, and memory that goes back
//! to an earlier state. Errors come, never a panic, never endless work, and nobody writes anywhere
//! but into its own words.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use vmshm_link::LinkError;
use vmshm_link::beacon::PAGE;
use vmshm_link::frames::{
    Damage, FRAMES_SIZE, Frame, FrameReader, FrameWriter, MAX_DAMAGE, MAX_PIXEL_SLOTS, PixelFormat,
    PixelSlots, Place, READERS, RECORDS, Rectangle, SourceState, Wants,
};
use vmshm_link::input::InputEvent;
use vmshm_shm::{LocalMemory, SharedMemory};

use crate::material::memories::{Meddler, Notes, Watched};
use crate::material::{nasty_word, restore, snapshot};

const NEWEST_AT: u64 = 0x40;
const RECORDS_AT: u64 = 2 * PAGE;
const RECORD: u64 = 512;

fn memory() -> Arc<LocalMemory> {
    let size = usize::try_from(FRAMES_SIZE).expect("small");
    Arc::new(LocalMemory::new(size))
}

fn frame(slot: usize) -> Frame {
    Frame {
        serial: 0,
        place: Place {
            region: 7,
            slot,
            offset: 0,
            width: 40,
            height: 30,
            stride: 160,
            format: PixelFormat::Argb8888,
        },
        damage: Damage::whole(40, 30),
        has_pointer: true,
        is_live_scanout: false,
        capture_nanos: 1,
        bytes_touched: 2,
        acknowledged_nanos: 3,
        checksum: 4,
    }
}

/// A source that has announced so many frames.
fn announced(memory: &Arc<LocalMemory>, frames: u64) -> FrameWriter<Arc<LocalMemory>> {
    let mut writer = FrameWriter::resume(Arc::clone(memory)).expect("zeros");
    let mut slots = PixelSlots::new(3);
    for _ in 0..frames {
        let slot = writer.begin(&mut slots, 0..READERS).expect("right");
        writer.publish(&mut slots, &frame(slot), 30).expect("right");
    }
    writer
}

/// Where a word goes, likely ones first.
fn target(kind: u8, place: u64, newest: u64) -> u64 {
    let record = RECORDS_AT + RECORD * (newest % RECORDS);
    match kind {
        0 => NEWEST_AT,
        1 => record + place % 16 * 8,
        2 => record + place % (RECORD / 8) * 8,
        3 => 0x100 + place % MAX_PIXEL_SLOTS as u64 * 64,
        4 => place % (PAGE / 8) * 8,
        _ => RECORDS_AT + place % (2 * PAGE / 8) * 8,
    }
}

/// Small steps are the most credible lies; halves of words hold sizes.
fn lie(kind: u8, found: u64, word: u64) -> u64 {
    match kind % 4 {
        0 => found.wrapping_add(word % 5),
        1 => found ^ (1 << (word % 64)),
        2 => (word % 64) | (((word >> 8) % 64) << 32),
        _ => word,
    }
}

/// A frame that a reader accepts is one that can be shown.
fn check(frame: &Frame) -> Result<(), TestCaseError> {
    let place = &frame.place;
    prop_assert!(place.check(u64::MAX).is_ok());
    prop_assert!(place.slot < MAX_PIXEL_SLOTS && frame.serial > 0);
    prop_assert!(frame.damage.rectangles().len() <= MAX_DAMAGE);
    let inside = |one: &Rectangle| one.is_within(place.width, place.height) && !one.is_empty();
    prop_assert!(frame.damage.rectangles().iter().all(inside));
    Ok(())
}

type Lies = Vec<(u8, u8, u64, u64)>;

fn lies() -> impl Strategy<Value = Lies> {
    vec((0_u8..6, any::<u8>(), any::<u64>(), nasty_word()), 0..150)
}

proptest! {
    #[test]
    fn a_reader_survives_any_source(
        frames in 0_u64..40, lies in lies(), pause in 0_u8..4, costly in any::<bool>(),
    ) {
        let memory = memory();
        announced(&memory, frames);
        let mut lies = lies.into_iter();
        let mut wait = 0;
        let meddler = Meddler::new(move |memory, _| {
            wait = if wait > 0 { wait - 1 } else { pause };
            if wait > 0 {
                return;
            }
            let Some((kind, how, place, word)) = lies.next() else { return };
            let newest = memory.load_relaxed(NEWEST_AT).expect("inside");
            let at = target(kind, place, newest);
            let found = memory.load_relaxed(at).expect("inside");
            memory.store_relaxed(at, lie(how, found, word)).expect("inside");
        });
        let hostile = Watched::new(&memory, meddler).costly(costly);
        let line = 5;
        let Ok(mut reader) = FrameReader::new(hostile.clone(), line, Wants::default()) else {
            return Ok(());
        };
        let mut last = 0;
        for _ in 0..60 {
            hostile.watcher.operations.set(0);
            match reader.look() {
                Ok(Some(look)) => {
                    check(&look.frame)?;
                    prop_assert!(look.frame.serial > last);
                    if let Some(damage) = look.damage {
                        let (width, height) = (look.frame.place.width, look.frame.place.height);
                        let inside = |one: &Rectangle| one.is_within(width, height);
                        prop_assert!(damage.rectangles().iter().all(inside));
                    }
                    let rows = reader.progress(&look.frame).expect("reachable");
                    prop_assert!(rows <= look.frame.place.height);
                    if reader.is_whole(&look.frame).expect("reachable") {
                        last = look.frame.serial;
                        reader.acknowledge(&look.frame).expect("its own line is its own");
                    }
                }
                Ok(None) | Err(LinkError::Violation { .. } | LinkError::RolledBack { .. }) => {}
                Err(other) => prop_assert!(false, "{other}"),
            }
            reader.beat().expect("its own line is its own");
            prop_assert!(hostile.watcher.operations.get() < 150);
        }
    }

    #[test]
    fn any_bytes_are_judged_as_frames_without_harm(
        words in vec((0..FRAMES_SIZE / 8, nasty_word()), 0..200),
        newest in nasty_word(),
        stamp_fits in any::<bool>(),
    ) {
        let memory = memory();
        announced(&memory, 3);
        for (index, word) in words {
            memory.store_relaxed(8 * index, word).expect("inside");
        }
        memory.store_relaxed(NEWEST_AT, newest).expect("inside");
        if stamp_fits {
            let record = RECORDS_AT + RECORD * (newest % RECORDS);
            memory.store_relaxed(record, newest.wrapping_mul(2)).expect("inside");
            memory.store_relaxed(record + 8, newest).expect("inside");
        }
        if let Ok(mut reader) = FrameReader::new(&*memory, 0, Wants::default())
            && let Ok(Some(look)) = reader.look()
        {
            check(&look.frame)?;
        }
        // A source goes on in it, or says why not.
        if let Ok(mut writer) = FrameWriter::resume(&*memory) {
            let mut slots = PixelSlots::new(3);
            for _ in 0..3 {
                let before = writer.newest();
                let slot = writer.begin(&mut slots, 0..READERS).expect("any line will do");
                prop_assert_eq!(writer.publish(&mut slots, &frame(slot), 30), Ok(before + 1));
            }
        }
    }

    #[test]
    fn a_source_survives_any_readers(
        lines in vec((0_usize..READERS, 0_u64..16, nasty_word()), 0..60),
        count in 0_usize..12,
    ) {
        let memory = memory();
        let mut writer = FrameWriter::resume(Arc::clone(&memory)).expect("zeros");
        let mut slots = PixelSlots::new(count);
        let mut lines = lines.into_iter();
        for serial in 1..20 {
            for (reader, word, value) in lines.by_ref().take(3) {
                let at = PAGE + 128 * reader as u64 + 8 * word;
                memory.store_relaxed(at, value % 40).expect("inside");
            }
            let newest = (0..slots.count()).find(|slot| slots.stale(*slot) == Some(Damage::none()));
            let slot = writer.begin(&mut slots, 0..READERS).expect("right");
            prop_assert!(slot < slots.count());
            prop_assert!(slots.count() == 1 || Some(slot) != newest, "the newest picture");
            prop_assert_eq!(writer.publish(&mut slots, &frame(slot), 30), Ok(serial));
            for reader in 0..READERS {
                writer.reader(reader).expect("inside");
            }
        }
    }

    #[test]
    fn memory_that_goes_back_is_noticed(before in 0_u64..6, after in 1_u64..6) {
        let memory = memory();
        let mut writer = announced(&memory, before);
        let mut reader = FrameReader::new(Arc::clone(&memory), 2, Wants::default()).expect("right");
        let show = |reader: &mut FrameReader<_>| {
            let look = reader.look().expect("right").expect("a frame");
            reader.acknowledge(&look.frame).expect("right");
        };
        if before > 0 {
            show(&mut reader);
        }
        let earlier = snapshot(&*memory);
        let mut slots = PixelSlots::new(3);
        for _ in 0..after {
            let slot = writer.begin(&mut slots, 0..READERS).expect("right");
            writer.publish(&mut slots, &frame(slot), 30).expect("right");
        }
        show(&mut reader);
        reader.beat().expect("right");
        restore(&*memory, &earlier);
        let rolled_back = |error: &LinkError| matches!(error, LinkError::RolledBack { .. });
        prop_assert!(reader.state().is_err_and(|error| rolled_back(&error)));
        prop_assert!(reader.look().is_err_and(|error| rolled_back(&error)));
        prop_assert!(reader.beat().is_err_and(|error| rolled_back(&error)));
        let begun = writer.begin(&mut slots, 0..READERS);
        prop_assert!(begun.is_err_and(|error| rolled_back(&error)));
        let published = writer.publish(&mut slots, &frame(0), 30);
        prop_assert!(published.is_err_and(|error| rolled_back(&error)));
        prop_assert_eq!(memory.load_relaxed(NEWEST_AT), Ok(before), "nothing was announced");
    }

    #[test]
    fn damage_covers_all_that_was_added_and_never_grows_too_long(
        added in vec((0_u32..200, 0_u32..200, 0_u32..60, 0_u32..60), 0..80),
        width in 1_u32..200,
        height in 1_u32..200,
    ) {
        let rectangle = |(x, y, width, height)| Rectangle { x, y, width, height };
        let mut damage = Damage::none();
        let added: Vec<_> = added.into_iter().map(rectangle).collect();
        added.iter().for_each(|one| damage.add(*one));
        prop_assert!(damage.rectangles().len() <= MAX_DAMAGE);
        let clipped = damage.clipped(width, height);
        prop_assert!(clipped.rectangles().iter().all(|one| one.is_within(width, height)));
        let point = |x, y| Rectangle { x, y, width: 1, height: 1 };
        let has = |damage: &Damage, x, y| {
            let covers = |one: &Rectangle| !one.intersection(&point(x, y)).is_empty();
            damage.rectangles().iter().any(covers)
        };
        for one in added {
            for (x, y) in [
                (one.x, one.y),
                (one.x + one.width / 2, one.y + one.height / 2),
                (one.x + one.width.saturating_sub(1), one.y + one.height.saturating_sub(1)),
            ] {
                prop_assert!(one.is_empty() || has(&damage, x, y));
                prop_assert!(one.is_empty() || x >= width || y >= height || has(&clipped, x, y));
            }
        }
    }

    #[test]
    fn rectangles_of_any_numbers_do_no_harm(numbers in vec(any::<[u32; 4]>(), 1..40)) {
        let mut damage = Damage::none();
        for [x, y, width, height] in numbers {
            damage.add(Rectangle { x, y, width, height });
        }
        let _ = damage.area();
        let clipped = damage.clipped(1000, 1000);
        prop_assert!(clipped.rectangles().iter().all(|one| one.is_within(1000, 1000)));
    }

    #[test]
    fn any_words_are_judged_as_input_without_harm(words in any::<[u64; 3]>(), number in 0_u64..9) {
        let words = [number, words[1], words[2]];
        let Some(event) = InputEvent::from_words(words) else {
            prop_assert!(!(1..=7).contains(&number));
            return Ok(());
        };
        prop_assert_eq!(InputEvent::from_words(event.to_words()), Some(event));
    }
}

#[test]
fn a_source_and_a_reader_write_no_word_of_each_other() {
    let memory = memory();
    let source = Watched::new(&memory, Notes::default());
    let host = Watched::new(&memory, Notes::default());
    let mut writer = FrameWriter::resume(source.clone()).expect("zeros");
    let mut slots = PixelSlots::new(3);
    let mut reader = FrameReader::new(host.clone(), 4, Wants { no_pointer: true }).expect("right");
    for _ in 0..40 {
        let slot = writer.begin(&mut slots, 0..READERS).expect("right");
        writer.publish(&mut slots, &frame(slot), 10).expect("right");
        writer.progress(30).expect("right");
        writer.set_state(SourceState::Live).expect("right");
        let look = reader.look().expect("right").expect("a frame");
        reader.let_go().expect("right");
        reader.acknowledge(&look.frame).expect("right");
        reader.beat().expect("right");
    }
    let line = PAGE + 4 * 128;
    for at in host.watcher.written.borrow().iter() {
        assert!((line..line + 128).contains(at), "a reader wrote at {at:#x}");
    }
    for at in source.watcher.written.borrow().iter() {
        assert!(!(PAGE..2 * PAGE).contains(at), "a source wrote at {at:#x}");
    }
}

#[test]
fn a_region_of_something_else_is_refused_and_left_as_it_is() {
    let memory = memory();
    let other = vec![0x5a; usize::try_from(FRAMES_SIZE).expect("small")];
    restore(&*memory, &other);
    assert!(FrameWriter::resume(&*memory).is_err());
    assert!(FrameReader::new(&*memory, 0, Wants::default()).is_err());
    assert_eq!(snapshot(&*memory), other);
    let small = LocalMemory::new(4096);
    assert!(FrameWriter::resume(&small).is_err());
    assert!(FrameReader::new(&small, 0, Wants::default()).is_err());
    assert!(FrameReader::new(&*memory, READERS, Wants::default()).is_err());
}
