//! A host's end: which frame is the newest, what has changed since the last one that was
//! taken in, and whether a copy of it is whole. It refuses whatever no source writes, and waits
//! for none.

use vmshm_shm::SharedMemory;

use super::record::Frame;
use super::writer::Wants;
use super::{
    ACK_AT, BEAT_AT, COPYING_AT, Damage, FRAMES_SIZE, LAYOUT, LAYOUT_AT, MAGIC, MAGIC_AT,
    MAX_PIXEL_SLOTS, NEWEST_AT, OPENED_AT, READERS, RECORDS, STATE_AT, SourceState, WANTS_AT,
    reader_at, slot_at,
};
use crate::error::LinkError;
use crate::own_word::{FARTHEST, OwnWord};

/// How often a record that is being overwritten is looked for again in one look.
const TRIES: usize = 8;

/// What the source says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReaderState {
    /// The newest frame; zero: none yet.
    pub newest: u64,
    /// What the source is doing.
    pub source: SourceState,
}

/// A newer frame than the one taken in last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// The newest frame.
    pub frame: Frame,
    /// What has changed since the last one that was [`taken in`](FrameReader::acknowledge);
    /// nothing: all of it, since that one is too long ago, or in another size.
    pub damage: Option<Damage>,
    /// How many frames lie between them.
    pub skipped: u64,
}

/// A reader's end of a frames region.
#[derive(Debug)]
pub struct FrameReader<M> {
    memory: M,
    line: u64,
    /// A source has laid the region out.
    laid_out: bool,
    taken: u64,
    taken_size: (u32, u32),
    acknowledged: OwnWord,
    beat: OwnWord,
}

impl<M: SharedMemory> FrameReader<M> {
    /// Reads as reader number `reader`: the index of this process's session slot.
    ///
    /// A region whose source has not come yet, all zeros, is one without frames.
    ///
    /// # Errors
    /// [`LinkError`] when the memory is no frames region, or too small.
    pub fn new(memory: M, reader: usize, wants: Wants) -> Result<Self, LinkError> {
        let violation = |what, value| LinkError::Violation { what, value };
        if memory.size() < FRAMES_SIZE {
            return Err(violation("the size of a screen's frames", memory.size()));
        }
        if reader >= READERS {
            return Err(violation("a reader's index", reader as u64));
        }
        let laid_out = is_laid_out(&memory)?;
        let line = reader_at(reader);
        memory.store_relaxed(line + COPYING_AT, 0)?;
        memory.store_relaxed(line + WANTS_AT, wants.to_word())?;
        let reader = Self {
            line,
            laid_out,
            taken: 0,
            taken_size: (0, 0),
            acknowledged: OwnWord::start(&memory, line + ACK_AT, 0, "acknowledged frame")?,
            beat: OwnWord::start(&memory, line + BEAT_AT, 1, "reader's beat")?,
            memory,
        };
        let opened = reader.memory.load_relaxed(line + OPENED_AT)?;
        // release: frames-opened
        let memory = &reader.memory;
        memory.store_release(line + OPENED_AT, opened.wrapping_add(1))?;
        Ok(reader)
    }

    /// What the source says now: two loads.
    ///
    /// # Errors
    /// [`LinkError::Fault`]; [`LinkError::RolledBack`] when the newest frame is older than one
    /// that was taken in; [`LinkError::Violation`] for a number that no frame has.
    pub fn state(&self) -> Result<ReaderState, LinkError> {
        if !self.laid_out && !is_laid_out(&self.memory)? {
            return Ok(ReaderState {
                newest: 0,
                source: SourceState::Starting,
            });
        }
        // acquire: frames-newest
        let newest = self.memory.load_acquire(NEWEST_AT)?;
        if newest > FARTHEST {
            return Err(LinkError::Violation {
                what: "the newest frame",
                value: newest,
            });
        }
        if newest < self.taken {
            return Err(LinkError::RolledBack {
                what: "newest frame",
                written: self.taken,
                found: newest,
            });
        }
        let source = SourceState::from_word(self.memory.load_relaxed(STATE_AT)?);
        Ok(ReaderState { newest, source })
    }

    /// Says that this reader lives; a few times a second.
    ///
    /// # Errors
    /// As [`OwnWord::verify`].
    pub fn beat(&mut self) -> Result<(), LinkError> {
        let next = self.beat.get() + 1;
        self.beat.set(&self.memory, next)
    }

