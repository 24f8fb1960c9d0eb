//! Tests of the relay, with both sides in this process: what the monitor sees is what the
//! guest drew, whatever changes, tears or lies.

use std::sync::Arc;

use vmshm_link::frames::{FRAMES_SIZE, PixelFormat, ReaderLine, Wants};
use vmshm_shm::{LocalMemory, Protection};

use super::*;

const GUEST_READER: usize = 5;
const REGION: u64 = 17;
const ROOM: u64 = 64 << 10;
const STRIDE: u32 = 300;

/// A source that draws into memory of its own, and keeps the picture that it means.
struct Guest {
    frames: Arc<LocalMemory>,
    pixels: Arc<LocalMemory>,
    writer: FrameWriter<Arc<LocalMemory>>,
    slots: PixelSlots,
    width: u32,
    height: u32,
    picture: Vec<u8>,
    random: u64,
}

impl Guest {
    fn new(width: u32, height: u32) -> Self {
        let size = usize::try_from(FRAMES_SIZE).expect("small");
        let frames = Arc::new(LocalMemory::new(size));
        let room = usize::try_from(3 * ROOM).expect("small");
        let mut guest = Self {
            pixels: Arc::new(LocalMemory::new(room)),
            writer: FrameWriter::resume(Arc::clone(&frames)).expect("laid out"),
            frames,
            slots: PixelSlots::new(3),
            width: 0,
            height: 0,
            picture: Vec::new(),
            random: 1,
        };
        guest.resize(width, height);
        guest
    }

    fn resize(&mut self, width: u32, height: u32) {
        self.width = width;
        self.height = height;
        self.picture = vec![0; (width * height * 4) as usize];
    }

    fn next(&mut self) -> u64 {
        // xorshift64
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn below(&mut self, limit: u32) -> u32 {
        u32::try_from(self.next() % u64::from(limit)).expect("smaller")
    }

    fn place(&self, slot: usize) -> Place {
        Place {
            region: REGION,
            slot,
            offset: slot as u64 * ROOM,
            width: self.width,
            height: self.height,
            stride: STRIDE,
            format: PixelFormat::Xrgb8888,
        }
    }

    /// Changes a part of the picture that it means.
    fn paint(&mut self) -> Rectangle {
        let (x, y) = (self.below(self.width), self.below(self.height));
        let part = Rectangle {
            x,
            y,
            width: 1 + self.below(self.width - x),
            height: 1 + self.below(self.height - y),
        };
        for row in y..y + part.height {
            for column in x..x + part.width {
                let value = self.next();
                let at = ((row * self.width + column) * 4) as usize;
                let pixel = value.to_le_bytes();
                self.picture[at..at + 4].copy_from_slice(&pixel[..4]);
            }
        }
        part
    }

    /// Begins the next frame and draws all of it; where.
    fn draw(&mut self) -> usize {
        let readers = std::iter::once(GUEST_READER);
        let slot = self.writer.begin(&mut self.slots, readers).expect("begun");
        let place = self.place(slot);
        let row = (self.width * 4) as usize;
        for (index, pixels) in self.picture.chunks(row).enumerate() {
            let at = place.offset + index as u64 * u64::from(STRIDE);
            self.pixels.write(at, pixels).expect("inside");
        }
        slot
    }

    fn publish(&mut self, slot: usize, damage: Damage, rows: u32) -> u64 {
        let frame = Frame {
            serial: 0,
            place: self.place(slot),
            damage,
            has_pointer: false,
            is_live_scanout: false,
            capture_nanos: 1000,
            bytes_touched: 7,
            acknowledged_nanos: 55,
            checksum: 99,
        };
        let published = self.writer.publish(&mut self.slots, &frame, rows);
        published.expect("published")
    }

    /// Paints some parts, and shows them.
    fn show(&mut self, parts: u32) -> u64 {
        let mut damage = Damage::none();
        for _ in 0..parts {
            damage.add(self.paint());
        }
        let slot = self.draw();
        self.publish(slot, damage, self.height)
    }

    fn line(&self) -> ReaderLine {
        self.writer.reader(GUEST_READER).expect("there")
    }

    fn relay(&self, only_new: bool) -> Relay<Arc<LocalMemory>, Arc<LocalMemory>> {
        let wants = Wants {
            no_pointer: only_new,
        };
        let reader = FrameReader::new(Arc::clone(&self.frames), GUEST_READER, wants);
        let mut relay = Relay::new(reader.expect("laid out"), only_new).expect("made");
        relay.take_guest_pixels(REGION, Arc::clone(&self.pixels));
        relay
    }
}

/// What a monitor does, with what it gets.
struct Monitor {
    frames: FrameReader<Mapping>,
    /// Only damage is copied into it.
    picture: Vec<u8>,
    size: (u32, u32),
}

impl Monitor {
    fn new(relay: &Relay<Arc<LocalMemory>, Arc<LocalMemory>>) -> Self {
        let (file, runs) = relay.frames();
        let memory = Mapping::whole(file, runs[0].length, Protection::ReadWrite);
        let frames = FrameReader::new(memory.expect("mapped"), READER, Wants::default());
        Self {
            frames: frames.expect("laid out"),
            picture: Vec::new(),
            size: (0, 0),
        }
    }

