//! The reading end of a ring of records of one size. It hands out nothing that it has not
//! checked its guard for after the copy.

use vmshm_shm::SharedMemory;

use super::{FixedRingLayout, GATHERED, whole};
use crate::error::LinkError;
use crate::own_word::OwnWord;

/// The reading end.
#[derive(Debug)]
pub struct FixedConsumer<M> {
    memory: M,
    layout: FixedRingLayout,
    head: OwnWord,
    guard: OwnWord,
    tail_seen: u64,
}

#[cold]
#[inline(never)]
const fn wrong_tail(value: u64) -> LinkError {
    LinkError::Violation {
        what: "the ring's tail",
        value,
    }
}

impl<M: SharedMemory> FixedConsumer<M> {
    /// Goes on where the consumer before this one stopped; all zero is an empty ring.
    ///
    /// # Errors
    /// [`LinkError::Violation`] when the layout does not fit the memory, or the words are
    /// not those of a ring.
    pub fn resume(memory: M, layout: FixedRingLayout) -> Result<Self, LinkError> {
        layout.check(&memory)?;
        let head = OwnWord::resume(&memory, layout.head, "ring's head")?;
        let guard = OwnWord::resume(&memory, layout.consumer_guard, "consumer's guard")?;
        let mut consumer = Self {
            memory,
            layout,
            head,
            guard,
            tail_seen: head.get(),
        };
        consumer.look_at_tail()?;
        Ok(consumer)
    }

    /// Loads the producer's word; nothing of it is used before it is checked. The look is
    /// counted after the load, which is an acquire and so comes first.
    #[inline(always)]
    fn look_at_tail(&mut self) -> Result<(), LinkError> {
        // acquire: fixed-ring-tail
        let tail = self.memory.load_acquire(self.layout.tail)?;
        if tail == self.tail_seen {
            // A consumer that waits in vain must find out why, too.
            return self.guard.verify(&self.memory);
        }
        if tail < self.tail_seen || tail - self.head.get() > self.layout.capacity {
            return Err(wrong_tail(tail));
        }
        self.guard.verify(&self.memory)?;
        self.guard.step(&self.memory)?;
        self.tail_seen = tail;
        Ok(())
    }

    /// Records that can be taken now; looks at the tail where `wanted` are more than is
    /// known.
    #[inline(always)]
    fn available(&mut self, wanted: u64) -> Result<u64, LinkError> {
        let known = self.tail_seen - self.head.get();
        if wanted <= known {
            return Ok(known);
        }
        self.look_at_tail()?;
        Ok(self.tail_seen - self.head.get())
    }

    /// Gives `count` records back, whose copies nothing has come in between of.
    #[inline(always)]
    fn give_back(&mut self, count: u64) -> Result<(), LinkError> {
        self.memory.order_loads();
        self.guard.verify(&self.memory)?;
        self.guard.step(&self.memory)?;
        // release: fixed-ring-head
        self.head.replace(&self.memory, self.head.get() + count)
    }

    /// Takes one record; `false` while there is none.
    ///
    /// # Errors
    /// [`LinkError::NotWhole`] for room that is not that of one record; else what the peer
    /// or the memory did. What `into` holds after an error is no record.
    #[inline(always)]
    pub fn try_pop(&mut self, into: &mut [u8]) -> Result<bool, LinkError> {
        self.layout.check_one(into.len())?;
        if self.available(1)? == 0 {
            return Ok(false);
        }
        let at = self.layout.place(self.head.get());
        if let Ok(word) = <&mut [u8; 8]>::try_from(&mut *into) {
            *word = self.memory.load_relaxed(at)?.to_ne_bytes();
        } else {
            self.memory.read(at, into)?;
        }
        self.give_back(1)?;
        Ok(true)
    }

    /// Takes as many records as there are and as `into` has room for, and gives their room
    /// back by one store. Says how many there were.
    ///
    /// # Errors
    /// [`LinkError::NotWhole`] for room that is not that of whole records; else what the
    /// peer or the memory did. What `into` holds after an error is no record.
    #[inline]
    pub fn try_pop_all(&mut self, into: &mut [u8]) -> Result<usize, LinkError> {
        let wanted = self.layout.count(into.len())?;
        let count = wanted.min(self.available(wanted)?);
        if count == 0 {
            return Ok(0);
        }
        let head = self.head.get();
        let first = count.min(self.layout.run(head));
        let (before, behind) = into.split_at_mut(self.layout.bytes(first));
        self.read(head, before)?;
        if count > first {
            let (behind, _) = behind.split_at_mut(self.layout.bytes(count - first));
            self.read(head + first, behind)?;
        }
        self.give_back(count)?;
        Ok(whole(count))
    }

    /// Reads whole records that lie one behind the other, from `position` on.
    #[inline]
    fn read(&self, position: u64, into: &mut [u8]) -> Result<(), LinkError> {
        let at = self.layout.place(position);
        if self.layout.stride == self.layout.record {
            return Ok(self.memory.read(at, into)?);
        }
        self.read_apart(at, into)
    }

    /// As [`FixedConsumer::read`], with gaps between the records.
    fn read_apart(&self, mut at: u64, into: &mut [u8]) -> Result<(), LinkError> {
        let (record, stride) = (self.layout.bytes(1), self.layout.stride);
        let gathered = GATHERED as u64 / stride;
        if !self.memory.is_costly() || gathered < 2 {
            for bytes in into.chunks_mut(record) {
                self.memory.read(at, bytes)?;
                at += stride;
            }
            return Ok(());
        }
        let mut buffer = [0_u8; GATHERED];
        for group in into.chunks_mut(self.layout.bytes(gathered)) {
            let count = group.len() / record;
            let end = (count - 1) * self.layout.stride_bytes() + record;
            self.memory.read(at, &mut buffer[..end])?;
            let spread = buffer[..end].chunks(self.layout.stride_bytes());
            for (bytes, from) in group.chunks_mut(record).zip(spread) {
                bytes.copy_from_slice(&from[..record]);
            }
            at += count as u64 * stride;
        }
        Ok(())
    }

    /// Checks that this side's words still hold what it wrote.
    ///
    /// # Errors
    /// [`LinkError::RolledBack`] when it does not.
    #[inline]
    pub fn verify(&self) -> Result<(), LinkError> {
        self.guard.verify(&self.memory)?;
        self.head.verify(&self.memory)
    }

    /// Where the ring lies.
    #[must_use]
    pub const fn layout(&self) -> &FixedRingLayout {
        &self.layout
    }
}
