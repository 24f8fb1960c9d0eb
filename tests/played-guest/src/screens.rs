//! The played guest's screens: pictures that are drawn when told, modes, input that is
//! noted. Regions of frames are proved as any other; those of pixels never.

use vmshm_link::control::{RefusalCode, Reply, Role};
use vmshm_link::directory::RegionKind;
use vmshm_link::fields::Text;
use vmshm_link::frames::{
    Damage, FRAMES_SIZE, Frame, FrameWriter, Mode, PixelFormat, PixelSlots, Place, Rectangle,
    SourceState,
};
use vmshm_link::screens::{Abilities, ModeList, ScreenReply, ScreenRequest, TEST_CARD};
use vmshm_shm::SharedMemory;

use crate::guest::Guest;
use crate::ram::{GuestMemory, Window};
use crate::requests::refusal;

pub(crate) struct Screens<M> {
    pub(crate) all: Vec<Screen<M>>,
    last: u64,
    random: u64,
    events: Vec<String>,
    keymap: Vec<u8>,
    is_old: bool,
    adds_nothing: bool,
    forbids_input: bool,
}

impl<M> Default for Screens<M> {
    fn default() -> Self {
        Self {
            all: Vec::new(),
            last: 0,
            random: 0,
            events: Vec::new(),
            keymap: Vec::new(),
            is_old: false,
            adds_nothing: false,
            forbids_input: false,
        }
    }
}

pub(crate) struct Screen<M> {
    id: u64,
    name: String,
    pub(crate) mode: Mode,
    /// It shows the test card, and is not in the list.
    pub(crate) is_card: bool,
    added_by: Option<usize>,
    frames: Option<u64>,
    pub(crate) writer: Option<FrameWriter<Window<M>>>,
    pixels: Option<(u64, Window<M>)>,
    slots: PixelSlots,
    pub(crate) watchers: Vec<usize>,
    /// The readers' marks of opening that a picture was drawn for.
    pub(crate) greeted: Vec<u64>,
    pub(crate) picture: Vec<u8>,
}

impl<M: GuestMemory> Screens<M> {
    /// The guest has started again.
    pub(crate) fn forget_regions(&mut self) {
        self.all.retain(|screen| screen.added_by.is_none());
        for screen in &mut self.all {
            (screen.frames, screen.writer, screen.pixels) = (None, None, None);
            screen.watchers.clear();
        }
    }

    fn next(&mut self) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(99);
        self.random >> 16
    }

    pub(crate) fn add(&mut self, name: &str, mode: Mode, added_by: Option<usize>) -> usize {
        self.last += 1;
        self.all.push(Screen {
            id: self.last,
            name: name.to_owned(),
            mode,
            is_card: false,
            added_by,
            frames: None,
            writer: None,
            pixels: None,
            slots: PixelSlots::new(3),
            watchers: Vec::new(),
            greeted: Vec::new(),
            picture: vec![0; usize::try_from(mode.frame_bytes()).expect("small")],
        });
        self.all.len() - 1
    }

    /// The screen with this number in the list.
    fn numbered(&self, number: usize) -> Option<usize> {
        let listed = self.all.iter().enumerate();
        let mut listed = listed.filter(|(_, screen)| !screen.is_card);
        listed.nth(number).map(|(index, _)| index)
    }

    fn reply(&self, index: usize) -> Reply {
        let screen = &self.all[index];
        Reply::Screen(ScreenReply {
            screen: screen.id,
            total: self.all.iter().filter(|one| !one.is_card).count() as u64,
            mode: screen.mode,
            scale_thousandths: 1500,
            abilities: Abilities {
                input: !self.forbids_input,
                input_forbidden: self.forbids_input,
                set_mode: true,
                added: screen.added_by.is_some(),
                may_tear: false,
            },
            name: Text::new(&screen.name),
            source: Text::new("player"),
        })
    }
}

