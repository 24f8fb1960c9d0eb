//! The source's end: choosing a pixel slot, announcing frames, looking at readers.

use vmshm_shm::SharedMemory;

use super::record::{Frame, Place};
use super::{
    ACK_AT, BEAT_AT, COPYING_AT, Damage, FRAMES_SIZE, LAYOUT, LAYOUT_AT, MAGIC, MAGIC_AT,
    MAX_PIXEL_SLOTS, NEWEST_AT, READERS, STATE_AT, SourceState, WANTS_AT, reader_at, slot_at,
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
}

/// The pixels region that frames are written into now, and what each slot holds.
#[derive(Debug, Clone, Copy)]
pub struct PixelSlots {
    /// How many slots there are, 1 to [`MAX_PIXEL_SLOTS`].
    count: usize,
    /// The frame in each.
    serials: [u64; MAX_PIXEL_SLOTS],
    /// What has changed on the screen since then.
    stale: [Option<Damage>; MAX_PIXEL_SLOTS],
}

impl PixelSlots {
    /// Slots of a new region: none holds anything yet.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self {
            count: count.clamp(1, MAX_PIXEL_SLOTS),
            serials: [0; MAX_PIXEL_SLOTS],
            stale: [None; MAX_PIXEL_SLOTS],
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

    /// Notes that `slot` holds frame `serial`, which changed `damage`.
    fn wrote(&mut self, slot: usize, serial: u64, damage: &Damage) {
        for stale in self.stale.iter_mut().flatten() {
            stale.add_all(damage);
        }
        if let Some(own) = self.serials.get_mut(slot) {
            *own = serial;
            self.stale[slot] = Some(Damage::none());
        }
    }
}

/// The source's end of a frames region.
#[derive(Debug)]
pub struct FrameWriter<M> {
    memory: M,
    newest: OwnWord,
    begun: Option<u64>,
}

impl<M: SharedMemory> FrameWriter<M> {
    /// Lays a new region out, or goes on where the source before this one stopped.
    ///
    /// # Errors
    /// [`LinkError`] when the memory is too small or holds something else.
    pub fn resume(memory: M) -> Result<Self, LinkError> {
        if memory.size() < FRAMES_SIZE {
            return Err(LinkError::TooSmall {
                what: "a screen's frames",
                size: memory.size(),
                needed: FRAMES_SIZE,
            });
        }
        memory.store_relaxed(LAYOUT_AT, LAYOUT)?;
        // release: frames-newest
        memory.store_release(MAGIC_AT, MAGIC)?;
        let newest = OwnWord::resume(&memory, NEWEST_AT, "newest frame")?;
        Ok(Self {
            memory,
            newest,
            begun: None,
        })
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
        Ok(ReaderLine {
            // acquire: frames-ack
            acknowledged: self.memory.load_acquire(at + ACK_AT)?,
            copying: self.memory.load_relaxed(at + COPYING_AT)?,
            beat: self.memory.load_relaxed(at + BEAT_AT)?,
            wants: Wants::from_word(self.memory.load_relaxed(at + WANTS_AT)?),
        })
    }

    /// Chooses the slot for the next frame: never the newest frame's where there is another, and
    /// one that none of `readers` says to be copying if there is one. Marks it, so that whoever
    /// copies from it knows. From now on pixels may be written there.
    ///
    /// # Errors
    /// [`LinkError::Fault`].
    pub fn begin(
        &mut self,
        slots: &PixelSlots,
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
        Ok(slot)
    }

    /// Marks `slot` for the next frame.
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
        // Whoever sees a pixel of the new picture sees the new mark, too: `frames-slot`.
        self.memory.order_stores();
        self.begun = Some(serial);
        Ok(())
    }

    /// Announces the frame that was begun; `frame.serial` is set by this call and returned.
    /// Only `progress` rows need to be there; see [`FrameWriter::progress`].
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
        if self.begun != Some(serial) {
            self.begin_in(slot)?;
        }
        let frame = Frame { serial, ..*frame };
        frame.write(&self.memory, progress)?;
        // release: frames-newest
        self.newest.publish(&self.memory, serial)?;
        self.begun = None;
        slots.wrote(slot, serial, &frame.damage);
        Ok(serial)
    }

    /// Says how many rows of the newest frame are there.
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
