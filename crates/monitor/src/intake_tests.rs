//! Taking frames in from guests that write what they like, stop halfway, or die.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use vmshm_channel::Handed;
use vmshm_link::frames::{
    Damage, FRAMES_SIZE, Frame, FrameWriter, PixelFormat, PixelSlots, Place, Rectangle,
};
use vmshm_shm::{Mapping, PAGE_SIZE, Protection, SharedMemory};

use super::{Intake, STANDSTILL, Terms, Turn};
use crate::canvas::{Shown, lock};
use crate::os::trial::memory_file as file;

const REGION: u64 = 9;
const SIZE: (u32, u32) = (40, 30);
const SLOT: u64 = 2 * PAGE_SIZE;

fn both(file: &Handed, size: u64) -> (Mapping, Mapping) {
    let map = |protection| Mapping::whole(file, size, protection).expect("succeeds");
    (map(Protection::ReadWrite), map(Protection::ReadWrite))
}

struct Guest {
    writer: FrameWriter<Mapping>,
    pixels: Mapping,
    slots: PixelSlots,
    pixels_file: Handed,
}

impl Guest {
    fn new(terms: Terms) -> (Self, Intake) {
        let frames_file = file(FRAMES_SIZE);
        let (ours, theirs) = both(&frames_file, FRAMES_SIZE);
        let pixels_file = file(2 * SLOT);
        let (pixels, _) = both(&pixels_file, 2 * SLOT);
        let guest = Self {
            writer: FrameWriter::resume(ours).expect("succeeds"),
            pixels,
            slots: PixelSlots::new(2),
            pixels_file,
        };
        let mut intake = Intake::new(terms);
        intake.take_frames(theirs, 3).expect("succeeds");
        (guest, intake)
    }

    fn pixels_for_host(&self) -> Mapping {
        Mapping::whole(&self.pixels_file, 2 * SLOT, Protection::Read).expect("succeeds")
    }

    fn frame(&self, slot: usize, damage: &Rectangle) -> Frame {
        let mut changed = Damage::none();
        changed.add(*damage);
        Frame {
            serial: 0,
            place: Place {
                region: REGION,
                slot,
                offset: slot as u64 * SLOT,
                width: SIZE.0,
                height: SIZE.1,
                stride: SIZE.0 * 4,
                format: PixelFormat::Xrgb8888,
            },
            damage: changed,
            has_pointer: false,
            is_live_scanout: false,
            capture_nanos: 0,
            bytes_touched: 0,
            acknowledged_nanos: 0,
            checksum: 0,
        }
    }

    fn begin(&mut self) -> usize {
        self.writer
            .begin(&mut self.slots, std::iter::once(3))
            .expect("succeeds")
    }

    fn draw(&self, slot: usize, rows: std::ops::Range<u32>, value: u8) {
        let row = vec![value; SIZE.0 as usize * 4];
        for y in rows {
            let at = slot as u64 * SLOT + u64::from(y * SIZE.0 * 4);
            self.pixels.write(at, &row).expect("succeeds");
        }
    }

    /// A whole picture of one value.
    fn publish(&mut self, value: u8, damage: &Rectangle) {
        let slot = self.begin();
        self.draw(slot, 0..SIZE.1, value);
        let frame = self.frame(slot, damage);
        self.writer
            .publish(&mut self.slots, &frame, SIZE.1)
            .expect("succeeds");
    }
}

fn whole() -> Rectangle {
    Rectangle::whole(SIZE.0, SIZE.1)
}

fn turn(intake: &mut Intake, shown: &Mutex<Shown>) -> Turn {
    intake.turn(shown, Instant::now()).expect("succeeds")
}

fn values(shown: &Mutex<Shown>) -> Vec<u8> {
    let shown = lock(shown);
    assert!(shown.is_whole);
    let mut values: Vec<u8> = shown
        .canvas
        .pixels()
        .iter()
        .flat_map(|pixel| pixel.to_le_bytes())
        .collect();
    values.dedup();
    values
}

