//! The source's end: choosing a pixel slot, announcing frames, looking at readers. It refuses a
//! region in which something else lies, and waits for no reader.

use vmshm_shm::SharedMemory;

use super::geometry::PixelFormat;
use super::record::{Frame, Place};
use super::{
    ACK_AT, BEAT_AT, COPYING_AT, Damage, FRAMES_SIZE, LAYOUT, LAYOUT_AT, MAGIC, MAGIC_AT,
    MAX_PIXEL_SLOTS, NEWEST_AT, OPENED_AT, READERS, STATE_AT, SourceState, WANTS_AT, reader_at,
    slot_at,
};
use crate::error::LinkError;
use crate::own_word::OwnWord;

/// What a reader asks of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wants {
    /// Frames without the guest's pointer in them.
    pub no_pointer: bool,
}

impl Wants {
    pub(super) const fn to_word(self) -> u64 {
        self.no_pointer as u64
    }

    const fn from_word(word: u64) -> Self {
        Self {
            no_pointer: word & 1 == 1,
        }
    }
}

/// What a reader says of itself. Every number is its own choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReaderLine {
    /// The newest frame that it has taken in.
    pub acknowledged: u64,
    /// The frame that it is copying; zero for none.
    pub copying: u64,
    /// Changes while it lives.
    pub beat: u64,
    /// What it asks for.
    pub wants: Wants,
    /// Changes whenever a reader opens this line.
    pub opened: u64,
}

/// The pixels region that frames are written into now, and what each slot holds.
#[derive(Debug, Clone, Copy)]
pub struct PixelSlots {
    /// How many slots there are, 1 to [`MAX_PIXEL_SLOTS`].
    count: usize,
    /// The frame in each.
    serials: [u64; MAX_PIXEL_SLOTS],
    /// What has changed on the screen since then; nothing: it holds no picture to go on from.
    stale: [Option<Damage>; MAX_PIXEL_SLOTS],
    /// Where a frame was begun and not announced yet.
    begun: Option<usize>,
    /// The newest picture's size, stride and layout.
    shape: Option<(u32, u32, u32, PixelFormat)>,
}

impl PixelSlots {
    /// Slots of a new region: none holds anything yet.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self {
            count: count.clamp(1, MAX_PIXEL_SLOTS),
            serials: [0; MAX_PIXEL_SLOTS],
            stale: [None; MAX_PIXEL_SLOTS],
            begun: None,
            shape: None,
        }
    }

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// What differs between the picture in this slot and the newest one; nothing: all of it.
    #[must_use]
    pub fn stale(&self, slot: usize) -> Option<Damage> {
        self.stale.get(slot).copied().flatten()
    }

    /// No slot holds a picture to go on from: the next ones have another size, or are of
    /// something else.
    pub fn forget(&mut self) {
        self.stale = [None; MAX_PIXEL_SLOTS];
    }

    /// Notes that pixels of `slot` are going to be written. A slot that was begun before and
    /// given up may hold parts of a picture that was never announced.
    fn begin(&mut self, slot: usize) {
        if let Some(stale) = self
            .begun
            .replace(slot)
            .and_then(|given_up| self.stale.get_mut(given_up))
        {
            *stale = None;
        }
    }

    /// Notes that the slot holds this frame.
    fn wrote(&mut self, frame: &Frame) {
        let place = &frame.place;
        let shape = Some((place.width, place.height, place.stride, place.format));
        if self.shape != shape {
            self.forget();
            self.shape = shape;
        }
        if self.begun.is_some_and(|begun| begun != place.slot) {
            self.begin(place.slot);
        }
        self.begun = None;
        for stale in self.stale.iter_mut().flatten() {
            stale.add_all(&frame.damage);
        }
        if let Some(own) = self.serials.get_mut(place.slot) {
            *own = frame.serial;
            self.stale[place.slot] = Some(Damage::none());
        }
    }
}

/// The source's end of a frames region.
#[derive(Debug)]
pub struct FrameWriter<M> {
    memory: M,
    newest: OwnWord,
    /// The slot that is marked for the next frame.
    begun: Option<usize>,
    /// The size of this source's newest frame.
    size: Option<(u32, u32)>,
}

impl<M: SharedMemory> FrameWriter<M> {
    /// Lays a new region (of zeros) out, or goes on where the source before this one stopped:
    /// serials go on, and no reader takes the pixels of what it had announced or begun for whole
    /// any more.
    ///
    /// # Errors
    /// [`LinkError`] when the memory is too small or holds something else; nothing was written
    /// then.
    pub fn resume(memory: M) -> Result<Self, LinkError> {
        if memory.size() < FRAMES_SIZE {
            return Err(LinkError::TooSmall {
                what: "a screen's frames",
                size: memory.size(),
                needed: FRAMES_SIZE,
            });
        }
        let magic = memory.load_relaxed(MAGIC_AT)?;
        if magic != 0 && magic != MAGIC {
            return Err(LinkError::Violation {
                what: "the first word of a screen's frames",
                value: magic,
            });
        }
        let newest = OwnWord::resume(&memory, NEWEST_AT, "newest frame")?;
        let mut writer = Self {
            memory,
            newest,
            begun: None,
            size: None,
        };
        writer.void_slots()?;
        writer.memory.store_relaxed(LAYOUT_AT, LAYOUT)?;
        // release: frames-layout
        writer.memory.store_release(MAGIC_AT, MAGIC)?;
        Ok(writer)
    }

