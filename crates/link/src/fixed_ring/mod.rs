//! A ring of records of one size with one producer and one consumer. Records have no
//! header: whoever opens the ring knows their size, and it is refused when it is zero.
//!
//! ```text
//! tail ─ written by the producer only: records ever produced
//! head ─ written by the consumer only: records ever consumed
//! data ─ capacity records, a power of two, each at a multiple of the stride
//! guards ─ one of each side: steps that it ever made
//! ```
//!
//! The stride is the record's size in whole words; of records above 32 bytes it is whole
//! cache lines, so that a record takes as few of them as can be. `tail - head` never
//! exceeds the capacity; both only grow.
//!
//! *Ends come and go.* All words zero are the empty ring. A new producer goes on at the
//! tail, a new consumer at the head that the end before it left: what was not published
//! was never written, what was not given back is read again.
//!
//! *A machine that is set back.* Each side computes with private copies, and counts its
//! steps in a *guard*: a word of its own that the other side never looks at, so that
//! checking it costs no way between caches. Any earlier state of the machine holds an older
//! guard. The producer checks it before it touches a record; the consumer after it has
//! copied records and before it hands them out. A consumer's look at the tail is a step,
//! too, counted after the look: a state saved before that count shows in the guard, and one
//! saved after it holds all records that the look promised. What cannot be seen is a state
//! that returns between a check and the count right behind it.
//!
//! The pairs: the producer's store of `tail` (release) makes records visible to the
//! consumer's load of it (acquire): `fixed-ring-tail`. The consumer's store of `head`
//! (release) gives their room back to the producer's load of it (acquire):
//! `fixed-ring-head`. Nothing else is ordered, so the ring works over copying system
//! calls, where the payload's call comes before the index's.

mod consumer;
mod producer;

pub use consumer::FixedConsumer;
pub use producer::FixedProducer;

use vmshm_shm::SharedMemory;

use crate::duplex::Side;
use crate::ends::{self, DATA};
use crate::error::LinkError;
use crate::own_word::FARTHEST;

const LINE: u64 = 64;

/// Records above this many bytes start at cache lines.
const DENSE: u64 = 32;

/// What one call gathers or spreads where records have gaps between them and every call
/// is one of the system's.
const GATHERED: usize = 1024;

/// The longest record of any ring.
const LONGEST: u64 = 1 << 40;

/// Where a ring of records of one size lies in a memory. Offsets and sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FixedRingLayout {
    /// The producer's word.
    pub tail: u64,
    /// The consumer's word.
    pub head: u64,
    /// The producer's count of its steps.
    pub producer_guard: u64,
    /// The consumer's count of its steps.
    pub consumer_guard: u64,
    /// The first record.
    pub data: u64,
    /// Size of a record.
    pub record: u64,
    /// From one record to the next.
    pub stride: u64,
    /// Records that the ring holds; a power of two.
    pub capacity: u64,
}

/// From one record of `record` bytes to the next.
const fn stride(record: u64) -> u64 {
    let unit = if record > DENSE { LINE } else { 8 };
    record.div_ceil(unit) * unit
}

/// A number that is not above the length of a buffer that exists.
#[allow(
    clippy::cast_possible_truncation,
    reason = "lengths of buffers and of what lies in them"
)]
#[inline]
const fn whole(count: u64) -> usize {
    count as usize
}

impl FixedRingLayout {
    /// The ring by which the end of `writer` sends records of `record` bytes in a link's
    /// region of `size` bytes. It holds two records at least.
    ///
    /// # Errors
    /// [`LinkError::EmptyRecord`], or [`LinkError::TooSmall`] when two records do not fit
    /// the writer's half.
    pub fn in_region(size: u64, record: u64, writer: Side) -> Result<Self, LinkError> {
        if record == 0 {
            return Err(LinkError::EmptyRecord);
        }
        let too_small = LinkError::TooSmall {
            what: "two records each way",
            size,
            needed: Self::region_size(record, 2),
        };
        let (data, length) = ends::half(size, writer).map_err(|_| too_small)?;
        if record > length / 2 || stride(record) > length / 2 {
            return Err(too_small);
        }
        let stride = stride(record);
        Ok(Self {
            tail: writer.front(),
            head: writer.other().back(),
            producer_guard: writer.front_guard(),
            consumer_guard: writer.other().back_guard(),
            data,
            record,
            stride,
            capacity: 1 << (length / stride).ilog2(),
        })
    }

