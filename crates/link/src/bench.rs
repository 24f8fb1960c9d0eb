//! The layout of a bench region: where `vmshm bench` measures.
//!
//! ```text
//! 0x000  stop: a count, written by the host; one more when it has measured enough
//! 0x040  ping: a count, written by the host
//! 0x0c0  pong: the same count, written by the guest
//! 0x100  ring words, and from 0x1000 on two rings of 4 KiB
//! 0x3000 bulk data, to the region's end
//! ```
//!
//! The host starts its words, then asks; the agent starts the guest's words before it
//! answers. The guest's side spins while it measures, and gives up when nothing
//! has happened for [`PATIENCE_MILLIS`].

use crate::beacon::PAGE;
use crate::error::LinkError;
use crate::ring::RingLayout;

/// The host's count.
pub const PING: u64 = 0x040;
/// The guest's answer.
pub const PONG: u64 = 0x0c0;
/// The guest's side ends when this word differs from what it was at the start.
pub const STOP: u64 = 0x000;
/// After so long without a ping or record the guest's side ends by itself.
pub const PATIENCE_MILLIS: u64 = 3000;
/// Bytes of each ring: few, so that what is timed is the way between the two nearest
/// caches and not the way to memory.
const CAPACITY: u64 = 4 << 10;
/// Where the bulk data starts; it goes on to the region's end.
pub const BULK: u64 = PAGE + 2 * CAPACITY;
/// Size of a bench region: room for 16 MiB of bulk data.
pub const BENCH_SIZE: u64 = BULK + (16 << 20);

/// What the guest's side does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Answer each new count in `ping` by the same in `pong`.
    PingPong,
    /// Send each record back.
    Echo,
}

impl Mode {
    /// As sent in a request.
    #[must_use]
    pub const fn to_word(self) -> u64 {
        match self {
            Self::PingPong => 1,
            Self::Echo => 2,
        }
    }

    /// From a request; nothing for a mode of a newer minor version.
    #[must_use]
    pub const fn from_word(word: u64) -> Option<Self> {
        match word {
            1 => Some(Self::PingPong),
            2 => Some(Self::Echo),
            _ => None,
        }
    }
}

/// The rings of a bench region: (to host, to guest).
///
/// # Errors
/// [`LinkError::Violation`] when the region is too small for them.
pub const fn rings(size: u64) -> Result<(RingLayout, RingLayout), LinkError> {
    if size < BULK {
        return Err(LinkError::Violation {
            what: "the size of a bench region",
            value: size,
        });
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
