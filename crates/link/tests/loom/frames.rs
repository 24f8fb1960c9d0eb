//! A slot that is begun again while it is copied, and the record of a frame that is overwritten
//! while it is read.

use loom::thread;
use vmshm_link::LinkError;
use vmshm_link::frames::{
    Damage, FRAMES_SIZE, Frame, FrameReader, FrameWriter, PixelFormat, PixelSlots, Place, RECORDS,
    Wants,
};
use vmshm_shm::{LocalMemory, SharedMemory};

use crate::check;
use crate::memory::{LoomMemory, Partly};

/// Two pixels a slot, behind the frames, so that one memory has both.
const PIXELS: u64 = FRAMES_SIZE;
const SLOT_BYTES: u64 = 16;
const NEWEST_AT: u64 = 0x40;

/// The words that a source and reader 0 touch.
fn memory(slots: u64, serials: u64) -> LoomMemory {
    let page = vmshm_link::beacon::PAGE;
    let mut ranges = vec![(0, 16), (NEWEST_AT, 0x50), (page, page + 40)];
    ranges.extend((0..8).map(|slot| (0x100 + 64 * slot, 0x108 + 64 * slot)));
    let record = |serial: u64| 2 * page + 512 * (serial % RECORDS);
    ranges.extend((1..=serials).map(|serial| (record(serial), record(serial) + 512)));
    ranges.push((PIXELS, PIXELS + slots * SLOT_BYTES));
    LoomMemory::new(PIXELS + slots * SLOT_BYTES, &ranges)
}

fn frame(slot: usize, checksum: u64) -> Frame {
    Frame {
        serial: 0,
        place: Place {
            region: 7,
            slot,
            offset: slot as u64 * SLOT_BYTES,
            width: 2,
            height: 2,
            stride: 8,
            format: PixelFormat::Xrgb8888,
        },
        damage: Damage::none(),
        has_pointer: false,
        is_live_scanout: false,
        capture_nanos: !checksum,
        bytes_touched: 0,
        acknowledged_nanos: 0,
        checksum,
    }
}

/// Draws and announces one picture: two words of its serial. `early` announces it after the
/// first.
fn publish(
    writer: &mut FrameWriter<LoomMemory>,
    slots: &mut PixelSlots,
    memory: &LoomMemory,
    early: bool,
) {
    let serial = writer.newest() + 1;
    let slot = writer.begin(slots, 0..1).expect("right");
    let at = PIXELS + slot as u64 * SLOT_BYTES;
    memory.store_relaxed(at, serial).expect("inside");
    if early {
        writer
            .publish(slots, &frame(slot, serial), 1)
            .expect("right");
        memory.store_relaxed(at + 8, serial).expect("inside");
        writer.progress(2).expect("right");
    } else {
        memory.store_relaxed(at + 8, serial).expect("inside");
        writer
            .publish(slots, &frame(slot, serial), 2)
            .expect("right");
    }
}

/// Looks once; the serial of what is whole.
fn look(reader: &mut FrameReader<LoomMemory>, memory: &LoomMemory) -> u64 {
    let Some(look) = reader.look().expect("a right source") else {
        return 0;
    };
    let frame = look.frame;
    assert_eq!(frame.checksum, frame.serial, "a record of two frames");
    assert_eq!(frame.capture_nanos, !frame.serial, "a record of two frames");
    let at = PIXELS + frame.place.offset;
    let rows = reader.progress(&frame).expect("right");
    let first = memory.load_relaxed(at).expect("inside");
    let second = memory.load_relaxed(at + 8).expect("inside");
    if !reader.is_whole(&frame).expect("right") {
        return 0;
    }
    assert_eq!(first, frame.serial, "a torn picture that counts as whole");
    if rows == 2 {
        assert_eq!(second, frame.serial, "rows that were not there");
    }
    reader.acknowledge(&frame).expect("nobody else writes");
    frame.serial
}