    /// Takes the newest frame in as far as it has changed.
    fn take(&mut self, relay: &Relay<Arc<LocalMemory>, Arc<LocalMemory>>) -> Option<Frame> {
        let look = self.frames.look().expect("good frames")?;
        let place = look.frame.place;
        let (file, runs) = relay.pixels(place.region).expect("opened")?;
        let pixels = Mapping::whole(file, runs[0].length, Protection::Read).expect("mapped");
        place.check(pixels.size()).expect("inside");
        if self.size != (place.width, place.height) {
            self.size = (place.width, place.height);
            self.picture = vec![0; (place.width * place.height * 4) as usize];
        }
        let whole = Damage::whole(place.width, place.height);
        for part in look.damage.unwrap_or(whole).rectangles() {
            for row in part.y..part.y + part.height {
                let at = ((row * place.width + part.x) * 4) as usize;
                let into = &mut self.picture[at..at + (part.width * 4) as usize];
                let from = place.offset + u64::from(row * place.stride + part.x * 4);
                pixels.read(from, into).expect("inside");
            }
        }
        assert_eq!(self.frames.is_whole(&look.frame), Ok(true));
        self.frames.acknowledge(&look.frame).expect("written");
        self.frames.beat().expect("written");
        Some(look.frame)
    }
}

#[test]
fn whatever_is_damaged_the_monitor_sees_what_the_guest_means() {
    let mut guest = Guest::new(70, 50);
    let mut relay = guest.relay(false);
    let mut monitor = Monitor::new(&relay);
    let mut shown = 0;
    for round in 0..400 {
        if round % 97 == 96 {
            let (width, height) = (1 + guest.below(75), 1 + guest.below(60));
            guest.resize(width, height);
            let slot = guest.draw();
            guest.publish(slot, Damage::whole(width, height), height);
        }
        let parts = guest.below(5);
        let serial = guest.show(parts);
        // Frames are skipped now and then, on either side.
        if round % 5 != 0 {
            assert_eq!(relay.step().expect("good"), Step::Relayed);
            let frame = monitor.take(&relay).expect("a frame");
            assert!(monitor.picture == guest.picture, "round {round}");
            assert_eq!((frame.checksum, frame.acknowledged_nanos), (99, 55));
            assert!(frame.capture_nanos >= 1000 && frame.bytes_touched == 7);
            shown += 1;
            assert!(guest.line().acknowledged < serial, "not before it is shown");
            relay.step().expect("good");
            assert_eq!(guest.line().acknowledged, serial);
            assert_eq!(guest.line().copying, 0);
        }
    }
    assert_eq!(relay.counts().frames, shown);
}

#[test]
fn only_damage_and_what_a_slot_lacks_is_copied() {
    let mut guest = Guest::new(70, 50);
    let mut relay = guest.relay(false);
    let mut monitor = Monitor::new(&relay);
    // Every slot holds some picture by then.
    for _ in 0..6 {
        guest.show(1);
        relay.step().expect("good");
        monitor.take(&relay).expect("a frame");
        relay.step().expect("good");
    }
    let small = Rectangle {
        x: 3,
        y: 4,
        width: 10,
        height: 2,
    };
    let mut damage = Damage::none();
    damage.add(small);
    for _ in 0..3 {
        let slot = guest.draw();
        guest.publish(slot, damage, 50);
        relay.step().expect("good");
        monitor.take(&relay).expect("a frame");
        relay.step().expect("good");
    }
    let before = relay.counts().copied_bytes;
    let slot = guest.draw();
    guest.publish(slot, damage, 50);
    relay.step().expect("good");
    assert_eq!(relay.counts().copied_bytes - before, small.area() * 4);
    // A picture that stands still costs nothing.
    monitor.take(&relay).expect("a frame");
    for _ in 0..10 {
        assert_eq!(relay.step().expect("good"), Step::Idle);
    }
    assert_eq!(relay.counts().copied_bytes - before, small.area() * 4);
}

#[test]
fn a_frame_is_passed_on_only_when_all_of_its_rows_are_there() {
    let mut guest = Guest::new(70, 50);
    let mut relay = guest.relay(false);
    let mut monitor = Monitor::new(&relay);
    let mut damage = Damage::none();
    damage.add(guest.paint());
    let slot = guest.draw();
    guest.publish(slot, damage, 20);
    assert_eq!(relay.step().expect("good"), Step::Idle);
    assert!(monitor.take(&relay).is_none());
    guest.writer.progress(50).expect("written");
    assert_eq!(relay.step().expect("good"), Step::Relayed);
    monitor.take(&relay).expect("a frame");
    assert!(monitor.picture == guest.picture);
}

/// Memory whose pixels the guest draws into while they are copied.
struct Torn {
    memory: Arc<LocalMemory>,
    frames: Arc<LocalMemory>,
    tears: std::cell::Cell<bool>,
    mark_at: u64,
}

impl SharedMemory for Torn {
    fn size(&self) -> u64 {
        self.memory.size()
    }
    fn load_relaxed(&self, offset: u64) -> Result<u64, Fault> {
        self.memory.load_relaxed(offset)
    }
    fn load_acquire(&self, offset: u64) -> Result<u64, Fault> {
        self.memory.load_acquire(offset)
    }
    fn store_relaxed(&self, _: u64, _: u64) -> Result<(), Fault> {
        Err(Fault::ReadOnly)
    }
    fn store_release(&self, _: u64, _: u64) -> Result<(), Fault> {
        Err(Fault::ReadOnly)
    }
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.memory.read(offset, into)?;
        if self.tears.replace(false) {
            // The guest begins the slot again: what was read is void.
            into.fill(0xee);
            self.frames.store_relaxed(self.mark_at, 1 << 40)?;
        }
        Ok(())
    }
    fn write(&self, _: u64, _: &[u8]) -> Result<(), Fault> {
        Err(Fault::ReadOnly)
    }
}