    /// No frame until now is whole any more for readers: before slots are laid out anew in the
    /// same region, or when the pixels are gone. Pixels may be written anywhere afterwards.
    ///
    /// # Errors
    /// [`LinkError::Fault`].
    pub fn void_slots(&mut self) -> Result<(), LinkError> {
        for slot in 0..MAX_PIXEL_SLOTS {
            self.memory.store_relaxed(slot_at(slot), 0)?;
        }
        // As in `begin_in`.
        self.memory.order_stores();
        self.begun = None;
        Ok(())
    }

    /// The serial of the newest frame; zero: none yet.
    #[must_use]
    pub const fn newest(&self) -> u64 {
        self.newest.get()
    }

    /// Says what the source is doing.
    ///
    /// # Errors
    /// [`LinkError::Fault`].
    pub fn set_state(&self, state: SourceState) -> Result<(), LinkError> {
        Ok(self.memory.store_relaxed(STATE_AT, state.to_word())?)
    }

    /// What a reader says of itself.
    ///
    /// # Errors
    /// [`LinkError::Fault`]; [`LinkError::Violation`] for an index beyond [`READERS`].
    pub fn reader(&self, reader: usize) -> Result<ReaderLine, LinkError> {
        if reader >= READERS {
            return Err(LinkError::Violation {
                what: "a reader's index",
                value: reader as u64,
            });
        }
        let at = reader_at(reader);
        // What a reader wants stands there before it says that it has opened its line.
        // acquire: frames-opened
        let opened = self.memory.load_acquire(at + OPENED_AT)?;
        Ok(ReaderLine {
            opened,
            // acquire: frames-ack
            acknowledged: self.memory.load_acquire(at + ACK_AT)?,
            copying: self.memory.load_relaxed(at + COPYING_AT)?,
            beat: self.memory.load_relaxed(at + BEAT_AT)?,
            wants: Wants::from_word(self.memory.load_relaxed(at + WANTS_AT)?),
        })
    }

    /// Chooses the slot for the next frame: never the newest frame's where there is another, and
    /// one that none of `readers` says to be copying if there is one. Marks it, so that whoever
    /// copies from it knows. From now on pixels may be written there: where
    /// [`PixelSlots::stale`] says so and where this frame differs from the newest one.
    ///
    /// A frame that was begun and not announced is given up by this.
    ///
    /// # Errors
    /// [`LinkError::Fault`].
    pub fn begin(
        &mut self,
        slots: &mut PixelSlots,
        readers: impl Iterator<Item = usize>,
    ) -> Result<usize, LinkError> {
        let mut copied = [false; MAX_PIXEL_SLOTS];
        for reader in readers {
            let copying = self.reader(reader)?.copying;
            for slot in (0..slots.count).filter(|slot| slots.serials[*slot] == copying) {
                copied[slot] |= copying != 0;
            }
        }
        let newest = self.newest.get();
        let rank = |slot: &usize| {
            let serial = slots.serials[*slot];
            (serial == newest && newest != 0, copied[*slot], serial)
        };
        let slot = (0..slots.count).min_by_key(rank).unwrap_or(0);
        self.begin_in(slot)?;
        slots.begin(slot);
        Ok(slot)
    }

    /// Marks `slot` for the next frame, for whoever does not choose: a device that draws where it
    /// draws.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn begin_in(&mut self, slot: usize) -> Result<(), LinkError> {
        if slot >= MAX_PIXEL_SLOTS {
            return Err(LinkError::Violation {
                what: "a pixel slot",
                value: slot as u64,
            });
        }
        self.newest.verify(&self.memory)?;
        let serial = self.newest.get() + 1;
        self.memory.store_relaxed(slot_at(slot), serial)?;
        // Whoever sees a pixel of the new picture sees the new mark, too.
        self.memory.order_stores();
        self.begun = Some(slot);
        Ok(())
    }

    /// Announces the frame that was begun; `frame.serial` is set by this call and returned.
    /// Only `progress` rows need to be there; see [`FrameWriter::progress`]. Damage beyond the
    /// picture is cut off; the first frame of this source and one of another size than the last
    /// is damaged as a whole.
    ///
    /// # Errors
    /// [`LinkError`]; nothing was announced then.
    pub fn publish(
        &mut self,
        slots: &mut PixelSlots,
        frame: &Frame,
        progress: u32,
    ) -> Result<u64, LinkError> {
        let serial = self.newest.get() + 1;
        let slot = frame.place.slot;
        if self.begun != Some(slot) {
            self.begin_in(slot)?;
        }
        let (width, height) = (frame.place.width, frame.place.height);
        let damage = if self.size == Some((width, height)) {
            frame.damage.clipped(width, height)
        } else {
            Damage::whole(width, height)
        };
        let frame = Frame {
            serial,
            damage,
            ..*frame
        };
        frame.write(&self.memory, progress)?;
        // release: frames-newest
        self.newest.publish(&self.memory, serial)?;
        self.begun = None;
        self.size = Some((width, height));
        slots.wrote(&frame);
        Ok(serial)
    }

    /// Says how many rows of the newest frame are there. Whoever cannot finish it must
    /// [void it](FrameWriter::void_slots) before beginning another.
    ///
    /// # Errors
    /// [`LinkError::Fault`].
    pub fn progress(&self, rows: u32) -> Result<(), LinkError> {
        Frame::set_progress(self.newest.get(), &self.memory, rows)
    }

    /// A place in packed rows, for slot `slot` of a region whose slots are `slot_bytes` apart.
    #[must_use]
    pub const fn packed(place: Place, slot_bytes: u64) -> Place {
        Place {
            offset: place.slot as u64 * slot_bytes,
            stride: place.width * 4,
            ..place
        }
    }
}
