//! The way of one screen's frames into shared memory: its frames region, its pixels region,
//! and whether anybody wants another frame.
//!
//! A source asks [`Outlet::demand`] before it captures. Nobody waits for a reader: a reader
//! that has not acknowledged the newest frame only keeps the next one from being captured for
//! *it*; others go on, and one that stands still for [`STALL`] counts for nothing.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use vmshm_link::LinkError;
use vmshm_link::frames::{Frame, FrameWriter, MAX_PIXEL_SLOTS, PixelSlots, Place, SourceState};
use vmshm_shm::{MapError, Mapping, PAGE_SIZE, Protection};

/// A reader that says nothing for so long is not counted.
pub const STALL: Duration = Duration::from_secs(1);

/// Why frames cannot be delivered.
#[derive(Debug, thiserror::Error)]
pub enum OutletError {
    /// Memory that the agent gave cannot be mapped.
    #[error("cannot map a screen's memory: {0}")]
    Map(#[from] MapError),
    /// What lies in the frames region is not ours.
    #[error("a screen's frames cannot be written: {0}")]
    Link(#[from] LinkError),
    /// The agent gave memory that is too small.
    #[error("pictures of {needed} bytes do not fit a pixels region of {size}")]
    TooSmall {
        /// Its bytes.
        size: u64,
        /// What is needed.
        needed: u64,
    },
}

impl OutletError {
    /// Whether the frames' memory holds something else than what was written there: the agent
    /// has taken it back, and the word of it is on its way. The screen itself is all right.
    #[must_use]
    pub const fn is_taken_back(&self) -> bool {
        matches!(self, Self::Link(_))
    }
}

/// Whether a frame is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Nobody looks.
    Nobody,
    /// Those who look have not taken in the newest frame yet.
    NotYet,
    /// Somebody is ready for the next frame.
    Wanted {
        /// A reader has just come: a whole picture of now, even if nothing has changed.
        fresh: bool,
        /// A reader wants it without the guest's pointer.
        no_pointer: bool,
    },
}

/// What a picture of this many bytes takes in a pixels region: whole pages, so that no page has
/// parts of two pictures.
#[must_use]
pub const fn slot_bytes(picture: u64) -> u64 {
    picture.saturating_add(PAGE_SIZE - 1) / PAGE_SIZE * PAGE_SIZE
}

/// The pixels region in use.
#[derive(Debug)]
struct Pixels {
    region: u64,
    size: u64,
    slots: PixelSlots,
    slot_bytes: u64,
    /// Nothing for a device's own memory, which its driver and the guest write.
    pinned: Option<(Mapping, OwnedFd)>,
}

#[derive(Debug, Clone, Copy)]
struct Reader {
    index: usize,
    beat: u64,
    moved: Instant,
    /// What its line's mark of opening was at the last look.
    opened: Option<u64>,
}

/// One screen that is watched.
#[derive(Debug)]
pub struct Outlet {
    writer: FrameWriter<Mapping>,
    pixels: Option<Pixels>,
    readers: Vec<Reader>,
    /// A reader has come since the last frame.
    fresh: bool,
    /// The newest frame has the guest's pointer in it.
    shows_pointer: bool,
    announced: Option<Instant>,
    acknowledged_nanos: u64,
}

impl Outlet {
    /// Takes the frames region that the agent gave.
    ///
    /// # Errors
    /// [`OutletError`].
    pub fn open(frames: impl AsFd, size: u64) -> Result<Self, OutletError> {
        let mut memory = Mapping::whole(frames, size, Protection::ReadWrite)?;
        memory.populate()?;
        let writer = FrameWriter::resume(memory)?;
        writer.set_state(SourceState::Starting)?;
        Ok(Self {
            writer,
            pixels: None,
            readers: Vec::new(),
            fresh: true,
            shows_pointer: false,
            announced: None,
            acknowledged_nanos: 0,
        })
    }

