//! Takes a guest's frames in: from the frames and pixels regions into the [`Canvas`].
//!
//! Every number is the guest's own choice. A [turn](Intake::turn) does a bounded amount of
//! work, waits for nothing, copies only what lies in the mapped region, and lets nobody show
//! a picture that may be torn. What no source would write ends the intake with an error; the
//! last picture stays.
//!
//! [`Canvas`]: crate::canvas::Canvas

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use vmshm_link::LinkError;
use vmshm_link::frames::{
    Damage, Frame, FrameReader, Look, PixelFormat, ReaderState, Rectangle, Wants,
};
use vmshm_shm::{Mapping, SharedMemory};

use crate::canvas::{Shown, lock};
use crate::frames_memory::PixelRegions;

/// How often one turn starts over since a copy was torn.
const TRIES: usize = 3;
/// A writer that adds no rows for so long is not waited for: its frame is looked at anew.
const STANDSTILL: Duration = Duration::from_millis(500);
/// A region that was asked for is asked for again after this.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Another region is asked for no sooner than this after the one before.
const ASK_NEXT: Duration = Duration::from_millis(5);

/// A screen that stands still and shows nothing acceptable is asked for another frame after this.
const OPEN_AGAIN: Duration = Duration::from_secs(2);

/// Why frames cannot be taken in.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// What the guest wrote makes no sense.
    #[error("the guest's frames make no sense: {0}")]
    Link(#[from] LinkError),
    /// Memory that cannot be read.
    #[error("the guest's frames cannot be read: {0}")]
    Fault(#[from] vmshm_shm::Fault),
    /// This machine has no room for such a picture.
    #[error("there is no memory for a picture of {0}x{1}")]
    NoRoom(u32, u32),
}

/// Which frames will do. Others are only acknowledged.
#[derive(Debug, Clone, Copy, Default)]
pub struct Terms {
    /// Only frames that were announced after this reader came.
    pub fresh: bool,
    /// Only frames without the guest's pointer.
    pub no_pointer: bool,
    /// Only frames of this width and height.
    pub size: Option<(u32, u32)>,
}

/// A frame that is in the canvas now.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// Its record.
    pub frame: Frame,
    /// Frames that were skipped since a newer one was there.
    pub skipped: u64,
    /// Bytes of damage.
    pub damage_bytes: u64,
    /// From seeing it announced to now.
    pub took: Duration,
}

/// What came of one turn.
#[derive(Debug)]
pub enum Turn {
    /// Nothing to do.
    Idle,
    /// A frame is being copied, and its writer is still at it.
    Busy,
    /// This region is needed; the answer goes to [`Intake::take_pixels`].
    Wants(u64),
    /// A frame is in the canvas.
    Taken(Box<Taken>),
}

/// A frame that is being copied.
#[derive(Debug, Clone, Copy)]
struct Pending {
    look: Look,
    damage: Damage,
    /// Rows that are in the canvas.
    rows: u32,
    seen: Instant,
    moved: Instant,
}

/// Frames and pixels on their way into a canvas.
#[derive(Debug, Default)]
pub struct Intake {
    terms: Terms,
    reader: Option<FrameReader<Arc<Mapping>>>,
    /// The frames region, and which reader this is.
    memory: Option<(Arc<Mapping>, usize)>,
    regions: PixelRegions,
    pending: Option<Pending>,
    /// The newest frame when the reader came, and when that was.
    at_opening: u64,
    opened: Option<Instant>,
    asked: Option<(u64, Instant)>,
    /// Bytes of pixels that were copied.
    pub copied_bytes: u64,
    /// Copies that were torn.
    pub retaken: u64,
    /// Regions that are not mapped any more, and that nobody was told of.
    pub dropped: Vec<u64>,
}

impl Intake {
    /// Will take frames on these terms.
    pub fn new(terms: Terms) -> Self {
        Self {
            terms,
            ..Self::default()
        }
    }

    /// Takes a frames region; what came before is void.
    ///
    /// # Errors
    /// [`IntakeError::Link`] when it is none.
    pub fn take_frames(&mut self, memory: Mapping, reader: usize) -> Result<(), IntakeError> {
        self.detach();
        self.memory = Some((Arc::new(memory), reader));
        self.open()
    }

