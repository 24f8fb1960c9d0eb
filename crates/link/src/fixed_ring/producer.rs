//! The writing end of a ring of records of one size: alone or many by one publication. It
//! refuses bytes that are not whole records.

use vmshm_shm::SharedMemory;

use super::{FixedRingLayout, GATHERED, whole};
use crate::error::LinkError;
use crate::own_word::OwnWord;

/// The writing end.
#[derive(Debug)]
pub struct FixedProducer<M> {
    memory: M,
    layout: FixedRingLayout,
    tail: OwnWord,
    guard: OwnWord,
    head_seen: u64,
}

impl<M: SharedMemory> FixedProducer<M> {
    /// Goes on where the producer before this one stopped; all zero is an empty ring.
    ///
    /// # Errors
    /// [`LinkError::Violation`] when the layout does not fit the memory, or the words are
    /// not those of a ring.
    pub fn resume(memory: M, layout: FixedRingLayout) -> Result<Self, LinkError> {
        layout.check(&memory)?;
        let tail = OwnWord::resume(&memory, layout.tail, "ring's tail")?;
        let guard = OwnWord::resume(&memory, layout.producer_guard, "producer's guard")?;
        let mut producer = Self {
            memory,
            layout,
            tail,
            guard,
            // Every head that the tail allows is a step forward from here.
            head_seen: tail.get().saturating_sub(layout.capacity),
        };
        producer.look_at_head()?;
        Ok(producer)
    }

    /// Loads the consumer's word; nothing of it is used before it is checked.
    #[cold]
    #[inline(never)]
    fn look_at_head(&mut self) -> Result<(), LinkError> {
        self.tail.verify(&self.memory)?;
        // acquire: fixed-ring-head
        let head = self.memory.load_acquire(self.layout.head)?;
        if head < self.head_seen || head > self.tail.get() {
            return Err(LinkError::Violation {
                what: "the ring's head",
                value: head,
            });
        }
        self.head_seen = head;
        Ok(())
    }

    /// Records that can be written now; looks at the head where `wanted` do not fit what
    /// is known.
    #[inline(always)]
    fn room(&mut self, wanted: u64) -> Result<u64, LinkError> {
        let known = self.layout.capacity - (self.tail.get() - self.head_seen);
        if wanted <= known {
            return Ok(known);
        }
        self.look_at_head()?;
        Ok(self.layout.capacity - (self.tail.get() - self.head_seen))
    }

    /// Writes one record and makes it visible; `false` while the ring is full.
    ///
    /// # Errors
    /// [`LinkError::NotWhole`] for bytes that are not one record; else what the peer or
    /// the memory did.
    #[inline(always)]
    pub fn try_push(&mut self, record: &[u8]) -> Result<bool, LinkError> {
        self.layout.check_one(record.len())?;
        if self.room(1)? == 0 {
            return Ok(false);
        }
        self.guard.verify(&self.memory)?;
        let tail = self.tail.get();
        let at = self.layout.place(tail);
        if let Ok(word) = <[u8; 8]>::try_from(record) {
            self.memory.store_relaxed(at, u64::from_ne_bytes(word))?;
        } else {
            self.memory.write(at, record)?;
        }
        self.publish(tail + 1)?;
        Ok(true)
    }

    /// Writes as many of the `records`, one behind the other, as there is room for, and
    /// makes them visible by one publication. Says how many records these were.
    ///
    /// # Errors
    /// [`LinkError::NotWhole`] for bytes that are not whole records; else what the peer or
    /// the memory did, with nothing made visible.
    #[inline]
    pub fn try_push_all(&mut self, records: &[u8]) -> Result<usize, LinkError> {
        let wanted = self.layout.count(records.len())?;
        let count = wanted.min(self.room(wanted)?);
        if count == 0 {
            return Ok(0);
        }
        self.guard.verify(&self.memory)?;
        let tail = self.tail.get();
        let first = count.min(self.layout.run(tail));
        let (before, behind) = records.split_at(self.layout.bytes(first));
        self.write(tail, before)?;
        if count > first {
            let (behind, _) = behind.split_at(self.layout.bytes(count - first));
            self.write(tail + first, behind)?;
        }
        self.publish(tail + count)?;
        Ok(whole(count))
    }

    /// Makes everything before `tail` visible.
    #[inline(always)]
    fn publish(&mut self, tail: u64) -> Result<(), LinkError> {
        // Once more, since a copy takes its time: what follows wipes out the trace.
        self.guard.verify(&self.memory)?;
        self.guard.step(&self.memory)?;
        // release: fixed-ring-tail
        self.tail.replace(&self.memory, tail)
    }

    /// Writes whole records that lie one behind the other, from `position` on.
    #[inline]
    fn write(&self, position: u64, records: &[u8]) -> Result<(), LinkError> {
        let at = self.layout.place(position);
        if self.layout.stride == self.layout.record {
            return Ok(self.memory.write(at, records)?);
        }
        self.write_apart(at, records)
    }

    /// As [`FixedProducer::write`], with gaps between the records.
    fn write_apart(&self, mut at: u64, records: &[u8]) -> Result<(), LinkError> {
        let (record, stride) = (self.layout.bytes(1), self.layout.stride);
        let gathered = GATHERED as u64 / stride;
        if !self.memory.is_costly() || gathered < 2 {
            for bytes in records.chunks(record) {
                self.memory.write(at, bytes)?;
                at += stride;
            }
            return Ok(());
        }
        let mut buffer = [0_u8; GATHERED];
        for group in records.chunks(self.layout.bytes(gathered)) {
            let mut end = 0;
            let mut next = 0;
            for bytes in group.chunks(record) {
                end = next + bytes.len();
                buffer[next..end].copy_from_slice(bytes);
                next += self.layout.stride_bytes();
            }
            self.memory.write(at, &buffer[..end])?;
            at += next as u64;
        }
        Ok(())
    }

    /// Whether the consumer has taken everything.
    ///
    /// # Errors
    /// What the peer or the memory did.
    pub fn is_drained(&mut self) -> Result<bool, LinkError> {
        Ok(self.room(self.layout.capacity)? == self.layout.capacity)
    }

    /// Checks that this side's words still hold what it wrote.
    ///
    /// # Errors
    /// [`LinkError::RolledBack`] when it does not.
    #[inline]
    pub fn verify(&self) -> Result<(), LinkError> {
        self.guard.verify(&self.memory)?;
        self.tail.verify(&self.memory)
    }

    /// Where the ring lies.
    #[must_use]
    pub const fn layout(&self) -> &FixedRingLayout {
        &self.layout
    }
}
