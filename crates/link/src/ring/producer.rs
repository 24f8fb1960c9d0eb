//! The writing end of a ring of variable records: staged, reserved in place, published. It
//! refuses records that could never fit and the kind that marks padding.

use vmshm_shm::SharedMemory;

use super::{HEADER, PADDING, RingLayout, check_position, footprint};
use crate::error::LinkError;
use crate::own_word::OwnWord;

/// Records up to this many bytes, header included, are written by one copy.
const SMALL: usize = 128;

#[inline]
const fn join_header(length: u64, kind: u16) -> u64 {
    (length & 0xffff_ffff) | (kind as u64) << 32
}

const fn check_kind(kind: u16) -> Result<(), LinkError> {
    if kind == PADDING {
        return Err(LinkError::Violation {
            what: "the kind of a record to be written",
            value: PADDING as u64,
        });
    }
    Ok(())
}

/// The writing end.
#[derive(Debug)]
pub struct Producer<M> {
    memory: M,
    layout: RingLayout,
    /// Everything staged, published or not.
    staged: u64,
    tail: OwnWord,
    head_seen: u64,
}

impl<M: SharedMemory> Producer<M> {
    /// Starts an empty ring; both ends must start before either is used.
    ///
    /// # Errors
    /// [`LinkError`] when the layout does not fit the memory.
    pub fn start(memory: M, layout: RingLayout) -> Result<Self, LinkError> {
        layout.check(&memory)?;
        let tail = OwnWord::start(&memory, layout.tail, 0, "ring's tail")?;
        Ok(Self {
            memory,
            layout,
            staged: 0,
            tail,
            head_seen: 0,
        })
    }

    /// Goes on where the producer before this one stopped; all zero is an empty ring. What
    /// that one staged and did not publish was never written.
    ///
    /// # Errors
    /// [`LinkError::Violation`] when the layout does not fit the memory, or the words are
    /// not those of a ring.
    pub fn resume(memory: M, layout: RingLayout) -> Result<Self, LinkError> {
        layout.check(&memory)?;
        let tail = OwnWord::resume(&memory, layout.tail, "ring's tail")?;
        check_position(tail.get(), "the ring's tail")?;
        let mut producer = Self {
            memory,
            layout,
            staged: tail.get(),
            tail,
            // Every head that the tail allows is a step forward from here.
            head_seen: tail.get().saturating_sub(layout.capacity),
        };
        producer.look_at_head()?;
        Ok(producer)
    }

    /// Makes room for a record of `length` payload bytes, and gives its place, or
    /// nothing while the ring is too full. Nothing is visible to the consumer before
    /// [`Reservation::commit`] and [`Producer::publish`].
    ///
    /// # Errors
    /// [`LinkError::TooLong`] for a record that could never fit; else what the peer
    /// or the memory did.
    #[inline]
    pub fn reserve(&mut self, length: u64) -> Result<Option<Reservation<'_, M>>, LinkError> {
        let limit = self.layout.longest_record();
        if length > limit {
            return Err(LinkError::TooLong { length, limit });
        }
        let need = footprint(length);
        let (_, run) = self.layout.run_at(self.staged);
        let padding = if run < need { run } else { 0 };
        if !self.has_room(padding + need)? {
            return Ok(None);
        }
        if padding > 0 {
            let (at, _) = self.layout.run_at(self.staged);
            self.memory
                .store_relaxed(at, join_header(padding - HEADER, PADDING))?;
            self.staged += padding;
        }
        Ok(Some(Reservation {
            producer: self,
            length,
        }))
    }

    #[inline]
    fn has_room(&mut self, need: u64) -> Result<bool, LinkError> {
        if self.staged - self.head_seen + need <= self.layout.capacity {
            return Ok(true);
        }
        self.look_at_head()?;
        Ok(self.staged - self.head_seen + need <= self.layout.capacity)
    }

    /// Loads the consumer's word; nothing of it is used before it is checked.
    fn look_at_head(&mut self) -> Result<(), LinkError> {
        self.tail.verify(&self.memory)?;
        // acquire: ring-head
        let head = self.memory.load_acquire(self.layout.head)?;
        if head < self.head_seen || head > self.tail.get() || !head.is_multiple_of(8) {
            return Err(LinkError::Violation {
                what: "the ring's head",
                value: head,
            });
        }
        self.head_seen = head;
        Ok(())
    }

    /// Writes a record that becomes visible with the next [`Producer::publish`];
    /// `false` while the ring is too full.
    ///
    /// # Errors
    /// As [`Producer::reserve`].
    #[inline]
    pub fn try_stage(&mut self, kind: u16, payload: &[u8]) -> Result<bool, LinkError> {
        // A waiting consumer has taken the tail's line, which is looked at and written at
        // the end: it comes back while the payload is written.
        self.memory.prefetch_to_write(self.layout.tail);
        let Some(mut room) = self.reserve(payload.len() as u64)? else {
            return Ok(false);
        };
        room.fill_and_commit(kind, payload)?;
        Ok(true)
    }

    /// Makes all staged records visible.
    ///
    /// # Errors
    /// [`LinkError::Fault`] when the memory cannot be reached, and
    /// [`LinkError::RolledBack`], with nothing made visible.
    #[inline]
    pub fn publish(&mut self) -> Result<(), LinkError> {
        if self.staged != self.tail.get() {
            // release: ring-tail
            self.tail.publish(&self.memory, self.staged)?;
        }
        Ok(())
    }

    /// Writes one record and makes it visible; `false` while the ring is too full.
    ///
    /// # Errors
    /// As [`Producer::reserve`].
    #[inline]
    pub fn try_push(&mut self, kind: u16, payload: &[u8]) -> Result<bool, LinkError> {
        let pushed = self.try_stage(kind, payload)?;
        self.publish()?;
        Ok(pushed)
    }

    /// Whether the consumer has taken everything that was published.
    ///
    /// # Errors
    /// What the peer or the memory did.
    pub fn is_drained(&mut self) -> Result<bool, LinkError> {
        self.look_at_head()?;
        Ok(self.head_seen == self.tail.get())
    }

    /// Checks that this side's word still holds what it wrote.
    ///
    /// # Errors
    /// [`LinkError::RolledBack`] when it does not.
    #[inline]
    pub fn verify(&self) -> Result<(), LinkError> {
        self.tail.verify(&self.memory)
    }

    /// Where the ring lies.
    #[must_use]
    pub const fn layout(&self) -> &RingLayout {
        &self.layout
    }
}