    /// Takes a pixels region whose slots are `slot_bytes` apart. What was there before is
    /// forgotten.
    ///
    /// # Errors
    /// [`OutletError`]; the old one stays then.
    pub fn take_pixels(
        &mut self,
        region: u64,
        size: u64,
        file: OwnedFd,
        slot_bytes: u64,
    ) -> Result<(), OutletError> {
        let count = usize::try_from(size / slot_bytes.max(1)).unwrap_or(usize::MAX);
        if count == 0 {
            let needed = slot_bytes;
            return Err(OutletError::TooSmall { size, needed });
        }
        let memory = Mapping::whole(&file, size, Protection::ReadWrite)?;
        self.pixels = Some(Pixels {
            region,
            size,
            slots: PixelSlots::new(count),
            slot_bytes,
            pinned: Some((memory, file)),
        });
        self.fresh = true;
        Ok(())
    }

    /// Takes a pixels region that is a device's own memory: this process writes nothing there,
    /// and says itself where pictures lie, with [`begin_in`](Self::begin_in).
    pub fn take_device_pixels(&mut self, region: u64, size: u64) {
        self.pixels = Some(Pixels {
            region,
            size,
            slots: PixelSlots::new(MAX_PIXEL_SLOTS),
            slot_bytes: 0,
            pinned: None,
        });
        self.fresh = true;
    }

    /// The pixels region's file, for a compositor that writes into it, and its bytes.
    #[must_use]
    pub fn pixels_file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        let pixels = self.pixels.as_ref()?;
        let (_, file) = pixels.pinned.as_ref()?;
        Some((file.as_fd(), pixels.size))
    }

    /// The pixels region's number and memory, for a source that draws there itself.
    #[must_use]
    pub fn pixels(&self) -> Option<(u64, &Mapping)> {
        let pixels = self.pixels.as_ref()?;
        let (memory, _) = pixels.pinned.as_ref()?;
        Some((pixels.region, memory))
    }

    /// Makes the pages of pictures present now, for a source that draws there itself: each
    /// first touch costs far more later.
    ///
    /// # Errors
    /// [`OutletError::Map`].
    pub fn populate_pixels(&mut self) -> Result<(), OutletError> {
        match self
            .pixels
            .as_mut()
            .and_then(|pixels| pixels.pinned.as_mut())
        {
            Some((memory, _)) => Ok(memory.populate()?),
            None => Ok(()),
        }
    }

    /// Bytes of each slot of the pixels region; zero without one.
    #[must_use]
    pub fn slot_bytes(&self) -> u64 {
        self.pixels.as_ref().map_or(0, |pixels| pixels.slot_bytes)
    }

    /// The number that the next frame will have.
    #[must_use]
    pub const fn next_serial(&self) -> u64 {
        self.writer.newest() + 1
    }

    /// What each slot holds.
    #[must_use]
    pub fn slots(&self) -> Option<&PixelSlots> {
        self.pixels.as_ref().map(|pixels| &pixels.slots)
    }

    /// Which readers there are now.
    pub fn set_readers(&mut self, indices: &[usize]) {
        let now = Instant::now();
        let known = |index: &usize| self.readers.iter().find(|one| one.index == *index).copied();
        let readers = indices.iter().map(|index| {
            known(index).ok_or(Reader {
                index: *index,
                beat: 0,
                moved: now,
                opened: None,
            })
        });
        let readers: Vec<_> = readers.collect();
        self.fresh |= readers.iter().any(|one| one.is_err());
        self.readers = readers
            .into_iter()
            .map(|one| one.unwrap_or_else(|new| new))
            .collect();
    }