fn overwritten(count: usize, frames: u64, early: bool) {
    let memory = memory(count as u64, 1 + frames);
    let mut writer = FrameWriter::resume(memory.clone()).expect("zeros");
    let mut slots = PixelSlots::new(count);
    publish(&mut writer, &mut slots, &memory, false);
    let mut reader = FrameReader::new(memory.clone(), 0, Wants::default()).expect("laid out");
    let own = memory.clone();
    let source = thread::spawn(move || {
        for _ in 0..frames {
            publish(&mut writer, &mut slots, &own, early);
        }
    });
    let first = look(&mut reader, &memory);
    source.join().expect("no panic");
    if first < 1 + frames {
        assert_eq!(look(&mut reader, &memory), 1 + frames);
    }
}

#[test]
fn the_only_slot_is_overwritten_while_it_is_copied() {
    check(3, || overwritten(1, 1, false));
}

#[test]
fn rows_that_are_announced_are_there() {
    check(3, || overwritten(1, 1, true));
}

#[test]
fn two_slots_are_drawn_in_turn_faster_than_they_are_copied() {
    check(2, || overwritten(2, 2, false));
}

#[test]
fn a_record_that_is_overwritten_is_never_read_as_a_mix() {
    check(2, || {
        // Record 1: its stamp, and the only two words in which its two frames differ.
        let record = 2 * vmshm_link::beacon::PAGE + 512;
        let words = [0, 0x08, 0x58].map(|word| (record + word, record + word + 8));
        let ranges = [&words[..], &[(NEWEST_AT, NEWEST_AT + 8)]].concat();
        let size = usize::try_from(FRAMES_SIZE).expect("small");
        let memory = Partly {
            modelled: LoomMemory::new(FRAMES_SIZE, &ranges),
            rest: std::sync::Arc::new(LocalMemory::new(size)),
        };
        let live = |writer: &mut FrameWriter<Partly>| {
            let serial = writer.newest() + 1;
            // Nothing but the stamp tells of a record of live scanout.
            let frame = Frame {
                is_live_scanout: true,
                capture_nanos: 0,
                ..frame(0, serial)
            };
            let slots = &mut PixelSlots::new(1);
            assert_eq!(writer.publish(slots, &frame, 2), Ok(serial));
        };
        let mut writer = FrameWriter::resume(memory.clone()).expect("zeros");
        live(&mut writer);
        let mut reader = FrameReader::new(memory.clone(), 0, Wants::default()).expect("laid out");
        let own = memory.clone();
        let source = thread::spawn(move || {
            // As if fourteen more had come and gone: the next one has the same record.
            own.store_relaxed(NEWEST_AT, RECORDS).expect("inside");
            let mut writer = FrameWriter::resume(own).expect("right");
            live(&mut writer);
        });
        if let Some(look) = reader.look().expect("a right source") {
            let frame = look.frame;
            assert!(frame.serial == 1 || frame.serial == RECORDS + 1);
            assert_eq!(frame.checksum, frame.serial, "a record of two frames");
        }
        source.join().expect("no panic");
        let look = reader.look().expect("a right source").expect("a frame");
        assert_eq!(look.frame.serial, RECORDS + 1);
    });
}

#[test]
fn a_reader_may_open_while_the_source_lays_the_region_out() {
    check(3, || {
        let memory = memory(1, 1);
        let own = memory.clone();
        let source = thread::spawn(move || {
            let mut writer = FrameWriter::resume(own.clone()).expect("zeros");
            let wants = writer.reader(0).expect("inside");
            assert!(
                wants.opened == 0 || wants.wants.no_pointer,
                "opened too early"
            );
            publish(&mut writer, &mut PixelSlots::new(1), &own, false);
        });
        let wants = Wants { no_pointer: true };
        let opened = FrameReader::new(memory.clone(), 0, wants);
        let mut reader = opened
            .map_err(|error: LinkError| error.to_string())
            .expect("fine");
        look(&mut reader, &memory);
        source.join().expect("no panic");
    });
}