#[test]
fn regions_are_asked_for_once_and_frames_taken_in() {
    let (mut guest, mut intake) = Guest::new(Terms::default());
    let shown = Mutex::default();
    assert!(matches!(turn(&mut intake, &shown), Turn::Idle));
    guest.publish(7, &whole());
    assert!(matches!(turn(&mut intake, &shown), Turn::Wants(REGION)));
    assert!(matches!(turn(&mut intake, &shown), Turn::Idle));
    intake.take_pixels(REGION, guest.pixels_for_host());
    let Turn::Taken(taken) = turn(&mut intake, &shown) else {
        panic!("not taken");
    };
    assert_eq!(taken.frame.serial, 1);
    assert_eq!(values(&shown), [7]);
    assert_eq!(intake.copied_bytes, u64::from(SIZE.0 * SIZE.1 * 4));
    // Only the damage is copied.
    let part = Rectangle {
        x: 3,
        y: 4,
        width: 5,
        height: 6,
    };
    guest.publish(8, &part);
    assert!(matches!(turn(&mut intake, &shown), Turn::Taken(_)));
    let shown = lock(&shown);
    for y in 0..SIZE.1 {
        for (x, pixel) in (0..).zip(shown.canvas.row(y)) {
            let inside = (3..8).contains(&x) && (4..10).contains(&y);
            let value = if inside { 0x0808_0808 } else { 0x0707_0707 };
            assert_eq!(*pixel, value, "{x},{y}");
        }
    }
    assert_eq!(intake.copied_bytes, u64::from(SIZE.0 * SIZE.1 * 4 + 30 * 4));
}

#[test]
fn rows_are_copied_as_they_come() {
    let (mut guest, mut intake) = Guest::new(Terms::default());
    let shown = Mutex::default();
    intake.take_pixels(REGION, guest.pixels_for_host());
    let slot = guest.begin();
    guest.draw(slot, 0..10, 5);
    let frame = guest.frame(slot, &whole());
    guest
        .writer
        .publish(&mut guest.slots, &frame, 10)
        .expect("succeeds");
    assert!(matches!(turn(&mut intake, &shown), Turn::Busy));
    assert!(!lock(&shown).is_whole);
    assert_eq!(intake.copied_bytes, u64::from(10 * SIZE.0 * 4));
    guest.draw(slot, 10..SIZE.1, 5);
    guest.writer.progress(SIZE.1).expect("succeeds");
    assert!(matches!(turn(&mut intake, &shown), Turn::Taken(_)));
    assert_eq!(values(&shown), [5]);
    assert_eq!(intake.copied_bytes, u64::from(SIZE.0 * SIZE.1 * 4));
}

#[test]
fn a_writer_that_stops_halfway_is_not_waited_for() {
    let (mut guest, mut intake) = Guest::new(Terms::default());
    let shown = Mutex::default();
    intake.take_pixels(REGION, guest.pixels_for_host());
    guest.publish(1, &whole());
    assert!(matches!(turn(&mut intake, &shown), Turn::Taken(_)));
    let slot = guest.begin();
    let frame = guest.frame(slot, &whole());
    guest
        .writer
        .publish(&mut guest.slots, &frame, 2)
        .expect("succeeds");
    let start = Instant::now();
    assert!(matches!(turn(&mut intake, &shown), Turn::Busy));
    let later = start + STANDSTILL + Duration::from_secs(60);
    assert!(matches!(intake.turn(&shown, later), Ok(Turn::Idle)));
    // It goes on with another frame.
    guest.publish(3, &whole());
    assert!(matches!(turn(&mut intake, &shown), Turn::Taken(_)));
    assert_eq!(values(&shown), [3]);
}

