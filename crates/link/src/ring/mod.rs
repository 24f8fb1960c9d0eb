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

mod consumer;
mod producer;

pub use consumer::{Consumer, Record};
pub use producer::{Producer, Reservation};

use vmshm_shm::SharedMemory;

use crate::duplex::Side;
use crate::ends;
use crate::error::LinkError;

/// Kind of the record that fills the ring up to its end; never handed out.
pub const PADDING: u16 = u16::MAX;

/// Bytes of a record's header.
pub const HEADER: u64 = 8;

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

const fn check_position(value: u64, what: &'static str) -> Result<(), LinkError> {
    if value.is_multiple_of(8) {
        Ok(())
    } else {
        Err(LinkError::Violation { what, value })
    }
}
