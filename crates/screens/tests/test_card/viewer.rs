//! A host that keeps a picture of its own up by damage alone, and verifies all of it.

use std::time::Duration;

use vmshm_link::frames::{Damage, Frame, FrameReader, Look, Wants};
use vmshm_link::test_card::Verifier;
use vmshm_shm::{Mapping, SharedMemory};

use crate::agent::Agent;

pub struct Viewer {
    pub reader: FrameReader<Mapping>,
    pixels: Option<(u64, Mapping)>,
    picture: Vec<u8>,
    width: u32,
    height: u32,
    /// Frames that were shown.
    pub shown: u64,
    /// The last one's serial and checksum, from its pixels.
    pub serial: u64,
    pub stated: u64,
}

impl Viewer {
    pub fn open(agent: &Agent, reader: usize) -> Self {
        let reader = FrameReader::new(agent.map_frames(), reader, Wants::default());
        Self {
            reader: reader.expect("a frames region"),
            pixels: None,
            picture: Vec::new(),
            width: 0,
            height: 0,
            shown: 0,
            serial: 0,
            stated: 0,
        }
    }

    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Shows the newest frame if there is a newer one, and rests a little if there is none.
    pub fn show_next(&mut self, agent: &mut Agent) -> Option<Look> {
        self.reader.beat().expect("nobody else writes");
        agent.serve_pending();
        let look = self.reader.look().expect("a right source");
        let shown = look.filter(|look| self.show(agent, look));
        if shown.is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        shown
    }

    fn show(&mut self, agent: &Agent, look: &Look) -> bool {
        let frame = &look.frame;
        let place = &frame.place;
        if self
            .pixels
            .as_ref()
            .is_none_or(|(region, _)| *region != place.region)
        {
            let Some(memory) = agent.map_pixels(place.region) else {
                // Replaced already; a newer frame names another.
                let _ = self.reader.let_go();
                return false;
            };
            self.pixels = Some((place.region, memory));
        }
        let size = self.pixels.as_ref().map_or(0, |(_, memory)| memory.size());
        place.check(size).expect("inside");
        if look.damage.is_none() {
            (self.width, self.height) = (place.width, place.height);
            self.picture = vec![0; 4 * (place.width * place.height) as usize];
        }
        let damage = look
            .damage
            .unwrap_or_else(|| Damage::whole(place.width, place.height));
        let mut done = 0;
        while done < place.height {
            let rows = self.reader.progress(frame).expect("right");
            self.copy(frame, &damage, done, rows);
            if rows == done {
                std::thread::yield_now();
            }
            done = rows;
        }
        if !self.reader.is_whole(frame).expect("right") {
            return false;
        }
        let mut verifier = Verifier::new(self.width, self.height);
        self.picture
            .chunks(4 * self.width as usize)
            .for_each(|row| verifier.row(row));
        let verdict = verifier.verdict();
        assert!(verdict.is_right, "frame {}: {verdict:?}", frame.serial);
        assert_eq!(verdict.serial, frame.serial);
        (self.serial, self.stated) = (verdict.serial, verdict.stated);
        self.shown += 1;
        self.reader.acknowledge(frame).expect("nobody else writes");
        true
    }

    fn copy(&mut self, frame: &Frame, damage: &Damage, start: u32, end: u32) {
        let (_, memory) = self.pixels.as_ref().expect("mapped");
        let place = &frame.place;
        for one in damage.rectangles() {
            for row in one.y.max(start)..(one.y + one.height).min(end) {
                let from =
                    place.offset + u64::from(row) * u64::from(place.stride) + 4 * u64::from(one.x);
                let at = 4 * (row * self.width + one.x) as usize;
                let into = &mut self.picture[at..at + 4 * one.width as usize];
                memory.read(from, into).expect("inside");
            }
        }
    }
}