    /// The readers' indices.
    pub fn readers(&self) -> impl Iterator<Item = usize> + '_ {
        self.readers.iter().map(|reader| reader.index)
    }

    /// Whether a frame is wanted now. Looks at the readers' lines: a few loads, no call.
    ///
    /// # Errors
    /// [`OutletError::Link`].
    pub fn demand(&mut self) -> Result<Demand, OutletError> {
        let now = Instant::now();
        let newest = self.writer.newest();
        let (mut alive, mut ready, mut no_pointer) = (false, false, false);
        for reader in &mut self.readers {
            let line = self.writer.reader(reader.index)?;
            if line.beat != reader.beat {
                reader.beat = line.beat;
                reader.moved = now;
            }
            // Whoever opens its line while nothing changes gets a frame that is newer than that,
            // and as it wants it.
            self.fresh |= reader.opened.replace(line.opened) != Some(line.opened);
            if now.duration_since(reader.moved) > STALL {
                continue;
            }
            alive = true;
            ready |= line.acknowledged == newest;
            no_pointer |= line.wants.no_pointer;
        }
        if ready && let Some(announced) = self.announced.take() {
            let nanos = now.duration_since(announced).as_nanos();
            self.acknowledged_nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        }
        // Who wants no pointer may have said so only after a frame with it was asked for.
        self.fresh |= no_pointer && self.shows_pointer;
        Ok(match (alive, ready || self.fresh) {
            (false, _) => Demand::Nobody,
            (true, false) => Demand::NotYet,
            (true, true) => Demand::Wanted {
                fresh: self.fresh,
                no_pointer,
            },
        })
    }

    /// Chooses and marks the slot for the next frame: the slot, and its first byte in the pixels
    /// region. Nothing without a pixels region.
    ///
    /// # Errors
    /// [`OutletError::Link`].
    pub fn begin(&mut self) -> Result<Option<(usize, u64)>, OutletError> {
        let Some(pixels) = &mut self.pixels else {
            return Ok(None);
        };
        let readers = self.readers.iter().map(|one| one.index);
        let slot = self.writer.begin(&mut pixels.slots, readers)?;
        Ok(Some((slot, slot as u64 * pixels.slot_bytes)))
    }

    /// Marks a slot of a device's memory: the guest is going to draw there, or has drawn the
    /// next frame there.
    ///
    /// # Errors
    /// [`OutletError::Link`].
    pub fn begin_in(&mut self, slot: usize) -> Result<(), OutletError> {
        Ok(self.writer.begin_in(slot)?)
    }

    /// Announces the frame whose pixels are in the slot that was begun; all but its serial and
    /// `acknowledged_nanos` is the caller's. `progress` rows are there (see [`Outlet::progress`]).
    ///
    /// # Errors
    /// [`OutletError`]; nothing was announced then.
    pub fn publish(&mut self, frame: &Frame, progress: u32) -> Result<u64, OutletError> {
        let Some(pixels) = &mut self.pixels else {
            return Err(OutletError::TooSmall {
                size: 0,
                needed: frame.place.length(),
            });
        };
        let frame = Frame {
            place: Place {
                region: pixels.region,
                ..frame.place
            },
            acknowledged_nanos: self.acknowledged_nanos,
            ..*frame
        };
        frame.place.check(pixels.size)?;
        let serial = self.writer.publish(&mut pixels.slots, &frame, progress)?;
        self.writer.set_state(SourceState::Live)?;
        self.fresh = false;
        self.shows_pointer = frame.has_pointer;
        self.announced = Some(Instant::now());
        self.acknowledged_nanos = 0;
        Ok(serial)
    }

    /// Says how many rows of the newest frame are there.
    ///
    /// # Errors
    /// [`OutletError::Link`].
    pub fn progress(&self, rows: u32) -> Result<(), OutletError> {
        Ok(self.writer.progress(rows)?)
    }

    /// The next frame is wanted at once and whole: the mode has changed. No slot holds a picture
    /// to go on from.
    pub fn refresh(&mut self) {
        self.fresh = true;
        if let Some(pixels) = &mut self.pixels {
            pixels.slots.forget();
        }
    }

    /// Says what the source is doing.
    ///
    /// # Errors
    /// [`OutletError::Link`].
    pub fn set_state(&self, state: SourceState) -> Result<(), OutletError> {
        Ok(self.writer.set_state(state)?)
    }
}
