//! The reading end of a ring of variable records. It refuses headers that no producer
//! writes, and hands out nothing that it has not checked its own word for after the copy.

use vmshm_shm::SharedMemory;

use super::{HEADER, PADDING, RingLayout, check_position, footprint};
use crate::error::LinkError;
use crate::own_word::OwnWord;

/// What a waiting consumer has the processor fetch of the next record, so that its first
/// lines travel together with the tail and not after it.
const AHEAD: u64 = 128;

#[allow(
    clippy::cast_possible_truncation,
    reason = "each field is masked to its width"
)]
#[inline]
const fn split_header(header: u64) -> (u64, u16) {
    (header & 0xffff_ffff, (header >> 32) as u16)
}

/// A record at the head of the ring, whose payload has not been taken yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The application's number for it.
    pub kind: u16,
    /// Payload bytes.
    pub length: u64,
}

/// The reading end.
#[derive(Debug)]
pub struct Consumer<M> {
    memory: M,
    layout: RingLayout,
    head: OwnWord,
    tail_seen: u64,
    /// Whether no record was released since the tail was looked at.
    unmoved: bool,
}

impl<M: SharedMemory> Consumer<M> {
    /// Starts an empty ring; both ends must start before either is used.
    ///
    /// # Errors
    /// [`LinkError`] when the layout does not fit the memory.
    pub fn start(memory: M, layout: RingLayout) -> Result<Self, LinkError> {
        layout.check(&memory)?;
        let head = OwnWord::start(&memory, layout.head, 0, "ring's head")?;
        Ok(Self {
            memory,
            layout,
            head,
            tail_seen: 0,
            unmoved: true,
        })
    }

    /// Goes on where the consumer before this one stopped; all zero is an empty ring. What
    /// that one did not release is read again.
    ///
    /// # Errors
    /// [`LinkError::Violation`] when the layout does not fit the memory, or the words are
    /// not those of a ring.
    pub fn resume(memory: M, layout: RingLayout) -> Result<Self, LinkError> {
        layout.check(&memory)?;
        let head = OwnWord::resume(&memory, layout.head, "ring's head")?;
        check_position(head.get(), "the ring's head")?;
        let mut consumer = Self {
            memory,
            layout,
            head,
            tail_seen: head.get(),
            unmoved: true,
        };
        consumer.look_at_tail()?;
        Ok(consumer)
    }

    /// The record at the head, or nothing while the ring is empty. The record stays
    /// until [`Consumer::release`].
    ///
    /// # Errors
    /// What the peer or the memory did.
    #[inline]
    pub fn peek(&mut self) -> Result<Option<Record>, LinkError> {
        loop {
            let head = self.head.get();
            if self.tail_seen == head && !self.look_at_tail()? {
                self.memory.prefetch(self.layout.run_at(head).0, AHEAD);
                return Ok(None);
            }
            let available = self.tail_seen - head;
            let (at, run) = self.layout.run_at(head);
            // Loaded once; only this private copy is used from here on.
            let header = self.memory.load_relaxed(at)?;
            let (length, kind) = split_header(header);
            let taken = footprint(length);
            // Less than half of the ring, up to its very end: so it cannot come twice
            // in a row, and this loop ends whatever the producer does meanwhile.
            let right_padding = taken == run && taken < self.layout.capacity / 2;
            let right = if kind == PADDING {
                right_padding
            } else {
                length <= self.layout.longest_record() && taken <= run
            };
            if header >> 48 != 0 || taken > available || !right {
                return Err(LinkError::Violation {
                    what: "a record's header",
                    value: header,
                });
            }
            if kind == PADDING {
                // release: ring-head
                self.head.publish(&self.memory, head + taken)?;
                continue;
            }
            return Ok(Some(Record { kind, length }));
        }
    }

    #[inline]
    fn look_at_tail(&mut self) -> Result<bool, LinkError> {
        self.head.verify(&self.memory)?;
        // acquire: ring-tail
        let tail = self.memory.load_acquire(self.layout.tail)?;
        let head = self.head.get();
        if tail < self.tail_seen || tail - head > self.layout.capacity || !tail.is_multiple_of(8) {
            return Err(LinkError::Violation {
                what: "the ring's tail",
                value: tail,
            });
        }
        self.tail_seen = tail;
        self.unmoved = true;
        Ok(tail != head)
    }

    /// Copies payload bytes of the peeked `record` from `offset` on into `into`, and
    /// says how many there were.
    ///
    /// # Errors
    /// What the peer or the memory did; what `into` holds then is not the payload.
    #[inline]
    pub fn read(&self, record: Record, offset: u64, into: &mut [u8]) -> Result<usize, LinkError> {
        let count = self.copy_out(record, offset, into)?;
        self.memory.order_loads();
        self.head.verify(&self.memory)?;
        if self.unmoved {
            self.check_tail()?;
        }
        Ok(count)
    }

    /// Checks that the tail has not gone back since it was looked at.
    #[inline]
    fn check_tail(&self) -> Result<(), LinkError> {
        let tail = self.memory.load_relaxed(self.layout.tail)?;
        if tail < self.tail_seen {
            return Err(LinkError::Violation {
                what: "the ring's tail",
                value: tail,
            });
        }
        Ok(())
    }

    #[inline]
    fn copy_out(&self, record: Record, offset: u64, into: &mut [u8]) -> Result<usize, LinkError> {
        let left = record.length.saturating_sub(offset);
        let count = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if count == 0 {
            return Ok(0);
        }
        let (at, _) = self.layout.run_at(self.head.get());
        self.memory.read(at + HEADER + offset, &mut into[..count])?;
        Ok(count)
    }

    /// Gives the peeked `record`'s bytes back to the producer.
    ///
    /// # Errors
    /// What the peer or the memory did; [`LinkError::Violation`] for a record that is
    /// not there (any more).
    #[inline]
    pub fn release(&mut self, record: Record) -> Result<(), LinkError> {
        self.memory.order_loads();
        if self.unmoved {
            self.head.verify(&self.memory)?;
            self.check_tail()?;
        }
        let available = self.tail_seen - self.head.get();
        if record.length > available || footprint(record.length) > available {
            return Err(LinkError::Violation {
                what: "the length of a record to be released",
                value: record.length,
            });
        }
        let head = self.head.get() + footprint(record.length);
        // release: ring-head
        self.head.publish(&self.memory, head)?;
        self.unmoved = false;
        Ok(())
    }

    /// Takes one record: its kind and how many bytes of its payload went into `into`.
    ///
    /// # Errors
    /// [`LinkError::TooLong`] when the payload is longer than `into`; the record
    /// stays then.
    #[inline]
    pub fn try_pop(&mut self, into: &mut [u8]) -> Result<Option<(u16, usize)>, LinkError> {
        let Some(record) = self.peek()? else {
            return Ok(None);
        };
        if record.length > into.len() as u64 {
            return Err(LinkError::TooLong {
                length: record.length,
                limit: into.len() as u64,
            });
        }
        let count = self.copy_out(record, 0, into)?;
        self.release(record)?;
        Ok(Some((record.kind, count)))
    }

    /// Checks that this side's word still holds what it wrote.
    ///
    /// # Errors
    /// [`LinkError::RolledBack`] when it does not.
    #[inline]
    pub fn verify(&self) -> Result<(), LinkError> {
        self.head.verify(&self.memory)
    }
}
