//! A ring of variable-length records with one producer and one consumer.
//!
//! ```text
//! tail ─ written by the producer only: bytes ever produced
//! head ─ written by the consumer only: bytes ever consumed
//! data ─ capacity bytes, a power of two
//!
//!   record  ┌────────────────────────────┬─────────┬──────────┐
//!           │ length (32) │ kind (16) │ 0 │ payload │ to 8 bytes│
//!           └────────────────────────────┴─────────┴──────────┘
//! ```
//!
//! Records start at multiples of eight and never wrap: where one does not fit before
//! the end, a record of kind [`PADDING`] fills the rest. No record takes more than half
//! of the capacity, padding less than half, so that padding never follows padding.
//! `tail - head` never exceeds the capacity; both only grow.
//!
//! Each side computes with its private copies and checks the shared ones against them
//! at every look at the peer's word and before it overwrites its own. The consumer
//! checks its own word once more after it has copied a payload, and looks at the tail
//! again for the first record after each look at it, so that it hands out nothing of an
//! earlier state that came back after the record had been seen: why that is enough, and
//! what remains, stands in [`fixed_ring`](crate::fixed_ring).
//!
//! *Ends come and go* where the ring's words are a link's ([`ends`]): a new end resumes
//! at the word that the end before it left. Elsewhere both ends start an empty ring.
//!
//! The pairs: the producer's store of `tail` (release) makes the records visible to
//! the consumer's load of `tail` (acquire): `ring-tail`. The consumer's store of
//! `head` (release) gives the bytes back to the producer's load of `head` (acquire):
//! `ring-head`. Nothing else is ordered, so the ring works over copying system
//! calls, where the payload's call comes before the index's.

use vmshm_shm::SharedMemory;

use crate::duplex::Side;
use crate::ends;
use crate::error::LinkError;
use crate::own_word::OwnWord;

/// Kind of the record that fills the ring up to its end; never handed out.
pub const PADDING: u16 = u16::MAX;

/// Bytes of a record's header.
pub const HEADER: u64 = 8;

/// What a waiting consumer has the processor fetch of the next record, so that its first
/// lines travel together with the tail and not after it.
const AHEAD: u64 = 128;

/// Records up to this many bytes, header included, are written by one copy.
const SMALL: usize = 128;

/// Capacities that a ring may have.
const SMALLEST: u64 = 64;
const LARGEST: u64 = 1 << 31;

/// Where a ring lies in a memory. All values are offsets or lengths in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingLayout {
    /// The producer's word.
    pub tail: u64,
    /// The consumer's word.
    pub head: u64,
    /// The first byte of the records.
    pub data: u64,
    /// Length of the records' area; a power of two, at least 64.
    pub capacity: u64,
}

impl RingLayout {
    /// The ring by which the end of `writer` sends records of any length in a link's region
    /// of `size` bytes.
    ///
    /// # Errors
    /// [`LinkError::TooSmall`] when the smallest ring does not fit the writer's half.
    pub fn in_region(size: u64, writer: Side) -> Result<Self, LinkError> {
        let (data, length) = ends::half(size, writer).map_err(|_| LinkError::TooSmall {
            what: "a ring each way",
            size,
            needed: ends::DATA + 2 * SMALLEST,
        })?;
        Ok(Self {
            tail: writer.front(),
            head: writer.other().back(),
            data,
            capacity: (1 << length.ilog2()).min(LARGEST),
        })
    }

    /// The longest payload that is certain to fit once the ring has drained.
    #[must_use]
    pub const fn longest_record(&self) -> u64 {
        self.capacity / 2 - HEADER
    }

    fn check<M: SharedMemory>(&self, memory: &M) -> Result<(), LinkError> {
        let fits = self.capacity.is_power_of_two()
            && (SMALLEST..=LARGEST).contains(&self.capacity)
            && self.data.is_multiple_of(8)
            && self
                .data
                .checked_add(self.capacity)
                .is_some_and(|end| end <= memory.size());
        if fits {
            Ok(())
        } else {
            Err(LinkError::Violation {
                what: "the ring's layout (data offset)",
                value: self.data,
            })
        }
    }

    /// Bytes from `position` to the end of the area, and where they start.
    #[inline]
    const fn run_at(&self, position: u64) -> (u64, u64) {
        let at = position & (self.capacity - 1);
        (self.data + at, self.capacity - at)
    }
}

/// The bytes that a record of `length` payload bytes takes.
#[inline]
const fn footprint(length: u64) -> u64 {
    HEADER + ((length + 7) & !7)
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "each field is masked to its width"
)]
#[inline]
const fn split_header(header: u64) -> (u64, u16) {
    (header & 0xffff_ffff, (header >> 32) as u16)
}

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

const fn check_position(value: u64, what: &'static str) -> Result<(), LinkError> {
    if value.is_multiple_of(8) {
        Ok(())
    } else {
        Err(LinkError::Violation { what, value })
    }
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
        // Room for a whole capacity is there only when nothing is left.
        self.has_room(self.layout.capacity)
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
