//! The layout of a link's region: what the two ends of a ring, a latest or a stream share.
//!
//! ```text
//! 0x000  presence of the host's end    ┐ written by the agent
//! 0x008  presence of the guest's end   ┘
//! 0x100  guest's end: 0x100 asleep, 0x180 front, 0x200 back, 0x280 and 0x300 guards
//! 0x800  host's end:  0x800 asleep, 0x880 front, 0x900 back, 0x980 and 0xa00 guards
//! 0x1000 data written by the guest     0x1000 + half: data written by the host
//! ```
//!
//! *front* is the word by which an end announces what it has written (a ring's tail, a
//! latest's newest), *back* the one by which it gives room back (a ring's head). A *guard*
//! counts what its end does at the front or at the back: the other end never looks at it,
//! so its line stays near, and an earlier state of the machine shows in it. A raw region has
//! none of this: all of it is the application's.
//!
//! *Ends come and go.* The state of a link is in the memory, all zero at first: an end
//! that is opened goes on where the end of its side before it stopped. What was not
//! announced by then was never written; what was not given back is read again. One process
//! of a side has the end at a time, and the agent sees to that; it also counts in
//! *presence* who came and how they went.
//!
//! *Sleep.* An end that is about to sleep raises *asleep* to an odd number, looks once
//! more, and sleeps; awake it raises it to an even one. The other end, having announced
//! something, looks at that word and rings the doorbell once for each odd number. Neither
//! looks are ordered against the stores before them, so a sleeper may miss the bell:
//! every sleep is bounded, and a sleeper looks again by itself.
//!
//! Sizes are not read from shared memory: both ends compute them from the region's size
//! and the record's, which the agent compares when a link is opened.
//!
//! The pairs: `end-presence` (the agent's presence → the ends), `end-asleep` (an end's
//! asleep → the other end), and those of `ring`, `fixed_ring` and `latest`.

use vmshm_shm::SharedMemory;

use crate::beacon::PAGE;
use crate::duplex::Side;
use crate::error::LinkError;
use crate::own_word::OwnWord;

const HOST_PRESENCE: u64 = 0x000;
const GUEST_PRESENCE: u64 = 0x008;
/// Where the data starts.
pub const DATA: u64 = PAGE;

impl Side {
    const fn presence(self) -> u64 {
        match self {
            Self::Host => HOST_PRESENCE,
            Self::Guest => GUEST_PRESENCE,
        }
    }

    const fn block(self) -> u64 {
        match self {
            Self::Guest => 0x100,
            Self::Host => 0x800,
        }
    }

    /// Offset of the word that says whether this side's end sleeps.
    #[must_use]
    pub const fn asleep(self) -> u64 {
        self.block()
    }

    /// Offset of the word by which this side's end announces what it has written.
    #[must_use]
    pub const fn front(self) -> u64 {
        self.block() + 0x80
    }

    /// Offset of the word by which this side's end gives room back.
    #[must_use]
    pub const fn back(self) -> u64 {
        self.block() + 0x100
    }

    /// Offset of the word that counts what this side's end has done at its front.
    #[must_use]
    pub const fn front_guard(self) -> u64 {
        self.block() + 0x180
    }

    /// Offset of the word that counts what this side's end has done at its back.
    #[must_use]
    pub const fn back_guard(self) -> u64 {
        self.block() + 0x200
    }
}

/// How the end of one side stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PresenceState {
    /// Nobody has come yet.
    Absent,
    /// A process has it.
    Present,
    /// The last one closed it.
    Left,
    /// The last one died, or lost its session.
    Lost,
}

/// Who has the end of one side, as the agent says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presence {
    /// How it stands.
    pub state: PresenceState,
    /// How many have come so far: another number is another process.
    pub count: u64,
}

impl Presence {
    /// Before anybody came.
    pub const NOBODY: Self = Self {
        state: PresenceState::Absent,
        count: 0,
    };