#[test]
fn a_torn_copy_is_never_shown() {
    let (mut guest, mut intake) = Guest::new(Terms::default());
    let shown = Mutex::default();
    intake.take_pixels(REGION, guest.pixels_for_host());
    let slot = guest.begin();
    guest.draw(slot, 0..SIZE.1, 1);
    let frame = guest.frame(slot, &whole());
    guest
        .writer
        .publish(&mut guest.slots, &frame, SIZE.1 - 1)
        .expect("succeeds");
    assert!(matches!(turn(&mut intake, &shown), Turn::Busy));
    // The slot is begun again before the last row was there.
    guest.writer.begin_in(slot).expect("succeeds");
    guest.draw(slot, 0..SIZE.1, 2);
    assert!(!matches!(turn(&mut intake, &shown), Turn::Taken(_)));
    assert_eq!(intake.retaken, 1);
    assert!(!lock(&shown).is_whole);
    let frame = guest.frame(slot, &whole());
    guest
        .writer
        .publish(&mut guest.slots, &frame, SIZE.1)
        .expect("succeeds");
    assert!(matches!(turn(&mut intake, &shown), Turn::Taken(_)));
    assert_eq!(values(&shown), [2]);
}

#[test]
fn sizes_change_and_only_the_region_in_use_stays() {
    let (mut guest, mut intake) = Guest::new(Terms::default());
    let shown = Mutex::default();
    intake.take_pixels(REGION, guest.pixels_for_host());
    guest.publish(1, &whole());
    assert!(matches!(turn(&mut intake, &shown), Turn::Taken(_)));
    let slot = guest.begin();
    guest.draw(slot, 0..SIZE.1, 4);
    let mut frame = guest.frame(slot, &Rectangle::whole(10, 10));
    frame.place.width = 10;
    frame.place.height = 10;
    frame.place.region = REGION + 1;
    guest
        .writer
        .publish(&mut guest.slots, &frame, 10)
        .expect("succeeds");
    assert!(matches!(turn(&mut intake, &shown), Turn::Wants(number) if number == REGION + 1));
    intake.take_pixels(REGION + 1, guest.pixels_for_host());
    assert!(matches!(turn(&mut intake, &shown), Turn::Taken(_)));
    assert_eq!(lock(&shown).canvas.size(), (10, 10));
    assert_eq!(values(&shown), [4]);
    assert_eq!(intake.dropped, [REGION]);
}

#[test]
fn colours_of_another_order_are_put_right() {
    let (mut guest, mut intake) = Guest::new(Terms::default());
    let shown = Mutex::default();
    intake.take_pixels(REGION, guest.pixels_for_host());
    let slot = guest.begin();
    let mut frame = guest.frame(slot, &whole());
    frame.place.format = PixelFormat::Xbgr8888;
    guest
        .pixels
        .write(slot as u64 * SLOT, &[1, 2, 3, 4])
        .expect("succeeds");
    guest
        .writer
        .publish(&mut guest.slots, &frame, SIZE.1)
        .expect("succeeds");
    assert!(matches!(turn(&mut intake, &shown), Turn::Taken(_)));
    assert_eq!(lock(&shown).canvas.row(0)[0], 0x0401_0203);
}

#[test]
fn only_what_the_terms_allow_is_taken() {
    let terms = Terms {
        fresh: true,
        no_pointer: true,
        size: Some(SIZE),
    };
    let (mut guest, mut intake) = Guest::new(terms);
    let shown = Mutex::default();
    intake.take_pixels(REGION, guest.pixels_for_host());
    let line = guest.writer.reader(3).expect("succeeds");
    assert!(line.wants.no_pointer);
    let slot = guest.begin();
    let mut frame = guest.frame(slot, &whole());
    frame.has_pointer = true;
    guest
        .writer
        .publish(&mut guest.slots, &frame, SIZE.1)
        .expect("succeeds");
    assert!(matches!(turn(&mut intake, &shown), Turn::Idle));
    // It is acknowledged, so that the source goes on.
    assert_eq!(guest.writer.reader(3).expect("succeeds").acknowledged, 1);
    guest.publish(6, &Rectangle::whole(1, 1));
    assert!(matches!(turn(&mut intake, &shown), Turn::Taken(_)));
    // All of it, though the damage was one pixel.
    assert_eq!(values(&shown), [6]);
}

