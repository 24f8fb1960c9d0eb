//! One screen that is watched: when a picture is asked for, where it goes, and its announcement.
//!
//! A picture without news is asked for with `copy_with_damage`: the compositor waits until
//! something changes, and nobody has anything to do meanwhile. A whole picture of now is asked
//! for with `copy`: somebody has just come, or wants the pointer otherwise. The next capture is
//! always prepared before the last one is let go, which saves a round trip, and the compositor
//! from switching between drawing the pointer itself and leaving it to hardware.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use vmshm_channel::source::{FromSource, PixelMemory};
use vmshm_link::frames::{Damage, Frame, Place, SourceState};
use vmshm_shm::{Mapping, SharedMemory};
use wayland_client::QueueHandle;

use super::buffers::Buffers;
use super::capture::{Capture, FrameEvent, Spec, Stage, Tag, age};
use super::desk::Desk;
use crate::outlet::{Demand, Outlet, OutletError};

/// Pictures in a pixels region, where its size allows it.
const SLOTS: u64 = 3;
/// A pool's size is a signed 32-bit number.
const POOL: u64 = 0x7fff_f000;
/// A region that is replaced by a larger one grows in steps, for windows that are being resized.
const GROWTH: u64 = 1 << 20;
/// How often readers are looked at while the compositor waits for a change.
const LOOK: Duration = Duration::from_millis(500);
/// How often they are looked at while they take a picture in.
const CLOSE_LOOK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));
/// How soon a capture that failed is tried again, at first and at last.
const AGAIN: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// What a watched screen needs of the rest.
pub struct Context<'a> {
    /// What the compositor has said.
    pub desk: &'a Desk,
    /// For making objects.
    pub handle: &'a QueueHandle<Desk>,
    /// Numbers for captures and questions.
    pub numbers: &'a mut u64,
    /// To the agent.
    pub out: &'a mut Vec<FromSource>,
}

impl Context<'_> {
    fn number(&mut self) -> u64 {
        *self.numbers += 1;
        *self.numbers
    }
}

/// The memory that was asked for.
#[derive(Debug, Clone, Copy)]
struct Need {
    request: u64,
    slots: u64,
    slot_bytes: u64,
}

/// A screen that is watched.
#[derive(Debug)]
pub struct Watched {
    screen: u64,
    outlet: Outlet,
    slot_bytes: u64,
    buffers: Option<Buffers>,
    capture: Option<Capture>,
    need: Option<Need>,
    /// So large a picture was refused memory.
    refused: Option<u64>,
    /// The pixels region that the agent does not know to be in use yet.
    unannounced: Option<u64>,
    /// Size and pointer of the newest frame.
    shown: Option<(u32, u32, bool)>,
    /// A capture that would have told of changes was given up.
    lost: bool,
    published: Instant,
    again_at: Instant,
    again_after: Duration,
    noted: Option<String>,
}

impl Watched {
    /// Starts to deliver into a frames region.
    pub fn open(screen: u64, frames: OwnedFd, size: u64) -> Result<Self, OutletError> {
        let now = Instant::now();
        Ok(Self {
            screen,
            outlet: Outlet::open(frames, size)?,
            slot_bytes: 0,
            buffers: None,
            capture: None,
            need: None,
            refused: None,
            unannounced: None,
            shown: None,
            lost: false,
            published: now,
            again_at: now,
            again_after: AGAIN.0,
            noted: None,
        })
    }

    /// Which readers there are.
    pub fn set_readers(&mut self, readers: &[usize]) {
        self.outlet.set_readers(readers);
    }

    /// The screen is gone.
    pub fn set_gone(&mut self) {
        self.give_up();
        // Nothing can be done about a region that is not ours any more.
        let _ = self.outlet.set_state(SourceState::Gone);
    }

    /// The mode has changed: the next picture is a whole one, at once.
    pub fn refresh(&mut self) {
        self.give_up();
        self.outlet.refresh();
        self.again_at = Instant::now();
        self.refused = None;
    }

    /// Takes the memory that was asked for.
    pub fn take_pixels(
        &mut self,
        request: u64,
        region: u64,
        size: u64,
        file: OwnedFd,
    ) -> Result<(), OutletError> {
        let Some(need) = self.need.take_if(|need| need.request == request) else {
            return Ok(());
        };
        // Slots lie as far apart as the region allows: what fits a slot needs no other region,
        // and slots never overlap those of an earlier mode.
        let slot_bytes = size / need.slots / 4096 * 4096;
        if slot_bytes < need.slot_bytes {
            self.refused = Some(need.slot_bytes);
            let needed = need.slot_bytes * need.slots;
            return Err(OutletError::TooSmall { size, needed });
        }
        self.give_up();
        self.outlet.take_pixels(region, size, file, slot_bytes)?;
        self.slot_bytes = slot_bytes;
        self.buffers = None;
        self.unannounced = Some(region);
        Ok(())
    }

