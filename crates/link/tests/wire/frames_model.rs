//! Frames against real small pictures: a source that draws row by row, gives up, dies and
//! changes modes, and readers that copy row by row whenever they like. A copy that is whole is the
//! picture of its serial, although only damage was ever copied or drawn.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use vmshm_link::frames::{
    Damage, FRAMES_SIZE, Frame, FrameReader, FrameWriter, Look, PixelFormat, PixelSlots, Place,
    Rectangle, Wants,
};
use vmshm_shm::{LocalMemory, SharedMemory};

const SIDE: u32 = 12;
const SLOT_BYTES: u64 = 4 * SIDE as u64 * SIDE as u64;
const REGIONS: usize = 2;
const READERS: usize = 3;

/// A small picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    width: u32,
    height: u32,
    pixels: Vec<u32>,
}

impl Picture {
    pub fn of(width: u32, height: u32, colour: u32) -> Self {
        let pixels = vec![colour; (width * height) as usize];
        Self {
            width,
            height,
            pixels,
        }
    }

    fn places(&self, rows: std::ops::Range<u32>, damage: &Damage) -> Vec<(u32, u32)> {
        let covers = |one: &Rectangle, x, y| {
            (one.x..one.x + one.width).contains(&x) && (one.y..one.y + one.height).contains(&y)
        };
        let all = rows.flat_map(|y| (0..self.width).map(move |x| (x, y)));
        all.filter(|(x, y)| damage.rectangles().iter().any(|one| covers(one, *x, *y)))
            .collect()
    }

    fn at(&mut self, (x, y): (u32, u32)) -> &mut u32 {
        &mut self.pixels[(y * self.width + x) as usize]
    }
}

/// A frame on its way.
#[derive(Debug, Clone)]
struct Work {
    slot: usize,
    picture: Picture,
    damage: Damage,
    todo: Damage,
    rows: u32,
    is_announced: bool,
}

struct Source {
    writer: FrameWriter<Arc<LocalMemory>>,
    slots: PixelSlots,
    count: usize,
    region: usize,
    picture: Picture,
    damage: Damage,
    work: Option<Work>,
}

struct Viewer {
    reader: FrameReader<Arc<LocalMemory>>,
    picture: Picture,
    copying: Option<(Look, u32)>,
    shown: u64,
}

struct World {
    frames: Arc<LocalMemory>,
    pixels: [LocalMemory; REGIONS],
    source: Source,
    viewers: Vec<Viewer>,
    /// What was announced.
    truth: BTreeMap<u64, Picture>,
    /// Frames that their source never finished.
    unfinished: Vec<u64>,
}

/// Where a picture lies, in packed rows.
pub fn place_of(picture: &Picture, region: usize, slot: usize) -> Place {
    Place {
        region: region as u64,
        slot,
        offset: slot as u64 * SLOT_BYTES,
        width: picture.width,
        height: picture.height,
        stride: 4 * picture.width,
        format: PixelFormat::Xrgb8888,
    }
}

fn pixel_at(place: &Place, (x, y): (u32, u32)) -> u64 {
    place.offset + u64::from(y) * u64::from(place.stride) + 4 * u64::from(x)
}