#[test]
fn a_still_screen_is_asked_again_for_a_frame_of_now() {
    let terms = Terms {
        fresh: true,
        ..Terms::default()
    };
    let (guest, mut intake) = Guest::new(terms);
    let shown = Mutex::default();
    let opened = guest.writer.reader(3).expect("succeeds").opened;
    let later = Instant::now() + Duration::from_secs(60);
    assert!(matches!(intake.turn(&shown, later), Ok(Turn::Idle)));
    assert_ne!(guest.writer.reader(3).expect("succeeds").opened, opened);
}

#[test]
fn a_place_beyond_the_region_is_refused() {
    let (mut guest, mut intake) = Guest::new(Terms::default());
    let shown = Mutex::default();
    intake.take_pixels(REGION, guest.pixels_for_host());
    let slot = guest.begin();
    let mut frame = guest.frame(slot, &whole());
    frame.place.offset = 2 * SLOT - 4;
    guest
        .writer
        .publish(&mut guest.slots, &frame, SIZE.1)
        .expect("succeeds");
    assert!(intake.turn(&shown, Instant::now()).is_err());
    assert_eq!(lock(&shown).canvas.size(), (0, 0));
}

/// What a hostile guest writes at a place of the frames region: mostly near what is right.
fn hostile_write() -> impl Strategy<Value = (u64, u64)> {
    let word = prop_oneof![
        any::<u64>(),
        0..64_u64,
        Just(u64::from(SIZE.0) | u64::from(SIZE.1) << 32),
        Just(u64::from(SIZE.0 * 4) | u64::from(PixelFormat::Xrgb8888.fourcc()) << 32),
        Just(16384 | 16384 << 32),
        Just(REGION),
        (0..0x10000_u64).prop_map(|side| side | side << 32),
    ];
    // The header, our own line, and the records of the first frames.
    let place = prop_oneof![
        0..0x60_u64,
        (PAGE_SIZE + 3 * 128)..(PAGE_SIZE + 4 * 128),
        (2 * PAGE_SIZE)..(2 * PAGE_SIZE + 4 * 512),
        0..FRAMES_SIZE,
    ];
    (place.prop_map(|place| place & !7), word)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever the guest writes, and whenever: no panic, no memory beyond what the region
    /// justifies, bounded work per turn.
    #[test]
    fn hostile_guests_do_no_harm(
        writes in prop::collection::vec((hostile_write(), any::<bool>()), 0..40),
        fresh: bool,
    ) {
        let (mut guest, mut intake) = Guest::new(Terms { fresh, ..Terms::default() });
        let shown = Mutex::default();
        intake.take_pixels(REGION, guest.pixels_for_host());
        guest.publish(1, &whole());
        let frames = file(FRAMES_SIZE);
        let (raw, theirs) = both(&frames, FRAMES_SIZE);
                // The frames that were right so far, in a memory that anything is written into.
        let mut writer = FrameWriter::resume(both(&frames, FRAMES_SIZE).0).expect("succeeds");
        let mut slots = PixelSlots::new(2);
        for _ in 0..3 {
            let frame = guest.frame(0, &whole());
            writer.publish(&mut slots, &frame, SIZE.1).expect("succeeds");
        }
        if intake.take_frames(theirs, 3).is_ok() {
            intake.take_pixels(REGION, guest.pixels_for_host());
            let mut now = Instant::now();
            for ((place, word), looks) in writes {
                raw.store_relaxed(place, word).expect("succeeds");
                now += Duration::from_millis(3);
                if looks {
                    let before = intake.copied_bytes;
                    if intake.turn(&shown, now).is_err() || intake.beat().is_err() {
                        break;
                    }
                    // Three tries of at most the region's bytes each.
                    prop_assert!(intake.copied_bytes - before <= 3 * 2 * SLOT);
                }
            }
        }
        let (width, height) = lock(&shown).canvas.size();
        prop_assert!(u64::from(width) * u64::from(height) * 4 <= 2 * SLOT);
    }
}