    /// There is no memory.
    pub fn no_pixels(&mut self, request: u64) {
        if let Some(need) = self.need.take_if(|need| need.request == request) {
            self.refused = Some(need.slot_bytes);
        }
    }

    /// Asks for a picture if one is wanted. When to do so again at the latest; nothing: when
    /// somebody says something.
    pub fn step(&mut self, context: &mut Context<'_>) -> Result<Option<Duration>, OutletError> {
        let now = Instant::now();
        match self.outlet.demand()? {
            Demand::Nobody => {
                if self.outlet.readers().next().is_none() {
                    self.give_up();
                    return Ok(None);
                }
                Ok(Some(LOOK))
            }
            Demand::NotYet => {
                self.ask(context, now, self.shown.is_none_or(|shown| shown.2));
                if self.is_copying() {
                    return Ok(Some(LOOK));
                }
                let since = now.duration_since(self.published);
                Ok(Some((since / 8).clamp(CLOSE_LOOK.0, CLOSE_LOOK.1)))
            }
            Demand::Wanted { fresh, no_pointer } => {
                let pointer = !no_pointer;
                let fresh = fresh || self.shown.is_some_and(|shown| shown.2 != pointer);
                if let Some(capture) = &self.capture {
                    let waits_in_vain = fresh && capture.carries_damage();
                    if capture.pointer != pointer || waits_in_vain {
                        self.give_up();
                    }
                }
                self.ask(context, now, pointer);
                self.copy(context, fresh)?;
                let again = self.again_at.saturating_duration_since(now);
                let retries = self.capture.is_none() && !again.is_zero();
                Ok(Some(if retries { again.min(LOOK) } else { LOOK }))
            }
        }
    }

    /// What the compositor says of a capture.
    pub fn hear(
        &mut self,
        number: u64,
        event: FrameEvent,
        context: &mut Context<'_>,
    ) -> Result<(), OutletError> {
        let Some(capture) = self.capture.as_mut().filter(|one| one.number == number) else {
            return Ok(());
        };
        match event {
            FrameEvent::Buffer(spec) => {
                if capture.note_spec(spec) && capture.stage == Stage::Asked {
                    capture.stage = Stage::Prepared;
                }
            }
            FrameEvent::BufferDone => {
                if capture.spec.is_some() && capture.stage == Stage::Asked {
                    capture.stage = Stage::Prepared;
                }
            }
            FrameEvent::Inverted(inverted) => capture.inverted = inverted,
            FrameEvent::Damage(rectangle) => capture.damage.add(rectangle),
            FrameEvent::Failed => {
                self.give_up();
                self.back_off();
            }
            FrameEvent::Ready(shown) => {
                let done = self.capture.take();
                if let Some(capture) = &done {
                    self.publish(capture, shown, context)?;
                    self.again_after = AGAIN.0;
                    self.ask(context, Instant::now(), capture.pointer);
                }
            }
        }
        Ok(())
    }

    fn is_copying(&self) -> bool {
        let stage = self.capture.as_ref().map(|capture| capture.stage);
        matches!(stage, Some(Stage::Copying { .. }))
    }

    fn give_up(&mut self) {
        if let Some(capture) = self.capture.take() {
            // The compositor may have told this capture of changes that it will tell no other.
            self.lost |= capture.carries_damage();
        }
    }

    fn back_off(&mut self) {
        self.again_at = Instant::now() + self.again_after;
        self.again_after = (self.again_after * 2).min(AGAIN.1);
    }

    fn note(&mut self, message: String, context: &mut Context<'_>) {
        if self.noted.as_ref() != Some(&message) {
            self.noted = Some(message.clone());
            context.out.push(FromSource::Note { message });
        }
    }

    fn ask(&mut self, context: &mut Context<'_>, now: Instant, pointer: bool) {
        if self.capture.is_some() || self.need.is_some() || now < self.again_at {
            return;
        }
        let desk = context.desk;
        let output = desk.output(self.screen);
        let Some((output, manager)) = output.zip(desk.screencopy.as_ref()) else {
            return;
        };
        let number = context.number();
        let tag = Tag {
            screen: self.screen,
            number,
        };
        let proxy = manager.capture_output(i32::from(pointer), &output.proxy, context.handle, tag);
        self.capture = Some(Capture::new(proxy, number, pointer));
    }

    /// Has the picture copied, if the compositor has said how it wants it.
    fn copy(&mut self, context: &mut Context<'_>, fresh: bool) -> Result<(), OutletError> {
        let prepared = self
            .capture
            .as_ref()
            .filter(|capture| capture.stage == Stage::Prepared);
        let Some(spec) = prepared.and_then(|capture| capture.spec) else {
            return Ok(());
        };
        let problem = match (spec.pixel_format(), spec.slot_bytes()) {
            (Err(name), _) => {
                format!("the compositor's pictures come as {name}, which is not supported")
            }
            (_, None) => format!(
                "the compositor offers impossible pictures: {}x{} with {} bytes a row",
                spec.width, spec.height, spec.stride
            ),
            (_, Some(needed)) if needed > self.slot_bytes => {
                self.need_pixels(needed, context);
                return Ok(());
            }
            _ => return self.copy_as(spec, context, fresh),
        };
        self.give_up();
        self.back_off();
        self.note(problem, context);
        Ok(())
    }