    const fn to_word(self) -> u64 {
        let state = match self.state {
            PresenceState::Absent => 0,
            PresenceState::Present => 1,
            PresenceState::Left => 2,
            PresenceState::Lost => 3,
        };
        self.count << 2 | state
    }

    const fn from_word(word: u64) -> Self {
        Self {
            state: match word & 3 {
                0 => PresenceState::Absent,
                1 => PresenceState::Present,
                2 => PresenceState::Left,
                _ => PresenceState::Lost,
            },
            count: word >> 2,
        }
    }

    /// The next process has come.
    #[must_use]
    pub const fn arrival(self) -> Self {
        Self {
            state: PresenceState::Present,
            count: (self.count + 1) & (u64::MAX >> 2),
        }
    }

    /// The process that has the end goes, in good order or not.
    #[must_use]
    pub const fn departure(self, in_order: bool) -> Self {
        Self {
            state: if in_order {
                PresenceState::Left
            } else {
                PresenceState::Lost
            },
            count: self.count,
        }
    }

    /// Reads how the end of `side` stands.
    ///
    /// # Errors
    /// [`LinkError::Fault`] when the memory cannot be reached.
    #[inline]
    pub fn read<M: SharedMemory>(memory: &M, side: Side) -> Result<Self, LinkError> {
        // acquire: end-presence
        Ok(Self::from_word(memory.load_acquire(side.presence())?))
    }

    /// Says how the end of `side` stands; only the agent does.
    ///
    /// # Errors
    /// [`LinkError::Fault`] when the memory cannot be reached.
    pub fn write<M: SharedMemory>(self, memory: &M, side: Side) -> Result<(), LinkError> {
        // release: end-presence
        Ok(memory.store_release(side.presence(), self.to_word())?)
    }
}

/// Where the data that `side` writes starts, and how long it may be, in a region of `size`
/// bytes: the half of what is behind the first page, in whole cache lines.
///
/// # Errors
/// [`LinkError::Violation`] for a region with no room for data.
pub fn half(size: u64, side: Side) -> Result<(u64, u64), LinkError> {
    let length = size.saturating_sub(DATA) / 2 / 64 * 64;
    if length == 0 {
        return Err(LinkError::Violation {
            what: "the size of a link's region",
            value: size,
        });
    }
    Ok(match side {
        Side::Guest => (DATA, length),
        Side::Host => (DATA + length, length),
    })
}

/// The word by which an end says that it is about to sleep.
#[derive(Debug)]
pub struct Sleeper<M> {
    memory: M,
    asleep: OwnWord,
}

impl<M: SharedMemory> Sleeper<M> {
    /// Takes the word of `side` over, and awake: an end that died in its sleep has left it
    /// odd.
    ///
    /// # Errors
    /// [`LinkError`] when the word cannot be reached or holds what no end wrote.
    pub fn resume(memory: M, side: Side) -> Result<Self, LinkError> {
        let asleep = OwnWord::resume(&memory, side.asleep(), "end's asleep word")?;
        let mut sleeper = Self { memory, asleep };
        sleeper.wake_up()?;
        Ok(sleeper)
    }

    /// Says that this end is about to sleep. It looks for work once more after this, and
    /// sleeps for a bounded time only: the other end may not have seen the word.
    ///
    /// # Errors
    /// As [`OwnWord::verify`].
    pub fn fall_asleep(&mut self) -> Result<(), LinkError> {
        // A number of its own for each sleep, so that each is rung for.
        let next = (self.asleep.get() + 1) | 1;
        // release: end-asleep
        self.asleep.publish(&self.memory, next)
    }

    /// Says that this end is awake.
    ///
    /// # Errors
    /// As [`OwnWord::verify`].
    pub fn wake_up(&mut self) -> Result<(), LinkError> {
        if self.asleep.get() & 1 == 0 {
            return Ok(());
        }
        let next = self.asleep.get() + 1;
        // release: end-asleep
        self.asleep.publish(&self.memory, next)
    }
}