    /// The smallest region whose rings hold `capacity` records of `record` bytes each way.
    #[must_use]
    pub const fn region_size(record: u64, capacity: u64) -> u64 {
        let record = if record > LONGEST { LONGEST } else { record };
        let capacity = match capacity.checked_next_power_of_two() {
            Some(capacity) if capacity >= 2 => capacity,
            Some(_) => 2,
            None => return u64::MAX,
        };
        let Some(half) = stride(record).checked_mul(capacity) else {
            return u64::MAX;
        };
        match half.div_ceil(LINE).checked_mul(2 * LINE) {
            Some(both) => both.saturating_add(DATA),
            None => u64::MAX,
        }
    }

    fn check<M: SharedMemory>(&self, memory: &M) -> Result<(), LinkError> {
        let fits = (1..=self.stride).contains(&self.record)
            && self.stride.is_multiple_of(8)
            && self.data.is_multiple_of(8)
            && self.capacity.is_power_of_two()
            && self.capacity <= FARTHEST
            && self
                .capacity
                .checked_mul(self.stride)
                .and_then(|length| self.data.checked_add(length))
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

    /// Where the record of the number `position` lies.
    #[inline]
    const fn place(&self, position: u64) -> u64 {
        self.data + (position & (self.capacity - 1)) * self.stride
    }

    /// How many records from `position` on lie one behind the other.
    #[inline]
    const fn run(&self, position: u64) -> u64 {
        self.capacity - (position & (self.capacity - 1))
    }

    /// How many whole records `length` bytes are.
    #[inline]
    const fn count(&self, length: usize) -> Result<u64, LinkError> {
        let length = length as u64;
        if length.is_multiple_of(self.record) {
            Ok(length / self.record)
        } else {
            Err(self.not_whole(length))
        }
    }

    /// Bytes that so many records take in the caller's buffer.
    #[inline]
    const fn bytes(&self, records: u64) -> usize {
        whole(records * self.record)
    }

    #[inline]
    const fn stride_bytes(&self) -> usize {
        whole(self.stride)
    }

    #[inline]
    const fn check_one(&self, length: usize) -> Result<(), LinkError> {
        if length as u64 == self.record {
            Ok(())
        } else {
            Err(self.not_whole(length as u64))
        }
    }

    #[cold]
    #[inline(never)]
    const fn not_whole(&self, length: u64) -> LinkError {
        LinkError::NotWhole {
            length,
            record: self.record,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::beacon::PAGE;

    #[test]
    fn a_region_of_the_stated_size_holds_the_stated_records() {
        for record in [1, 7, 8, 9, 32, 33, 64, 65, 1000, PAGE, 1 << 20] {
            for capacity in [0, 1, 2, 3, 8, 1000] {
                let size = FixedRingLayout::region_size(record, capacity);
                for writer in [Side::Guest, Side::Host] {
                    let ring = FixedRingLayout::in_region(size, record, writer).expect("fits");
                    assert!(ring.capacity >= capacity.max(2));
                    assert!(ring.stride >= record && ring.stride - record < 64);
                    assert!(ring.data + ring.capacity * ring.stride <= size);
                    let smaller = FixedRingLayout::in_region(size - 1, record, writer);
                    assert!(smaller.map_or(true, |smaller| smaller.capacity <= ring.capacity));
                }
            }
        }
        assert_eq!(FixedRingLayout::region_size(8, u64::MAX), u64::MAX);
        assert_eq!(FixedRingLayout::region_size(u64::MAX, 1 << 40), u64::MAX);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let layout = |size, record| FixedRingLayout::in_region(size, record, Side::Host);
        assert_eq!(layout(1 << 20, 0), Err(LinkError::EmptyRecord));
        for (size, record) in [
            (0, 8),
            (PAGE, 8),
            (PAGE + 127, 8),
            (3 * PAGE, PAGE),
            (3 * PAGE, u64::MAX),
        ] {
            let error = layout(size, record).expect_err("too small");
            let LinkError::TooSmall { needed, .. } = error else {
                panic!("{error}");
            };
            assert!(needed > size);
            assert!(record == u64::MAX || layout(needed, record).is_ok());
        }
        assert!(layout(3 * PAGE, PAGE / 2).is_ok());
    }
}
