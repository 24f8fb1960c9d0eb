//! The layout of a pipe region: two byte streams, one each way, and what each end
//! says of itself.
//!
//! ```text
//! 0x000  host end lost    ┐ written by the agent, when it knows an end to be dead
//! 0x008  guest end lost   ┘
//! 0x080  guest end: state, 0x088 pulse     0x200  host end: state, 0x208 pulse
//! 0x100  to host: tail (guest end)         0x280  to guest: tail (host end)
//! 0x180  to guest: head (guest end)        0x300  to host: head (host end)
//! 0x1000 to host: records                  0x1000 + capacity: to guest: records
//! ```
//!
//! The capacity follows from the region's size on both sides; it is not read from
//! shared memory. An end exists once its `state` says so: it starts its ring words
//! first. Neither end writes a byte of data before it has seen the other open.
//!
//! The pairs: `end-state` (an end's state → the other end), `end-lost` (the agent's
//! lost words → the other end), and the rings' own.

use vmshm_shm::SharedMemory;

use crate::beacon::PAGE;
use crate::error::LinkError;
use crate::own_word::OwnWord;
use crate::ring::RingLayout;
use crate::stream::{StreamReader, StreamWriter};

const HOST_LOST: u64 = 0x000;
const GUEST_LOST: u64 = 0x008;
const SMALLEST_CAPACITY: u64 = PAGE;

/// Bytes of a pipe's region that suit bulk data: 1 MiB each way.
pub const DEFAULT_PIPE_SIZE: u64 = PAGE + 2 * (1 << 20);

/// Which end of a pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The end inside the guest.
    Guest,
    /// The end on the host.
    Host,
}

impl Side {
    const fn words(self) -> u64 {
        match self {
            Self::Guest => 0x080,
            Self::Host => 0x200,
        }
    }

    const fn tail(self) -> u64 {
        self.words() + 0x80
    }

    const fn head(self) -> u64 {
        self.words() + 0x100
    }

    const fn lost(self) -> u64 {
        match self {
            Self::Guest => GUEST_LOST,
            Self::Host => HOST_LOST,
        }
    }

    /// The other end.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Guest => Self::Host,
            Self::Host => Self::Guest,
        }
    }
}

/// What an end says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndState {
    /// It has not come yet.
    Absent,
    /// It reads and writes.
    Open,
    /// It takes no more bytes, but may still send.
    StoppedReading,
    /// Both directions have ended for it, in good order.
    Finished,
    /// It left early, on purpose (an interrupt, an error of its own).
    Aborted,
}

impl EndState {
    const fn to_word(self) -> u64 {
        match self {
            Self::Absent => 0,
            Self::Open => 1,
            Self::StoppedReading => 2,
            Self::Finished => 3,
            Self::Aborted => 4,
        }
    }

    const fn from_word(word: u64) -> Result<Self, LinkError> {
        match word {
            0 => Ok(Self::Absent),
            1 => Ok(Self::Open),
            2 => Ok(Self::StoppedReading),
            3 => Ok(Self::Finished),
            4 => Ok(Self::Aborted),
            value => Err(LinkError::Violation {
                what: "a pipe end's state",
                value,
            }),
        }
    }
}

/// The rings of a pipe region of `size` bytes: (to host, to guest).
///
/// # Errors
/// [`LinkError::Violation`] when the size is too small for a pipe.
pub fn rings(size: u64) -> Result<(RingLayout, RingLayout), LinkError> {
    let half = size.saturating_sub(PAGE) / 2;
    if half < SMALLEST_CAPACITY {
        return Err(LinkError::Violation {
            what: "the size of a pipe's region",
            value: size,
        });
    }
    // The largest power of two that is not above `half`, and that a ring may have.
    let capacity = (1_u64 << half.ilog2()).min(1 << 31);
    let to_host = RingLayout {
        tail: Side::Guest.tail(),
        head: Side::Host.head(),
        data: PAGE,
        capacity,
    };
    let to_guest = RingLayout {
        tail: Side::Host.tail(),
        head: Side::Guest.head(),
        data: PAGE + capacity,
        capacity,
    };
    Ok((to_host, to_guest))
}

/// Says that `side`'s end died (the agent, its only writer).
///
/// # Errors
/// [`LinkError::Fault`] when the memory cannot be reached.
pub fn mark_lost<M: SharedMemory>(memory: &M, side: Side) -> Result<(), LinkError> {
    // release: end-lost
    Ok(memory.store_release(side.lost(), 1)?)
}