#[test]
fn a_torn_copy_is_never_published_and_leaves_no_trace() {
    let mut guest = Guest::new(70, 50);
    let reader = FrameReader::new(Arc::clone(&guest.frames), GUEST_READER, Wants::default());
    let mut relay: Relay<_, Torn> = Relay::new(reader.expect("good"), false).expect("made");
    let torn = |guest: &Guest, slot: usize, tears| Torn {
        memory: Arc::clone(&guest.pixels),
        frames: Arc::clone(&guest.frames),
        tears: std::cell::Cell::new(tears),
        mark_at: 0x100 + 64 * slot as u64,
    };
    let (file, runs) = relay.frames();
    let memory = Mapping::whole(file, runs[0].length, Protection::ReadWrite).expect("mapped");
    let mut reader = FrameReader::new(memory, READER, Wants::default()).expect("good");
    for round in 0..60 {
        let mut damage = Damage::none();
        damage.add(guest.paint());
        let slot = guest.draw();
        guest.publish(slot, damage, 50);
        relay.take_guest_pixels(REGION, torn(&guest, slot, true));
        assert_eq!(relay.step().expect("good"), Step::Idle, "torn");
        assert_eq!(relay.counts().retaken, round + 1);
        assert!(reader.look().expect("good").is_none());
        // The next frame changes something else; both changes must be seen.
        let mut damage = Damage::none();
        damage.add(guest.paint());
        let slot = guest.draw();
        guest.publish(slot, damage, 50);
        relay.take_guest_pixels(REGION, torn(&guest, slot, false));
        assert_eq!(relay.step().expect("good"), Step::Relayed);
        let look = reader.look().expect("good").expect("a frame");
        let place = look.frame.place;
        let (file, runs) = relay.pixels(place.region).expect("opened").expect("there");
        let pixels = Mapping::whole(file, runs[0].length, Protection::Read).expect("mapped");
        let mut picture = vec![0; guest.picture.len()];
        pixels.read(place.offset, &mut picture).expect("inside");
        assert!(picture == guest.picture, "round {round}");
        reader.acknowledge(&look.frame).expect("written");
    }
}

