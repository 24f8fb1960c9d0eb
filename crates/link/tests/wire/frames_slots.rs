//! Slots of frames: which one is taken next, and what is left in them by sources that die, give
//! a frame up, or lay them out anew.

use vmshm_link::LinkError;
use vmshm_link::frames::{Damage, FRAMES_SIZE, Frame, FrameReader, FrameWriter, PixelSlots, Wants};
use vmshm_shm::{LocalMemory, SharedMemory};

use crate::frames_model::{Picture, place_of};

/// Announces a picture of 4 by 4 pixels with so many rows; its slot.
fn announce<M: SharedMemory>(
    writer: &mut FrameWriter<M>,
    slots: &mut PixelSlots,
    rows: u32,
) -> usize {
    let slot = writer.begin(slots, 0..2).expect("right");
    let frame = Frame {
        serial: 0,
        place: place_of(&Picture::of(4, 4, 0), 0, slot),
        damage: Damage::none(),
        has_pointer: false,
        is_live_scanout: false,
        capture_nanos: 0,
        bytes_touched: 0,
        acknowledged_nanos: 0,
        checksum: 0,
    };
    writer.publish(slots, &frame, rows).expect("right");
    slot
}

#[test]
fn what_a_dead_source_left_is_whole_for_nobody_and_the_next_frame_is_all_new() {
    let memory = LocalMemory::new(usize::try_from(FRAMES_SIZE).expect("small"));
    let mut writer = FrameWriter::resume(&memory).expect("zeros");
    let mut slots = PixelSlots::new(3);
    announce(&mut writer, &mut slots, 4);
    let mut early = FrameReader::new(&memory, 0, Wants::default()).expect("right");
    let taken = early.look().expect("right").expect("a frame").frame;
    early.acknowledge(&taken).expect("right");
    // Half a picture, and death in the middle of the next one.
    announce(&mut writer, &mut slots, 2);
    let half = early.look().expect("right").expect("a frame").frame;
    writer.begin(&mut slots, 0..2).expect("right");

    let mut writer = FrameWriter::resume(&memory).expect("as left");
    assert!(!early.is_whole(&half).expect("right"));
    assert_eq!(early.look(), Ok(None), "there is nothing to copy");
    let mut late = FrameReader::new(&memory, 1, Wants::default()).expect("right");
    assert_eq!(late.look(), Ok(None));
    // One slot of three is used from now on, until the dead one's record is long gone.
    let mut slots = PixelSlots::new(1);
    for serial in 3..40 {
        announce(&mut writer, &mut slots, 4);
        let look = early.look().expect("right").expect("a frame");
        assert_eq!(look.frame.serial, serial);
        if serial == 3 {
            assert_eq!(look.frame.damage, Damage::whole(4, 4));
            assert_eq!(look.damage, Some(Damage::whole(4, 4)));
        }
        assert!(!early.is_whole(&half).expect("right"));
    }
}

#[test]
fn a_slot_that_was_begun_and_given_up_is_no_picture_to_go_on_from() {
    let memory = LocalMemory::new(usize::try_from(FRAMES_SIZE).expect("small"));
    let mut writer = FrameWriter::resume(&memory).expect("zeros");
    let mut slots = PixelSlots::new(2);
    announce(&mut writer, &mut slots, 4);
    announce(&mut writer, &mut slots, 4);
    let slot = writer.begin(&mut slots, 0..2).expect("right");
    assert_eq!(slots.stale(slot), Some(Damage::none()));
    assert_eq!(writer.begin(&mut slots, 0..2), Ok(slot));
    assert_eq!(slots.stale(slot), None);
    announce(&mut writer, &mut slots, 4);
    assert_eq!(slots.stale(slot), Some(Damage::none()));
    slots.forget();
    assert_eq!((slots.stale(0), slots.stale(1)), (None, None));
}

#[test]
fn voiding_the_slots_takes_back_what_was_announced() {
    let memory = LocalMemory::new(usize::try_from(FRAMES_SIZE).expect("small"));
    let mut writer = FrameWriter::resume(&memory).expect("zeros");
    let mut slots = PixelSlots::new(2);
    announce(&mut writer, &mut slots, 4);
    let mut reader = FrameReader::new(&memory, 0, Wants::default()).expect("right");
    let frame = reader.look().expect("right").expect("a frame").frame;
    writer.void_slots().expect("right");
    assert!(!reader.is_whole(&frame).expect("right"));
    assert_eq!(reader.look(), Ok(None));
    announce(&mut writer, &mut slots, 4);
    assert!(reader.look().expect("right").is_some());
}

#[test]
fn a_slot_that_is_copied_or_newest_is_taken_only_when_there_is_no_other() {
    let memory = LocalMemory::new(usize::try_from(FRAMES_SIZE).expect("small"));
    let mut writer = FrameWriter::resume(&memory).expect("zeros");
    let mut slots = PixelSlots::new(3);
    let mut publish = |writer: &mut FrameWriter<_>| announce(writer, &mut slots, 4);
    let first = publish(&mut writer);
    let mut reader = FrameReader::new(&memory, 1, Wants::default()).expect("right");
    let look = reader.look().expect("right").expect("a frame");
    for _ in 0..20 {
        assert_ne!(publish(&mut writer), first, "it is being copied");
    }
    assert!(reader.is_whole(&look.frame).expect("right"));
    assert_eq!(
        reader.progress(&look.frame),
        Ok(4),
        "its record is another's now"
    );
    // Another one is copied as well: then the older one goes, and never the newest.
    let mut other = FrameReader::new(&memory, 0, Wants::default()).expect("right");
    let newest = other.look().expect("right").expect("a frame").frame;
    publish(&mut writer);
    publish(&mut writer);
    assert!(!reader.is_whole(&look.frame).expect("right"));
    assert!(other.is_whole(&newest).expect("right"));
    // A reader beyond the table is the caller's mistake, and nobody's line.
    assert!(matches!(
        writer.reader(32),
        Err(LinkError::Violation { .. })
    ));
}