/// What `side` says of itself, for whoever only watches.
///
/// # Errors
/// [`LinkError`] when the word cannot be read or says nothing possible.
pub fn state_of<M: SharedMemory>(memory: &M, side: Side) -> Result<EndState, LinkError> {
    // acquire: end-state
    EndState::from_word(memory.load_acquire(side.words())?)
}

/// One end of a pipe. Its parts may be used by different threads.
#[derive(Debug)]
pub struct PipeEnd<M> {
    /// What the ends say of themselves.
    pub words: EndWords<M>,
    /// Bytes to the other end.
    pub writer: StreamWriter<M>,
    /// Bytes from the other end.
    pub reader: StreamReader<M>,
}

impl<M: SharedMemory + Clone> PipeEnd<M> {
    /// Opens `side`'s end of the pipe in `memory`, a region that was just made ready.
    ///
    /// # Errors
    /// What the memory did.
    pub fn open(memory: M, side: Side) -> Result<Self, LinkError> {
        let (to_host, to_guest) = rings(memory.size())?;
        let (outgoing, incoming) = match side {
            Side::Guest => (to_host, to_guest),
            Side::Host => (to_guest, to_host),
        };
        let writer = StreamWriter::start(memory.clone(), outgoing)?;
        let reader = StreamReader::start(memory.clone(), incoming)?;
        let pulse = OwnWord::start(&memory, side.words() + 8, 1, "pipe end's pulse")?;
        let mut state = OwnWord::start(&memory, side.words(), 0, "pipe end's state")?;
        // release: end-state
        state.publish(&memory, EndState::Open.to_word())?;
        Ok(Self {
            words: EndWords {
                memory,
                side,
                state,
                pulse,
            },
            writer,
            reader,
        })
    }
}

/// What an end says of itself, and what it sees of the other.
#[derive(Debug)]
pub struct EndWords<M> {
    memory: M,
    side: Side,
    state: OwnWord,
    pulse: OwnWord,
}

impl<M: SharedMemory> EndWords<M> {
    /// What the other end says of itself.
    ///
    /// # Errors
    /// What the memory or the other end did.
    pub fn peer_state(&self) -> Result<EndState, LinkError> {
        state_of(&self.memory, self.side.other())
    }

    /// Whether the agent knows the other end to be dead.
    ///
    /// # Errors
    /// [`LinkError::Fault`] when the memory cannot be reached.
    pub fn peer_is_lost(&self) -> Result<bool, LinkError> {
        // acquire: end-lost
        Ok(self.memory.load_acquire(self.side.other().lost())? != 0)
    }

    /// Count of the other end's heartbeats.
    ///
    /// # Errors
    /// [`LinkError::Fault`] when the memory cannot be reached.
    pub fn peer_pulse(&self) -> Result<u64, LinkError> {
        Ok(self.memory.load_relaxed(self.side.other().words() + 8)?)
    }

    /// Moves this end's pulse on.
    ///
    /// # Errors
    /// As [`EndWords::verify`].
    pub fn beat(&mut self) -> Result<(), LinkError> {
        let next = self.pulse.get().wrapping_add(1);
        self.pulse.set(&self.memory, next)
    }

    /// Says what has become of this end.
    ///
    /// # Errors
    /// As [`EndWords::verify`].
    pub fn say(&mut self, state: EndState) -> Result<(), LinkError> {
        // release: end-state
        self.state.publish(&self.memory, state.to_word())
    }

    /// Checks that this end's words still hold what it wrote.
    ///
    /// # Errors
    /// [`LinkError::RolledBack`] when one does not.
    pub fn verify(&self) -> Result<(), LinkError> {
        self.state.verify(&self.memory)?;
        self.pulse.verify(&self.memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_fit_every_size_and_do_not_overlap() {
        assert!(rings(0).is_err());
        assert!(rings(3 * PAGE - 1).is_err());
        for size in [3 * PAGE, 5 * PAGE, DEFAULT_PIPE_SIZE, 1 << 30, 1 << 40] {
            let (to_host, to_guest) = rings(size).expect("fits");
            assert_eq!(to_host.data + to_host.capacity, to_guest.data);
            assert!(to_guest.data + to_guest.capacity <= size);
        }
        assert_eq!(rings(DEFAULT_PIPE_SIZE).expect("fits").0.capacity, 1 << 20);
    }
}