/// What two sides compare pictures by.
fn checksum(picture: &[u8]) -> u64 {
    picture.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

impl<M: GuestMemory> Guest<M> {
    fn screen(&mut self, id: u64) -> Option<usize> {
        self.screens.all.iter().position(|screen| screen.id == id)
    }

    fn hold(&mut self, slot: usize, id: u64) -> Reply {
        let Some(region) = self.regions.iter_mut().find(|region| region.id == id) else {
            return refusal(RefusalCode::NotFound);
        };
        if !region.ready && !region.holders.is_empty() {
            return refusal(RefusalCode::Proving);
        }
        region.holders.push((slot, Role::Watch));
        region.reply()
    }

    /// Nothing for what is never answered.
    pub(crate) fn answer_screen(&mut self, slot: usize, request: &ScreenRequest) -> Option<Reply> {
        if self.screens.is_old {
            return Some(refusal(RefusalCode::Unsupported));
        }
        Some(match request {
            ScreenRequest::Describe { number: TEST_CARD } => match self.test_card() {
                Some(index) => self.screens.reply(index),
                None => refusal(RefusalCode::NotFound),
            },
            ScreenRequest::Describe { number } => {
                let number = usize::try_from(*number).ok();
                match number.and_then(|number| self.screens.numbered(number)) {
                    Some(index) => self.screens.reply(index),
                    None => refusal(RefusalCode::NotFound),
                }
            }
            ScreenRequest::Add { .. } if self.screens.adds_nothing => refusal(RefusalCode::Unable),
            ScreenRequest::Add { mode } => {
                let name = format!("ADDED-{}", self.screens.last + 1);
                let index = self.screens.add(&name, *mode, Some(slot));
                self.screens.reply(index)
            }
            ScreenRequest::Watch { screen } => self.watch(slot, *screen),
            ScreenRequest::Pixels { region } => self.hold(slot, *region),
            ScreenRequest::SetMode { screen, mode } => self.set_mode(*screen, *mode),
            ScreenRequest::Modes { first, .. } => {
                let modes = [(100, 50), (200, 100)].map(|(width, height)| Mode {
                    width,
                    height,
                    refresh_millihertz: 60_000,
                });
                let first = usize::try_from(*first).expect("small").min(2);
                Reply::Modes(ModeList::new(
                    2,
                    true,
                    &modes[first..first + usize::from(first < 2)],
                ))
            }
            ScreenRequest::Input { events, .. } => {
                let words = events.as_slice().iter().map(|event| format!("{event:?}"));
                self.screens.events.extend(words);
                return None;
            }
            ScreenRequest::Keymap { offset, part, .. } => {
                if *offset == 0 {
                    self.screens.keymap.clear();
                }
                self.screens.keymap.extend(part.as_bytes());
                Reply::Done
            }
            ScreenRequest::Leave { screen } => {
                if let Some(index) = self.screen(*screen) {
                    self.leave(slot, index);
                }
                Reply::Done
            }
        })
    }

    fn watch(&mut self, slot: usize, screen: u64) -> Reply {
        let Some(index) = self.screen(screen) else {
            return refusal(RefusalCode::NotFound);
        };
        let frames = match self.screens.all[index].frames {
            Some(frames) => frames,
            None => {
                let name = format!("screen-{screen}");
                self.make(&name, RegionKind::Frames, FRAMES_SIZE, 0);
                self.screens.all[index].frames = Some(self.last_id);
                self.last_id
            }
        };
        self.screens.all[index].watchers.push(slot);
        self.hold(slot, frames)
    }

    /// A frames region that was proved is laid out, and the first picture is drawn.
    pub(crate) fn lay_out_frames(&mut self, region: u64) {
        let mut all = self.screens.all.iter();
        let Some(index) = all.position(|screen| screen.frames == Some(region)) else {
            return;
        };
        let frames = self.regions.iter().find(|one| one.id == region);
        let memory = self.memory(frames.expect("it was proved"));
        let writer = FrameWriter::resume(memory).expect("laid out");
        self.screens.all[index].writer = Some(writer);
        self.replace_pixels(index);
        if self.screens.all[index].is_card {
            let _ = self.draw_card(index);
        } else {
            self.draw(index, 3);
        }
    }

    fn replace_pixels(&mut self, index: usize) {
        if let Some((old, _)) = self.screens.all[index].pixels.take() {
            self.regions.retain(|region| region.id != old);
        }
        let name = format!("pixels-{}", self.last_id);
        self.make(&name, RegionKind::Pixels, 3 * self.plan.slot, 0);
        let region = self.regions.last_mut().expect("just made");
        region.ready = true;
        let id = region.id;
        let memory = self.memory(&self.regions[self.regions.len() - 1]);
        let screen = &mut self.screens.all[index];
        screen.pixels = Some((id, memory));
        screen.slots = PixelSlots::new(3);
    }

    /// Changes some parts of the picture and shows it.
    fn draw(&mut self, index: usize, parts: u32) {
        let mut damage = Damage::none();
        let mode = self.screens.all[index].mode;
        for _ in 0..parts {
            let mut below = |limit: u32| {
                u32::try_from(self.screens.next() % u64::from(limit)).expect("smaller")
            };
            let (x, y) = (below(mode.width), below(mode.height));
            let part = Rectangle {
                x,
                y,
                width: 1 + below(mode.width - x),
                height: 1 + below(mode.height - y),
            };
            let value = self.screens.next().to_le_bytes();
            for row in y..y + part.height {
                for column in x..x + part.width {
                    let at = ((row * mode.width + column) * 4) as usize;
                    self.screens.all[index].picture[at..at + 4].copy_from_slice(&value[..4]);
                }
            }
            damage.add(part);
        }
        self.publish(index, damage, None);
    }

    /// Shows the picture as it is now; its checksum is computed where none is given.
    pub(crate) fn publish(&mut self, index: usize, damage: Damage, sum: Option<u64>) {
        let slot_bytes = self.plan.slot;
        let screen = &mut self.screens.all[index];
        let (Some(writer), Some((region, pixels))) = (&mut screen.writer, &screen.pixels) else {
            return;
        };
        let readers = screen.watchers.iter().copied();
        let slot = writer.begin(&mut screen.slots, readers).expect("begun");
        let place = Place {
            region: *region,
            slot,
            offset: slot as u64 * slot_bytes,
            width: screen.mode.width,
            height: screen.mode.height,
            stride: screen.mode.width * 4 + 24,
            format: PixelFormat::Xrgb8888,
        };
        for (row, bytes) in screen
            .picture
            .chunks(screen.mode.width as usize * 4)
            .enumerate()
        {
            let at = place.offset + row as u64 * u64::from(place.stride);
            pixels.write(at, bytes).expect("inside");
        }
        let frame = Frame {
            serial: 0,
            place,
            damage,
            has_pointer: false,
            is_live_scanout: false,
            capture_nanos: 1,
            bytes_touched: 0,
            acknowledged_nanos: 0,
            checksum: sum.unwrap_or_else(|| checksum(&screen.picture)),
        };
        let height = screen.mode.height;
        writer
            .publish(&mut screen.slots, &frame, height)
            .expect("published");
        writer.set_state(SourceState::Live).expect("written");
    }

    fn set_mode(&mut self, screen: u64, mode: Mode) -> Reply {
        let Some(index) = self.screen(screen) else {
            return refusal(RefusalCode::NotFound);
        };
        if mode.width > self.plan.most || mode.height > self.plan.most {
            return refusal(RefusalCode::Unable);
        }
        let screen = &mut self.screens.all[index];
        screen.mode = mode;
        screen.picture = vec![7; usize::try_from(mode.frame_bytes()).expect("small")];
        if screen.writer.is_some() {
            self.replace_pixels(index);
            if self.screens.all[index].is_card {
                let _ = self.draw_card(index);
            } else {
                self.publish(index, Damage::whole(mode.width, mode.height), None);
            }
        }
        self.screens.reply(index)
    }

    fn leave(&mut self, slot: usize, index: usize) {
        let screen = &mut self.screens.all[index];
        screen.watchers.retain(|watcher| *watcher != slot);
        let unplug = screen.added_by == Some(slot);
        if unplug || screen.watchers.is_empty() {
            let regions = [screen.frames.take(), screen.pixels.take().map(|(id, _)| id)];
            screen.writer = None;
            self.regions
                .retain(|region| !regions.contains(&Some(region.id)));
        }
        if unplug {
            self.screens.all.remove(index);
        }
    }

    /// A session has ended.
    pub(crate) fn leave_screens(&mut self, slot: usize) {
        for index in (0..self.screens.all.len()).rev() {
            let screen = &self.screens.all[index];
            if screen.watchers.contains(&slot) || screen.added_by == Some(slot) {
                self.leave(slot, index);
            }
        }
    }

    /// Carries out an order about screens.
    pub(crate) fn obey_screen(&mut self, order: &str) -> String {
        let (word, rest) = order.split_once(' ').unwrap_or((order, ""));
        let number = rest.parse().unwrap_or(0);
        let number = self.screens.numbered(number).unwrap_or(0);
        let screens = &mut self.screens;
        match word {
            "plug" => {
                let mode = Mode {
                    width: 120,
                    height: 70,
                    refresh_millihertz: 60_000,
                };
                screens.add(rest, mode, None);
            }
            "unplug" => {
                if let Some(writer) = &screens.all[number].writer {
                    writer.set_state(SourceState::Gone).expect("written");
                }
                screens.all.remove(number);
            }
            "card" => {
                let serial = self.test_card().and_then(|index| self.draw_card(index));
                return serial.map_or_else(|| "nobody".to_owned(), |one| one.to_string());
            }
            "shown" => {
                let serial = self.shown_card();
                return serial.map_or_else(|| "nothing".to_owned(), |one| one.to_string());
            }
            "draw" => {
                self.draw(number, 3);
                return checksum(&self.screens.all[number].picture).to_string();
            }
            "checksum" => return checksum(&screens.all[number].picture).to_string(),
            "replace" => {
                self.replace_pixels(number);
                let mode = self.screens.all[number].mode;
                self.publish(number, Damage::whole(mode.width, mode.height), None);
            }
            "nonsense" => {
                let screen = &mut screens.all[number];
                let picture = std::mem::take(&mut screen.picture);
                screen.mode.width += 100_000;
                self.publish(number, Damage::none(), None);
                self.screens.all[number].mode.width -= 100_000;
                self.screens.all[number].picture = picture;
            }
            "acknowledged" => {
                let screen = &screens.all[number];
                let (Some(writer), Some(slot)) = (&screen.writer, screen.watchers.first()) else {
                    return "nobody".to_owned();
                };
                let line = writer.reader(*slot).expect("there");
                return (line.acknowledged == writer.newest()).to_string();
            }
            "names" => {
                let listed = screens.all.iter().filter(|one| !one.is_card);
                let names: Vec<_> = listed.map(|one| one.name.as_str()).collect();
                return names.join(",");
            }
            "mode" => {
                let mode = screens.all[number].mode;
                return format!("{}x{}", mode.width, mode.height);
            }
            "events" => return std::mem::take(&mut screens.events).join(";"),
            "keymap" => return checksum(&screens.keymap).to_string(),
            "old" => screens.is_old = true,
            "adds-nothing" => screens.adds_nothing = true,
            "forbids-input" => screens.forbids_input = true,
            other => panic!("what is {other:?}?"),
        }
        String::new()
    }
}
