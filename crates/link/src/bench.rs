//! The layout of a bench region: where `vmshm bench` measures.
//!
//! ```text
//! 0x000  stop: a count, written by the host; one more when it has measured enough
//! 0x008  turn: what the host measures now, where it measures several things in turns
//! 0x040  ping: a count, written by the host
//! 0x0c0  pong: the same count, written by the guest
//! 0x100  ring words, and from 0x1000 on two rings of 4 KiB
//! 0x400  two counts, and from 0x3000 on the two lines of 64 bytes that they announce
//! 0x500  words of two rings of records of 64 bytes, which lie from 0x4000 on
//! 0x6000 bulk data, to the region's end
//! ```
//!
//! The host starts its words, then asks; the agent starts the guest's words before it
//! answers. The guest's side spins while it measures, and gives up when nothing
//! has happened for [`PATIENCE_MILLIS`].

mod turns;

pub use turns::{Answerer, Asker, MESSAGE, Turn};

use crate::beacon::PAGE;
use crate::error::LinkError;
use crate::fixed_ring::FixedRingLayout;
use crate::ring::RingLayout;

/// The host's count.
pub const PING: u64 = 0x040;
/// The guest's answer.
pub const PONG: u64 = 0x0c0;
/// The guest's side ends when this word differs from what it was at the start.
pub const STOP: u64 = 0x000;
/// What the host measures now: a [`Turn`].
pub const TURN: u64 = 0x008;
/// After so long without a ping or record the guest's side ends by itself.
pub const PATIENCE_MILLIS: u64 = 3000;
/// Bytes of each ring: few, so that what is timed is the way between the two nearest
/// caches and not the way to memory.
const CAPACITY: u64 = 4 << 10;
/// Records that each ring of records holds: as many bytes as the other rings have. Over larger
/// ones a record comes from farther away, and one way takes about twice as long.
const RECORDS: u64 = 64;
/// The first line; the other lies two further, so that no processor fetches both at once.
const LINES: u64 = PAGE + 2 * CAPACITY;
/// The first ring of records.
const RECORDS_DATA: u64 = LINES + PAGE;
/// Where the bulk data starts; it goes on to the region's end.
pub const BULK: u64 = RECORDS_DATA + 2 * RECORDS * MESSAGE as u64;
/// Size of a bench region: room for 16 MiB of bulk data.
pub const BENCH_SIZE: u64 = BULK + (16 << 20);

/// What the guest's side does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Answer each new count in `ping` by the same in `pong`.
    PingPong,
    /// Send each record back.
    Echo,
    /// Send back what comes by the way that the turn's word names: [`Answerer`].
    Turns,
}

impl Mode {
    /// As sent in a request.
    #[must_use]
    pub const fn to_word(self) -> u64 {
        match self {
            Self::PingPong => 1,
            Self::Echo => 2,
            Self::Turns => 3,
        }
    }

    /// From a request; nothing for a mode of a newer minor version.
    #[must_use]
    pub const fn from_word(word: u64) -> Option<Self> {
        match word {
            1 => Some(Self::PingPong),
            2 => Some(Self::Echo),
            3 => Some(Self::Turns),
            _ => None,
        }
    }
}

/// The rings of a bench region: (to host, to guest).
///
/// # Errors
/// [`LinkError::Violation`] when the region is too small for them.
pub const fn rings(size: u64) -> Result<(RingLayout, RingLayout), LinkError> {
    if let Err(error) = check(size) {
        return Err(error);
    }
    let to_host = RingLayout {
        tail: 0x100,
        head: 0x300,
        data: PAGE,
        capacity: CAPACITY,
    };
    let to_guest = RingLayout {
        tail: 0x280,
        head: 0x180,
        data: PAGE + CAPACITY,
        capacity: CAPACITY,
    };
    Ok((to_host, to_guest))
}

const fn check(size: u64) -> Result<(), LinkError> {
    if size < BULK {
        return Err(LinkError::Violation {
            what: "the size of a bench region",
            value: size,
        });
    }
    Ok(())
}

/// One way of the floor: 64 bytes on a line, and the count that announces them on another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Line {
    count: u64,
    payload: u64,
}

const LINE_TO_GUEST: Line = Line {
    count: 0x400,
    payload: LINES,
};
const LINE_TO_HOST: Line = Line {
    count: 0x480,
    payload: LINES + 0x100,
};

/// The rings of records of a bench region: (to host, to guest).
const fn record_rings(size: u64) -> Result<(FixedRingLayout, FixedRingLayout), LinkError> {
    if let Err(error) = check(size) {
        return Err(error);
    }
    let record = MESSAGE as u64;
    let to_guest = FixedRingLayout {
        tail: 0x500,
        head: 0x580,
        producer_guard: 0x700,
        consumer_guard: 0x780,
        data: RECORDS_DATA,
        record,
        stride: record,
        capacity: RECORDS,
    };
    let to_host = FixedRingLayout {
        tail: 0x600,
        head: 0x680,
        producer_guard: 0x800,
        consumer_guard: 0x880,
        data: RECORDS_DATA + RECORDS * record,
        record,
        stride: record,
        capacity: RECORDS,
    };
    Ok((to_host, to_guest))
}