    fn copy_as(
        &mut self,
        spec: Spec,
        context: &mut Context<'_>,
        fresh: bool,
    ) -> Result<(), OutletError> {
        let Some((slot, offset)) = self.outlet.begin()? else {
            return Ok(());
        };
        if self.buffers.is_none() {
            let shm = context.desk.shm.as_ref();
            self.buffers = shm
                .zip(self.outlet.pixels_file())
                .map(|(shm, (file, size))| Buffers::new(shm, file, size, context.handle));
        }
        let buffers = self.buffers.as_mut();
        let buffer = buffers.and_then(|all| all.buffer(slot, offset, &spec, context.handle));
        let Some((buffer, capture)) = buffer.zip(self.capture.as_mut()) else {
            return Ok(());
        };
        if fresh {
            capture.proxy.copy(buffer);
        } else {
            capture.proxy.copy_with_damage(buffer);
        }
        capture.stage = Stage::Copying {
            slot,
            offset,
            since: Instant::now(),
            damage: !fresh,
        };
        Ok(())
    }

    fn need_pixels(&mut self, needed: u64, context: &mut Context<'_>) {
        self.give_up();
        if self.refused.is_some_and(|refused| needed >= refused) {
            self.back_off();
            return;
        }
        let grows = self.slot_bytes > 0;
        let roomy = needed.next_multiple_of(GROWTH);
        let slot_bytes = if grows && roomy <= POOL {
            roomy
        } else {
            needed
        };
        let need = Need {
            request: context.number(),
            slots: (POOL / slot_bytes).clamp(1, SLOTS),
            slot_bytes,
        };
        context.out.push(FromSource::NeedPixels {
            screen: self.screen,
            request: need.request,
            memory: PixelMemory::Pinned {
                size: need.slots * need.slot_bytes,
            },
        });
        self.need = Some(need);
    }

    fn publish(
        &mut self,
        capture: &Capture,
        shown: Duration,
        context: &mut Context<'_>,
    ) -> Result<(), OutletError> {
        let Stage::Copying {
            slot,
            offset,
            since,
            damage: told,
        } = capture.stage
        else {
            return Ok(());
        };
        let Some((spec, format)) = capture
            .spec
            .and_then(|spec| Some((spec, spec.pixel_format().ok()?)))
        else {
            return Ok(());
        };
        let place = Place {
            region: 0,
            slot,
            offset,
            width: spec.width,
            height: spec.height,
            stride: spec.stride,
            format,
        };
        let mut bytes_touched = 0;
        if capture.inverted
            && let Some((_, memory)) = self.outlet.pixels()
        {
            turn_over(memory, &place)?;
            bytes_touched = 2 * place.length();
        }
        let size = (spec.width, spec.height, capture.pointer);
        let damage = capture.damage.clipped(spec.width, spec.height);
        let is_known = told && !self.lost && !capture.inverted && !damage.is_empty();
        let damage = if is_known && self.shown == Some(size) {
            damage
        } else {
            Damage::whole(spec.width, spec.height)
        };
        let frame = Frame {
            serial: 0,
            place,
            damage,
            has_pointer: capture.pointer,
            is_live_scanout: false,
            capture_nanos: age(shown, since),
            bytes_touched,
            acknowledged_nanos: 0,
            checksum: 0,
        };
        self.outlet.publish(&frame, spec.height)?;
        self.published = Instant::now();
        self.shown = Some(size);
        self.lost = false;
        if let Some(region) = self.unannounced.take() {
            context.out.push(FromSource::PixelsInUse {
                screen: self.screen,
                region,
            });
        }
        Ok(())
    }
}

/// Turns a picture that is upside down over, in its place.
fn turn_over(memory: &Mapping, place: &Place) -> Result<(), OutletError> {
    place.check(memory.size())?;
    let row_bytes = usize::try_from(u64::from(place.width) * 4).unwrap_or(0);
    let (mut upper, mut lower) = (vec![0; row_bytes], vec![0; row_bytes]);
    let at = |row: u32| place.offset + u64::from(row) * u64::from(place.stride);
    let fault = vmshm_link::LinkError::from;
    for row in 0..place.height / 2 {
        let (above, below) = (at(row), at(place.height - 1 - row));
        memory.read(above, &mut upper).map_err(fault)?;
        memory.read(below, &mut lower).map_err(fault)?;
        memory.write(above, &lower).map_err(fault)?;
        memory.write(below, &upper).map_err(fault)?;
    }
    Ok(())
}