#[derive(Debug, Clone)]
enum Step {
    Change(Rectangle, u32),
    Resize(u32, u32, u32),
    Begin,
    /// Give the frame up; the source may also go back to what it announced last.
    GiveUp(bool),
    Draw(u32),
    Announce,
    /// The source dies, and another goes on, in the same region or another one.
    Die(bool, u32),
    Look(usize),
    Copy(usize, u32),
    Finish(usize),
    LetGo(usize),
    Forget(usize),
    Reopen(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let rectangle =
        (0..SIDE, 0..SIDE, 1..SIDE, 1..SIDE).prop_map(|(x, y, width, height)| Rectangle {
            x,
            y,
            width: width.min(4),
            height: height.min(4),
        });
    let reader = || 0..READERS;
    prop_oneof![
        8 => (rectangle, any::<u32>()).prop_map(|(place, colour)| Step::Change(place, colour)),
        1 => (1..=SIDE, 1..=SIDE, any::<u32>()).prop_map(|(w, h, c)| Step::Resize(w, h, c)),
        10 => Just(Step::Begin),
        4 => any::<bool>().prop_map(Step::GiveUp),
        14 => (1..=SIDE).prop_map(Step::Draw),
        10 => Just(Step::Announce),
        1 => (any::<bool>(), any::<u32>()).prop_map(|(same, colour)| Step::Die(same, colour)),
        10 => reader().prop_map(Step::Look),
        14 => (reader(), 1..=SIDE).prop_map(|(reader, rows)| Step::Copy(reader, rows)),
        10 => reader().prop_map(Step::Finish),
        1 => reader().prop_map(Step::LetGo),
        2 => reader().prop_map(Step::Forget),
        2 => reader().prop_map(Step::Reopen),
    ]
}

impl World {
    fn new(count: usize) -> Self {
        let size = usize::try_from(FRAMES_SIZE).expect("small");
        let frames = Arc::new(LocalMemory::new(size));
        let room = 8 * usize::try_from(SLOT_BYTES).expect("small");
        let picture = Picture::of(8, 8, 1);
        let viewers = (0..READERS).map(|index| Viewer {
            // Before the source has come.
            reader: FrameReader::new(Arc::clone(&frames), index, Wants::default()).expect("zeros"),
            picture: picture.clone(),
            copying: None,
            shown: 0,
        });
        Self {
            viewers: viewers.collect(),
            source: Source {
                writer: FrameWriter::resume(Arc::clone(&frames)).expect("zeros"),
                slots: PixelSlots::new(count),
                count,
                region: 0,
                picture,
                damage: Damage::none(),
                work: None,
            },
            frames,
            pixels: std::array::from_fn(|_| LocalMemory::new(room)),
            truth: BTreeMap::new(),
            unfinished: Vec::new(),
        }
    }

    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Change(rectangle, colour) => {
                let source = &mut self.source;
                let (width, height) = (source.picture.width, source.picture.height);
                let mut damage = Damage::none();
                damage.add(rectangle);
                let damage = damage.clipped(width, height);
                for place in source.picture.places(0..height, &damage) {
                    *source.picture.at(place) = colour ^ (place.0 << 8) ^ place.1;
                }
                // A source may say what goes beyond the picture.
                source.damage.add(rectangle);
            }
            Step::Resize(width, height, colour) => {
                self.draw(SIDE)?;
                self.source.work = None;
                self.source.picture = Picture::of(width, height, colour);
                self.source.damage = Damage::whole(width, height);
                self.source.slots.forget();
            }
            Step::Begin => self.begin(),
            Step::GiveUp(goes_back) => self.give_up(goes_back),
            Step::Draw(rows) => self.draw(rows)?,
            Step::Announce => self.announce(),
            Step::Die(same_region, colour) => self.die(same_region, colour),
            Step::Look(index) => {
                let viewer = &mut self.viewers[index];
                viewer.copying = viewer.reader.look().expect("right").map(|look| (look, 0));
                if let Some((look, _)) = &viewer.copying
                    && look.damage.is_none()
                {
                    let place = &look.frame.place;
                    viewer.picture = Picture::of(place.width, place.height, 0xdead);
                }
            }
            Step::Copy(index, rows) => self.copy(index, rows),
            Step::Finish(index) => self.finish(index)?,
            Step::LetGo(index) => {
                self.viewers[index].copying = None;
                self.viewers[index].reader.let_go().expect("right");
            }
            Step::Forget(index) => {
                let viewer = &mut self.viewers[index];
                viewer.copying = None;
                viewer.reader.forget();
                viewer.picture = Picture::of(1, 1, 0);
            }
            Step::Reopen(index) => {
                let memory = Arc::clone(&self.frames);
                let viewer = &mut self.viewers[index];
                let wants = Wants::default();
                viewer.reader = FrameReader::new(memory, index, wants).expect("right");
                viewer.copying = None;
                viewer.shown = 0;
                viewer.picture = Picture::of(1, 1, 0);
            }
        }
        Ok(())
    }

    fn begin(&mut self) {
        let source = &mut self.source;
        if source.work.is_some() {
            return;
        }
        let slot = source
            .writer
            .begin(&mut source.slots, 0..READERS)
            .expect("right");
        let (width, height) = (source.picture.width, source.picture.height);
        let damage = std::mem::take(&mut source.damage);
        let todo = match source.slots.stale(slot) {
            Some(mut stale) => {
                stale.add_all(&damage);
                stale.clipped(width, height)
            }
            None => Damage::whole(width, height),
        };
        source.work = Some(Work {
            slot,
            picture: source.picture.clone(),
            damage,
            todo,
            rows: 0,
            is_announced: false,
        });
    }

    fn draw(&mut self, rows: u32) -> Result<(), TestCaseError> {
        let Some(work) = &mut self.source.work else {
            return Ok(());
        };
        let end = (work.rows + rows).min(work.picture.height);
        let place = place_of(&work.picture, self.source.region, work.slot);
        for pixel in work.picture.places(work.rows..end, &work.todo) {
            let colour = work.picture.at(pixel).to_le_bytes();
            let memory = &self.pixels[self.source.region];
            memory
                .write(pixel_at(&place, pixel), &colour)
                .expect("inside");
        }
        work.rows = end;
        if work.is_announced {
            self.source.writer.progress(end).expect("right");
            if end == work.picture.height {
                self.source.work = None;
            }
        }
        Ok(())
    }

    fn give_up(&mut self, goes_back: bool) {
        let source = &mut self.source;
        let Some(work) = source.work.take_if(|work| !work.is_announced) else {
            return;
        };
        let size = (source.picture.width, source.picture.height);
        let last = self.truth.get(&source.writer.newest());
        match last.filter(|last| goes_back && (last.width, last.height) == size) {
            Some(last) => {
                source.picture = last.clone();
                source.damage = Damage::none();
            }
            None => source.damage.add_all(&work.damage),
        }
    }

    fn announce(&mut self) {
        let source = &mut self.source;
        let Some(work) = source.work.as_mut().filter(|work| !work.is_announced) else {
            return;
        };
        let frame = Frame {
            serial: 0,
            place: place_of(&work.picture, source.region, work.slot),
            damage: work.damage,
            has_pointer: false,
            is_live_scanout: false,
            capture_nanos: 0,
            bytes_touched: 0,
            acknowledged_nanos: 0,
            checksum: 0,
        };
        let published = source.writer.publish(&mut source.slots, &frame, work.rows);
        let serial = published.expect("right");
        self.truth.insert(serial, work.picture.clone());
        work.is_announced = true;
        if work.rows == work.picture.height {
            source.work = None;
        }
    }

    fn die(&mut self, same_region: bool, colour: u32) {
        let newest = self.source.writer.newest();
        if let Some(work) = self.source.work.take()
            && work.is_announced
        {
            self.unfinished.push(newest);
        }
        let source = &mut self.source;
        source.writer = FrameWriter::resume(Arc::clone(&self.frames)).expect("right");
        assert_eq!(source.writer.newest(), newest, "serials go on");
        source.slots = PixelSlots::new(source.count);
        if !same_region {
            source.region = (source.region + 1) % REGIONS;
        }
        // The new one knows nothing of what has changed since the last frame.
        source.picture.pixels.fill(colour);
        source.damage = Damage::none();
    }

    fn copy(&mut self, index: usize, rows: u32) {
        let viewer = &mut self.viewers[index];
        let Some((look, done)) = &mut viewer.copying else {
            return;
        };
        let place = &look.frame.place;
        let ready = viewer.reader.progress(&look.frame).expect("right");
        let end = (*done + rows).min(ready);
        let region = usize::try_from(place.region).expect("small");
        let damage = look
            .damage
            .unwrap_or_else(|| Damage::whole(place.width, place.height));
        for pixel in viewer.picture.places(*done..end.max(*done), &damage) {
            let mut colour = [0; 4];
            let at = pixel_at(place, pixel);
            self.pixels[region].read(at, &mut colour).expect("inside");
            *viewer.picture.at(pixel) = u32::from_le_bytes(colour);
        }
        *done = end.max(*done);
    }

    fn finish(&mut self, index: usize) -> Result<(), TestCaseError> {
        let viewer = &mut self.viewers[index];
        let Some((look, done)) = viewer.copying else {
            return Ok(());
        };
        if done < look.frame.place.height {
            return Ok(());
        }
        viewer.copying = None;
        if !viewer.reader.is_whole(&look.frame).expect("right") {
            return Ok(());
        }
        let serial = look.frame.serial;
        prop_assert!(!self.unfinished.contains(&serial), "half a picture");
        prop_assert_eq!(
            Some(&viewer.picture),
            self.truth.get(&serial),
            "frame {}",
            serial
        );
        prop_assert_eq!(look.skipped, serial - viewer.shown - 1);
        viewer.shown = serial;
        viewer.reader.acknowledge(&look.frame).expect("right");
        Ok(())
    }

    /// Whatever happened, the next whole frame is shown by everybody.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        for step in [
            Step::Draw(SIDE),
            Step::Announce,
            Step::Begin,
            Step::Draw(SIDE),
        ] {
            self.take(step)?;
        }
        self.take(Step::Announce)?;
        let newest = self.source.writer.newest();
        for index in 0..READERS {
            for step in [
                Step::Look(index),
                Step::Copy(index, SIDE),
                Step::Finish(index),
            ] {
                self.take(step)?;
            }
            prop_assert_eq!(self.viewers[index].shown, newest);
            prop_assert_eq!(&self.viewers[index].picture, &self.truth[&newest]);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_whole_is_the_picture_of_its_serial(
        count in 1_usize..5, steps in vec(step(), 0..400),
    ) {
        let mut world = World::new(count);
        for step in steps {
            world.take(step)?;
        }
        world.settle()?;
    }
}