    /// Opens the reader's line, by which the source knows that a frame of now is wanted.
    fn open(&mut self) -> Result<(), IntakeError> {
        if let Some((memory, index)) = &self.memory {
            let wants = Wants {
                no_pointer: self.terms.no_pointer,
            };
            let reader = FrameReader::new(Arc::clone(memory), *index, wants)?;
            self.at_opening = reader.state()?.newest;
            self.opened = Some(Instant::now());
            self.reader = Some(reader);
        }
        Ok(())
    }

    /// Unmaps everything. The picture stays.
    pub fn detach(&mut self) {
        self.reader = None;
        self.memory = None;
        self.pending = None;
        self.asked = None;
        self.regions.clear();
        self.dropped.clear();
    }

    /// Whether there are frames to look at.
    pub const fn is_attached(&self) -> bool {
        self.reader.is_some()
    }

    /// Which region is wanted.
    pub fn wanted(&self) -> Option<u64> {
        self.asked.map(|(region, _)| region)
    }

    /// Takes a pixels region.
    pub fn take_pixels(&mut self, region: u64, memory: Mapping) {
        self.asked = self.asked.filter(|(asked, _)| *asked != region);
        self.dropped.extend(self.regions.insert(region, memory));
    }

    /// What the source says.
    ///
    /// # Errors
    /// [`IntakeError`].
    pub fn state(&self) -> Result<Option<ReaderState>, IntakeError> {
        let state = self.reader.as_ref().map(FrameReader::state);
        Ok(state.transpose()?)
    }

    /// Says that this reader lives.
    ///
    /// # Errors
    /// [`IntakeError`].
    pub fn beat(&mut self) -> Result<(), IntakeError> {
        if let Some(reader) = &mut self.reader {
            reader.beat()?;
        }
        Ok(())
    }

    /// Looks for a frame and copies what is there of it.
    ///
    /// # Errors
    /// [`IntakeError`]; the caller detaches then.
    pub fn turn(&mut self, shown: &Mutex<Shown>, now: Instant) -> Result<Turn, IntakeError> {
        let Some(mut reader) = self.reader.take() else {
            return Ok(Turn::Idle);
        };
        let turn = self.turn_with(&mut reader, shown, now);
        self.reader = Some(reader);
        let turn = turn?;
        if self.terms.fresh && matches!(turn, Turn::Idle) && self.is_overdue(now) {
            // A frame between the reader's coming and its look at the newest passes for old.
            self.open()?;
        }
        Ok(turn)
    }

    fn is_overdue(&self, now: Instant) -> bool {
        let since = self.opened.map(|at| now.saturating_duration_since(at));
        self.asked.is_none() && since.is_some_and(|since| since > OPEN_AGAIN)
    }

    fn turn_with(
        &mut self,
        reader: &mut FrameReader<Arc<Mapping>>,
        shown: &Mutex<Shown>,
        now: Instant,
    ) -> Result<Turn, IntakeError> {
        for _ in 0..TRIES {
            let mut pending = match self.pending.take() {
                Some(pending) => pending,
                None => match reader.look()? {
                    None => return Ok(Turn::Idle),
                    Some(look) if self.is_acceptable(&look.frame) => Pending {
                        look,
                        damage: worth_copying(&look),
                        rows: 0,
                        seen: now,
                        moved: now,
                    },
                    Some(look) => {
                        reader.acknowledge(&look.frame)?;
                        reader.forget();
                        return Ok(Turn::Idle);
                    }
                },
            };
            let frame = pending.look.frame;
            let Some(memory) = self.regions.get(frame.place.region) else {
                reader.let_go()?;
                return Ok(self.want(frame.place.region, now));
            };
            frame.place.check(memory.size())?;
            let rows = reader.progress(&frame)?;
            let mut guard = lock(shown);
            self.copied_bytes += copy_rows(&mut guard, memory, reader, &mut pending, rows)?;
            if !reader.is_whole(&frame)? {
                self.retaken += 1;
                continue;
            }
            if rows > pending.rows {
                pending.rows = rows;
                pending.moved = now;
            }
            if pending.rows < frame.place.height {
                if now.saturating_duration_since(pending.moved) > STANDSTILL {
                    reader.let_go()?;
                    return Ok(Turn::Idle);
                }
                self.pending = Some(pending);
                return Ok(Turn::Busy);
            }
            let size = (frame.place.width, frame.place.height);
            guard.damage.add_all(&pending.damage);
            guard.damage = guard.damage.clipped(size.0, size.1);
            guard.is_whole = true;
            guard.serial = frame.serial;
            guard.has_pointer = frame.has_pointer;
            drop(guard);
            reader.acknowledge(&frame)?;
            let gone = self.regions.keep_only(frame.place.region);
            self.dropped.extend(gone);
            return Ok(Turn::Taken(Box::new(Taken {
                frame,
                skipped: pending.look.skipped,
                damage_bytes: 4 * pending.damage.area(),
                took: pending.seen.elapsed(),
            })));
        }
        reader.let_go()?;
        Ok(Turn::Busy)
    }