    /// The newest frame, if it is newer than the one taken in last, and its slot has not been
    /// begun again. Marks it as being copied until [`acknowledge`](Self::acknowledge) or
    /// [`let_go`](Self::let_go).
    ///
    /// Whether its [`place`](Frame::place) lies in the region that it names, is for the caller
    /// to [`check`](super::Place::check).
    ///
    /// # Errors
    /// [`LinkError::Violation`] for a record that no source writes; as [`state`](Self::state).
    pub fn look(&mut self) -> Result<Option<Look>, LinkError> {
        let mut tried = 0;
        for _ in 0..TRIES {
            let newest = self.state()?.newest;
            if newest == self.taken {
                return Ok(None);
            }
            if newest == tried {
                break;
            }
            tried = newest;
            self.laid_out = true;
            self.memory.store_relaxed(self.line + COPYING_AT, newest)?;
            let frame = Frame::read(newest, &self.memory)?;
            if let Some(frame) = frame
                && self.is_whole(&frame)?
            {
                let damage = self.damage_since_taken(&frame)?;
                return Ok(Some(Look {
                    frame,
                    damage,
                    skipped: newest - self.taken - 1,
                }));
            }
            core::hint::spin_loop();
        }
        // The writer is faster than we look, or the newest frame's slot was begun again or voided:
        // the next one will be seen.
        self.let_go()?;
        Ok(None)
    }

    fn damage_since_taken(&self, frame: &Frame) -> Result<Option<Damage>, LinkError> {
        let size = (frame.place.width, frame.place.height);
        let behind = frame.serial - self.taken;
        if self.taken == 0 || behind > RECORDS / 2 || size != self.taken_size {
            return Ok(None);
        }
        let mut damage = frame.damage;
        for serial in self.taken + 1..frame.serial {
            match Frame::read(serial, &self.memory)? {
                Some(between) if (between.place.width, between.place.height) == size => {
                    damage.add_all(&between.damage);
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(damage))
    }

    /// How many rows of a frame are there; its height when all are. A source that has died
    /// finishes nothing: waiting for more has to end.
    ///
    /// # Errors
    /// [`LinkError::Fault`].
    pub fn progress(&self, frame: &Frame) -> Result<u32, LinkError> {
        Frame::progress(frame.serial, &self.memory, frame.place.height)
    }

    /// Whether what was copied of this frame until now is whole: its slot has not been begun
    /// again. Always so for a frame of [live scanout](Frame::is_live_scanout).
    ///
    /// # Errors
    /// [`LinkError::Fault`].
    pub fn is_whole(&self, frame: &Frame) -> Result<bool, LinkError> {
        if frame.is_live_scanout {
            return Ok(true);
        }
        // The copies come before this look.
        self.memory.order_loads();
        let slot = frame.place.slot.min(MAX_PIXEL_SLOTS - 1);
        Ok(self.memory.load_relaxed(slot_at(slot))? == frame.serial)
    }

    /// Says that a frame has been taken in: its pixels are not needed any more, and the next
    /// damage counts from it.
    ///
    /// # Errors
    /// As [`OwnWord::verify`].
    pub fn acknowledge(&mut self, frame: &Frame) -> Result<(), LinkError> {
        self.taken = frame.serial;
        self.taken_size = (frame.place.width, frame.place.height);
        self.memory.store_relaxed(self.line + COPYING_AT, 0)?;
        // release: frames-ack
        self.acknowledged.publish(&self.memory, frame.serial)
    }

    /// Says that no frame is being copied; the last one taken in stays so.
    ///
    /// # Errors
    /// [`LinkError::Fault`].
    pub fn let_go(&mut self) -> Result<(), LinkError> {
        Ok(self.memory.store_relaxed(self.line + COPYING_AT, 0)?)
    }

    /// The next damage is all of the picture: what was taken in is lost.
    pub fn forget(&mut self) {
        self.taken_size = (0, 0);
    }
}

/// Whether a source has laid the region out; nothing but zeros may lie there before that.
fn is_laid_out<M: SharedMemory>(memory: &M) -> Result<bool, LinkError> {
    let violation = |what, value| Err(LinkError::Violation { what, value });
    // acquire: frames-layout
    match memory.load_acquire(MAGIC_AT)? {
        0 => Ok(false),
        MAGIC => match memory.load_relaxed(LAYOUT_AT)? {
            LAYOUT => Ok(true),
            other => violation("the layout of a screen's frames", other),
        },
        other => violation("the first word of a screen's frames", other),
    }
}