/// Room for one record, written in place and then committed.
#[derive(Debug)]
#[must_use = "a reservation that is dropped leaves no record"]
pub struct Reservation<'a, M> {
    producer: &'a mut Producer<M>,
    length: u64,
}

impl<M: SharedMemory> Reservation<'_, M> {
    /// Writes `bytes` at `offset` of the payload.
    ///
    /// # Errors
    /// [`LinkError::TooLong`] when they do not lie inside the reservation.
    #[inline]
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), LinkError> {
        let length = bytes.len() as u64;
        match offset.checked_add(length) {
            Some(end) if end <= self.length => {}
            _ => {
                return Err(LinkError::TooLong {
                    length,
                    limit: self.length.saturating_sub(offset),
                });
            }
        }
        let (at, _) = self.producer.layout.run_at(self.producer.staged);
        Ok(self.producer.memory.write(at + HEADER + offset, bytes)?)
    }

    /// Stages the record with its first `length` payload bytes (at most as many as
    /// were reserved).
    ///
    /// # Errors
    /// [`LinkError::TooLong`] when more than reserved is committed,
    /// [`LinkError::Violation`] for the kind [`PADDING`].
    #[inline]
    pub fn commit(self, kind: u16, length: u64) -> Result<(), LinkError> {
        check_kind(kind)?;
        if length > self.length {
            return Err(LinkError::TooLong {
                length,
                limit: self.length,
            });
        }
        let producer = self.producer;
        let (at, _) = producer.layout.run_at(producer.staged);
        producer
            .memory
            .store_relaxed(at, join_header(length, kind))?;
        producer.staged += footprint(length);
        Ok(())
    }

    /// Header and payload by one copy where they are short, by two otherwise.
    #[inline]
    fn fill_and_commit(&mut self, kind: u16, payload: &[u8]) -> Result<(), LinkError> {
        check_kind(kind)?;
        let producer = &mut *self.producer;
        let (at, _) = producer.layout.run_at(producer.staged);
        let header = join_header(self.length, kind).to_le_bytes();
        let whole = payload.len() + header.len();
        if whole <= SMALL && producer.memory.is_costly() {
            let mut record = [0_u8; SMALL];
            record[..8].copy_from_slice(&header);
            record[8..whole].copy_from_slice(payload);
            producer.memory.write(at, &record[..whole])?;
        } else {
            producer.memory.write(at, &header)?;
            producer.memory.write(at + HEADER, payload)?;
        }
        producer.staged += footprint(self.length);
        Ok(())
    }
}