#[test]
fn for_one_picture_what_was_there_before_is_passed_over() {
    let mut guest = Guest::new(70, 50);
    guest.show(1);
    let mut relay = guest.relay(true);
    assert!(guest.line().wants.no_pointer);
    let mut monitor = Monitor::new(&relay);
    assert_eq!(relay.step().expect("good"), Step::Idle);
    guest.show(1);
    assert_eq!(relay.step().expect("good"), Step::Relayed);
    assert!(monitor.take(&relay).is_some());
    assert!(monitor.picture == guest.picture);
}

#[test]
fn a_region_that_is_not_open_is_asked_for_and_may_be_refused() {
    let mut guest = Guest::new(70, 50);
    let mut relay = guest.relay(false);
    assert_eq!(
        relay.take_guest_pixels(3, Arc::clone(&guest.pixels)),
        Some(REGION)
    );
    guest.show(1);
    assert_eq!(relay.step().expect("good"), Step::Needs(REGION));
    relay.refuse_guest_pixels(REGION).expect("good");
    assert_eq!(relay.step().expect("good"), Step::Idle);
    assert_eq!(
        guest.line().copying,
        0,
        "the guest may go on with that slot"
    );
}

#[test]
fn places_that_cannot_be_end_it_before_a_pixel_is_read() {
    let impossible: [fn(&mut Place); 5] = [
        |place| place.offset = 3 * ROOM - 100,
        |place| place.offset = u64::MAX - 3,
        |place| place.stride = 4,
        |place| place.width = 0,
        |place| place.height = 1 << 20,
    ];
    for (index, lie) in impossible.into_iter().enumerate() {
        let mut guest = Guest::new(70, 50);
        let mut relay = guest.relay(false);
        let mut place = guest.place(0);
        lie(&mut place);
        guest.writer.begin_in(0).expect("begun");
        let frame = Frame {
            serial: 0,
            place,
            damage: Damage::none(),
            has_pointer: false,
            is_live_scanout: false,
            capture_nanos: 0,
            bytes_touched: 0,
            acknowledged_nanos: 0,
            checksum: 0,
        };
        // A source of ours would refuse some of these itself.
        let _ = guest.writer.publish(&mut guest.slots, &frame, place.height);
        match relay.step() {
            Err(RelayError::Link(LinkError::Violation { .. })) => {}
            other => panic!("lie {index}: {other:?}"),
        }
        assert_eq!(relay.counts(), RelayCounts::default());
    }
}

#[test]
fn a_monitor_that_is_gone_counts_no_more_as_a_reader() {
    let mut guest = Guest::new(70, 50);
    let mut relay = guest.relay(false);
    let mut monitor = Monitor::new(&relay);
    let beat = |relay: &mut Relay<_, _>| {
        relay.looked = Instant::now() - BEAT_EVERY;
        relay.step().expect("good");
        guest.line().beat
    };
    monitor.frames.beat().expect("written");
    let first = beat(&mut relay);
    monitor.frames.beat().expect("written");
    let second = beat(&mut relay);
    assert!(second > first);
    assert_eq!(beat(&mut relay), second, "it says nothing any more");
    // A source that ends is told on.
    guest.writer.set_state(SourceState::Gone).expect("written");
    relay.looked = Instant::now() - BEAT_EVERY;
    relay.step().expect("good");
    let state = monitor.frames.state().expect("good");
    assert_eq!(state.source, SourceState::Gone);
    guest.show(0);
}

#[test]
fn a_monitor_that_never_acknowledges_gets_newer_frames_all_the_same() {
    let mut guest = Guest::new(70, 50);
    let mut relay = guest.relay(false);
    let mut monitor = Monitor::new(&relay);
    guest.show(2);
    assert_eq!(relay.step().expect("good"), Step::Relayed);
    guest.show(2);
    assert_eq!(relay.step().expect("good"), Step::Idle, "one at a time");
    if let Some(in_flight) = &mut relay.in_flight {
        in_flight.since = Instant::now() - OVERDUE;
    }
    assert_eq!(relay.step().expect("good"), Step::Relayed);
    monitor.take(&relay).expect("a frame");
    assert!(monitor.picture == guest.picture);
}