    fn is_acceptable(&self, frame: &Frame) -> bool {
        let size = (frame.place.width, frame.place.height);
        !(self.terms.fresh && frame.serial <= self.at_opening
            || self.terms.no_pointer && frame.has_pointer
            || self.terms.size.is_some_and(|wanted| wanted != size))
    }

    fn want(&mut self, region: u64, now: Instant) -> Turn {
        let patience = match self.asked {
            Some((asked, _)) if asked == region => ASK_AGAIN,
            _ => ASK_NEXT,
        };
        match self.asked {
            Some((_, at)) if now.saturating_duration_since(at) < patience => Turn::Idle,
            _ => {
                self.asked = Some((region, now));
                Turn::Wants(region)
            }
        }
    }
}

/// What to copy of a frame: rectangles that overlap are not worth more than the whole.
fn worth_copying(look: &Look) -> Damage {
    let (width, height) = (look.frame.place.width, look.frame.place.height);
    let whole = u64::from(width) * u64::from(height);
    match look.damage {
        Some(damage) if damage.area() < whole => damage,
        _ => Damage::whole(width, height),
    }
}

/// Copies what is damaged of the rows from `pending.rows` to `rows`; how many bytes.
fn copy_rows(
    shown: &mut Shown,
    memory: &Mapping,
    reader: &mut FrameReader<Arc<Mapping>>,
    pending: &mut Pending,
    rows: u32,
) -> Result<u64, IntakeError> {
    let place = pending.look.frame.place;
    shown.is_whole = false;
    if shown.canvas.size() != (place.width, place.height) {
        // What was taken in is lost, whatever becomes of this frame.
        reader.forget();
        pending.damage = Damage::whole(place.width, place.height);
        pending.rows = 0;
        if !shown.canvas.resize(place.width, place.height) {
            return Err(IntakeError::NoRoom(place.width, place.height));
        }
        shown.damage_all();
    }
    let from = pending.rows;
    let there = Rectangle {
        x: 0,
        y: from,
        width: place.width,
        height: rows.saturating_sub(from),
    };
    let is_packed = place.stride == place.width * 4;
    let mut copied = 0;
    for rectangle in pending.damage.rectangles() {
        let part = rectangle.intersection(&there);
        if part.is_empty() {
            continue;
        }
        let first = place.offset + u64::from(part.y) * u64::from(place.stride);
        if is_packed && part.width == place.width {
            if let Some(bytes) = shown.canvas.rows_bytes_mut(part.y, 0, part.area()) {
                memory.read(first, bytes)?;
                arrange(bytes, place.format);
            }
        } else {
            let first = first + u64::from(part.x) * 4;
            for row in 0..part.height {
                let at = first + u64::from(row) * u64::from(place.stride);
                if let Some(bytes) = shown.canvas.row_bytes_mut(part.y + row, part.x, part.width) {
                    memory.read(at, bytes)?;
                    arrange(bytes, place.format);
                }
            }
        }
        copied += part.area() * 4;
    }
    Ok(copied)
}

/// Brings pixels into the canvas's order. Alpha is left out: premultiplied, as it is, a picture
/// looks on black as it does without.
fn arrange(bytes: &mut [u8], format: PixelFormat) {
    match format {
        PixelFormat::Xrgb8888 | PixelFormat::Argb8888 => {}
        PixelFormat::Xbgr8888 => {
            for pixel in bytes.as_chunks_mut::<4>().0 {
                pixel.swap(0, 2);
            }
        }
    }
}

#[cfg(test)]
#[path = "intake_tests.rs"]
mod tests;