/// What an end has seen of the other's sleep.
#[derive(Debug, Clone, Copy, Default)]
pub struct SleepWatch {
    /// The odd number that was rung for last; zero for none.
    rung: u64,
}

impl SleepWatch {
    /// Nothing seen yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { rung: 0 }
    }

    /// Whether the end of `other` sleeps and has not been rung for: true once for each of
    /// its sleeps. Any word is taken; a wrong one costs a bell at most.
    ///
    /// # Errors
    /// [`LinkError::Fault`] when the memory cannot be reached.
    #[inline]
    pub fn check<M: SharedMemory>(&mut self, memory: &M, other: Side) -> Result<bool, LinkError> {
        // acquire: end-asleep
        let word = memory.load_acquire(other.asleep())?;
        if word & 1 == 0 || word == self.rung {
            return Ok(false);
        }
        self.rung = word;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_ends_share_no_line_and_halves_do_not_overlap() {
        let mut words = [Side::Guest, Side::Host]
            .map(|side| {
                let guards = [side.front_guard(), side.back_guard()];
                [
                    [side.asleep(), side.front(), side.back()].as_slice(),
                    &guards,
                ]
                .concat()
            })
            .concat();
        words.push(HOST_PRESENCE);
        words.sort_unstable();
        assert!(words.windows(2).all(|pair| pair[1] - pair[0] >= 128));
        for size in [PAGE + 128, 2 * PAGE, 5 * PAGE, 1 << 30] {
            let (guest, length) = half(size, Side::Guest).expect("fits");
            let (host, other) = half(size, Side::Host).expect("fits");
            assert!(guest == DATA && guest + length == host && host + other <= size);
        }
        assert!(half(PAGE, Side::Host).is_err());
    }

    #[test]
    fn presence_counts_who_came() {
        let memory = vmshm_shm::LocalMemory::new(64);
        assert_eq!(Presence::read(&memory, Side::Host), Ok(Presence::NOBODY));
        let came = Presence::NOBODY.arrival();
        came.write(&memory, Side::Host).expect("inside");
        assert_eq!(Presence::read(&memory, Side::Host), Ok(came));
        let gone = came.departure(false);
        gone.write(&memory, Side::Host).expect("inside");
        assert_eq!(
            Presence::read(&memory, Side::Host).map(|seen| (seen.state, seen.count)),
            Ok((PresenceState::Lost, 1))
        );
        assert_eq!(gone.arrival().count, 2);
        assert_eq!(Presence::read(&memory, Side::Guest), Ok(Presence::NOBODY));
    }

    #[test]
    fn a_sleep_is_rung_for_once() {
        let memory = vmshm_shm::LocalMemory::new(PAGE.try_into().expect("small"));
        let mut sleeper = Sleeper::resume(&memory, Side::Guest).expect("zero");
        let mut watch = SleepWatch::new();
        let mut check = || watch.check(&&memory, Side::Guest).expect("inside");
        assert!(!check());
        for _ in 0..3 {
            sleeper.fall_asleep().expect("own");
            assert!(check() && !check());
            sleeper.fall_asleep().expect("own");
            assert!(check() && !check());
            sleeper.wake_up().expect("own");
            sleeper.wake_up().expect("own");
            assert!(!check());
        }
        sleeper.fall_asleep().expect("own");
        // That one dies in its sleep.
        let mut next = Sleeper::resume(&memory, Side::Guest).expect("left odd");
        assert!(!check(), "the next end is awake");
        next.fall_asleep().expect("own");
        assert!(check());
        memory
            .store_relaxed(Side::Guest.asleep(), u64::MAX)
            .expect("inside");
        assert!(check() && !check(), "any word is taken");
        assert!(next.wake_up().is_err());
        assert!(Sleeper::resume(&memory, Side::Guest).is_err());
    }
}
