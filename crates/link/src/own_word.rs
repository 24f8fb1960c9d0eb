//! A shared word that this side writes, beside a private copy of what it wrote.
//!
//! The copy is what this side computes with; the shared word is only compared with
//! it, and always before it is overwritten: a new value would wipe out the trace. A
//! difference means that the machine was set back to an earlier state (or that
//! somebody else writes our word), and ends the session.

use vmshm_shm::SharedMemory;

use crate::error::LinkError;

/// The largest value that an end takes over from the one before it.
pub const FARTHEST: u64 = 1 << 62;

/// A word with this side as its only writer.
#[derive(Debug, Clone, Copy)]
pub struct OwnWord {
    offset: u64,
    written: u64,
    what: &'static str,
}

impl OwnWord {
    /// Takes the word at `offset` over and writes `value` to it. `what` names the
    /// word in error messages.
    ///
    /// # Errors
    /// [`LinkError::Fault`] when the word cannot be reached.
    pub fn start<M: SharedMemory>(
        memory: &M,
        offset: u64,
        value: u64,
        what: &'static str,
    ) -> Result<Self, LinkError> {
        memory.store_relaxed(offset, value)?;
        Ok(Self {
            offset,
            written: value,
            what,
        })
    }

    /// Takes the word at `offset` over as the end before this one left it. No honest
    /// counter gets near [`FARTHEST`], and sums below it do not overflow.
    ///
    /// # Errors
    /// [`LinkError::Violation`] for a word beyond [`FARTHEST`], [`LinkError::Fault`] when
    /// it cannot be reached.
    pub fn resume<M: SharedMemory>(
        memory: &M,
        offset: u64,
        what: &'static str,
    ) -> Result<Self, LinkError> {
        // What the end before this one had published goes on with the word:
        // acquire: ring-tail
        // acquire: ring-head
        // acquire: fixed-ring-tail
        // acquire: fixed-ring-head
        // acquire: latest-newest
        // acquire: frames-newest
        // acquire: end-asleep
        let written = memory.load_acquire(offset)?;
        if written > FARTHEST {
            return Err(LinkError::Violation {
                what,
                value: written,
            });
        }
        Ok(Self {
            offset,
            written,
            what,
        })
    }

    /// Takes the word at `offset` over with `value`, which the caller has just loaded from
    /// there; nothing is written.
    #[must_use]
    pub const fn take_over(offset: u64, value: u64, what: &'static str) -> Self {
        Self {
            offset,
            written: value,
            what,
        }
    }

    /// What this side wrote last.
    #[must_use]
    #[inline]
    pub const fn get(&self) -> u64 {
        self.written
    }

    /// Writes `value`, which carries nothing else with it.
    ///
    /// # Errors
    /// As [`OwnWord::verify`]; nothing is written then.
    #[inline]
    pub fn set<M: SharedMemory>(&mut self, memory: &M, value: u64) -> Result<(), LinkError> {
        self.verify(memory)?;
        memory.store_relaxed(self.offset, value)?;
        self.written = value;
        Ok(())
    }

    /// Writes `value` after everything that this side wrote before. The caller names
    /// the pair at its call.
    ///
    /// # Errors
    /// As [`OwnWord::verify`]; nothing is written then.
    #[inline(always)]
    pub fn publish<M: SharedMemory>(&mut self, memory: &M, value: u64) -> Result<(), LinkError> {
        self.verify(memory)?;
        // The pairs of the words that are published this way:
        // release: ring-tail
        // release: ring-head
        // release: end-state
        // release: end-asleep
        // release: latest-newest
        // release: frames-newest
        // release: frames-ack
        memory.store_release(self.offset, value)?;
        self.written = value;
        Ok(())
    }

    /// Writes `value` after everything that this side wrote before, without a look at what
    /// stands there: the caller has checked a guard, which shows the same. The caller names
    /// the pair at its call.
    ///
    /// # Errors
    /// [`LinkError::Fault`] when the word cannot be reached.
    #[inline(always)]
    pub fn replace<M: SharedMemory>(&mut self, memory: &M, value: u64) -> Result<(), LinkError> {
        // The pairs of the words that are replaced this way:
        // release: fixed-ring-tail
        // release: fixed-ring-head
        memory.store_release(self.offset, value)?;
        self.written = value;
        Ok(())
    }

    /// Counts one more step in a guard that was verified just before.
    ///
    /// # Errors
    /// [`LinkError::Fault`] when the word cannot be reached.
    #[inline(always)]
    pub fn step<M: SharedMemory>(&mut self, memory: &M) -> Result<(), LinkError> {
        let next = self.written + 1;
        memory.store_relaxed(self.offset, next)?;
        self.written = next;
        Ok(())
    }

    /// Compares the shared word with what this side wrote.
    ///
    /// # Errors
    /// [`LinkError::RolledBack`] when they differ, [`LinkError::Fault`] when the word
    /// cannot be reached.
    #[inline(always)]
    pub fn verify<M: SharedMemory>(&self, memory: &M) -> Result<(), LinkError> {
        let found = memory.load_relaxed(self.offset)?;
        if found == self.written {
            Ok(())
        } else {
            Err(self.rolled_back(found))
        }
    }

    #[cold]
    #[inline(never)]
    const fn rolled_back(&self, found: u64) -> LinkError {
        LinkError::RolledBack {
            what: self.what,
            written: self.written,
            found,
        }
    }
}
