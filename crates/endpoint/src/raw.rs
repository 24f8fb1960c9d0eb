//! A region whose every byte is the application's: words with a stated order, words with
//! one writer, and copies. Refuses whatever is not inside.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use vmshm_link::LinkError;
use vmshm_link::own_word::OwnWord;
use vmshm_shm::{Fault, SharedMemory};

use crate::connection::Connection;
use crate::error::{LinkFailure, OpenError};
use crate::hold::Hold;

/// A region as words of 64 bits and as bytes. Offsets are in bytes from its start.
///
/// What a side stores before a word is seen by whoever has loaded that word. Nothing else
/// is ordered, and there is no read-modify-write: one that two sides could do at the same
/// time does not work across every VM's border. Let each side write words of its own.
///
/// Nothing here waits and nothing rings; there is no [`peer`](crate::Ring::peer) either.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use vmshm_endpoint::loopback;
///
/// let (host, guest) = loopback::pair();
/// let ours = host.region("counter").size(4096).raw()?;
/// let theirs = guest.region("counter").raw()?;
///
/// // One word a side, on lines of their own; the count is their sum.
/// let mut mine = ours.own_word(0)?;
/// let mut other = theirs.own_word(64)?;
/// mine.add(2)?;
/// other.add(3)?;
/// assert_eq!(ours.load(0)? + ours.load(64)?, 5);
///
/// ours.write(128, b"any bytes")?;
/// let mut copy = [0; 9];
/// theirs.read(128, &mut copy)?;
/// assert_eq!(&copy, b"any bytes");
/// assert!(ours.write(4095, b"too long").is_err());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Raw<C: Connection> {
    hold: Arc<Hold<C>>,
    /// Offsets of the own words in use.
    taken: Arc<Mutex<BTreeSet<u64>>>,
}

impl<C: Connection> Raw<C> {
    pub(crate) fn open(hold: Arc<Hold<C>>) -> Self {
        Self {
            hold,
            taken: Arc::default(),
        }
    }

    /// Bytes of the region.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.hold.memory().size()
    }

    /// Loads the word at `offset`, a multiple of eight, and sees what its writer had stored
    /// before it.
    ///
    /// # Errors
    /// [`LinkFailure::Misplaced`] and [`LinkFailure::Ended`].
    #[inline]
    pub fn load(&self, offset: u64) -> Result<u64, LinkFailure> {
        self.hold.check()?;
        // acquire: raw-word
        let loaded = self.hold.memory().load_acquire(offset);
        loaded.map_err(|fault| self.judge(fault))
    }

    /// Stores `value` in the word at `offset`, a multiple of eight, after everything that
    /// this program stored or wrote before.
    ///
    /// # Errors
    /// [`LinkFailure::Misplaced`] and [`LinkFailure::Ended`].
    #[inline]
    pub fn store(&self, offset: u64, value: u64) -> Result<(), LinkFailure> {
        self.hold.may_write()?;
        // release: raw-word
        let stored = self.hold.memory().store_release(offset, value);
        stored.map_err(|fault| self.judge(fault))
    }

    /// Copies bytes of the region from `offset` into `into`. While somebody writes there,
    /// the copy may be of both times; a word that announces the bytes tells when not.
    ///
    /// # Errors
    /// [`LinkFailure::Misplaced`] and [`LinkFailure::Ended`].
    #[inline]
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), LinkFailure> {
        self.hold.check()?;
        let read = self.hold.memory().read(offset, into);
        read.map_err(|fault| self.judge(fault))
    }

    /// Copies `from` into the region at `offset`.
    ///
    /// # Errors
    /// [`LinkFailure::Misplaced`] and [`LinkFailure::Ended`].
    #[inline]
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<(), LinkFailure> {
        self.hold.may_write()?;
        let written = self.hold.memory().write(offset, from);
        written.map_err(|fault| self.judge(fault))
    }

    /// Takes the word at `offset` over, a multiple of eight, with this side as its only
    /// writer. It starts with the value that is there.
    ///
    /// # Errors
    /// [`LinkFailure::WordTaken`] while this program has another one of the same place,
    /// [`LinkFailure::Misplaced`] and [`LinkFailure::Ended`].
    pub fn own_word(&self, offset: u64) -> Result<RawWord<C>, LinkFailure> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.contains(&offset) {
            return Err(LinkFailure::WordTaken { offset });
        }
        self.hold.may_write()?;
        // Under the lock: an owner of this program before this one has stored its last.
        let word = OwnWord::take_over(offset, self.load(offset)?, "raw word");
        taken.insert(offset);
        Ok(RawWord {
            hold: Arc::clone(&self.hold),
            taken: Arc::clone(&self.taken),
            offset,
            word,
        })
    }

    /// What a fault means: a place that the caller should not have named ends nothing.
    #[cold]
    fn judge(&self, fault: Fault) -> LinkFailure {
        match fault {
            Fault::OutOfBounds { .. } | Fault::Misaligned { .. } => LinkFailure::Misplaced(fault),
            other => self.hold.explain(LinkError::Fault(other)),
        }
    }

    /// Opens the region again after its end, with a new session where the last one is over.
    /// What was stored is still there, if the region is. Words that were taken over must be
    /// dropped before, and taken over again.
    ///
    /// # Errors
    /// [`OpenError`]; the link stays over then, and this may be called again.
    pub fn reconnect(&mut self, timeout: Duration) -> Result<(), OpenError> {
        let in_use = self
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .first()
            .copied();
        if let Some(offset) = in_use {
            return Err(OpenError::WordInUse { offset });
        }
        *self = Self::open(self.hold.reopen(timeout)?);
        Ok(())
    }

    /// Lets go of the region, once its words are dropped as well. What was stored stays in it.
    pub fn close(self) {
        drop(self);
    }
}

/// A word of a raw region with this side as its only writer.
#[derive(Debug)]
pub struct RawWord<C: Connection> {
    hold: Arc<Hold<C>>,
    taken: Arc<Mutex<BTreeSet<u64>>>,
    offset: u64,
    word: OwnWord,
}

impl<C: Connection> RawWord<C> {
    /// What this side stored last; reads nothing.
    #[must_use]
    #[inline]
    pub const fn get(&self) -> u64 {
        self.word.get()
    }

    /// Stores `value`, after everything that this program stored or wrote before.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`], also when the word holds something else than was stored
    /// last: the machine was set back, or there is another writer.
    #[inline]
    pub fn set(&mut self, value: u64) -> Result<(), LinkFailure> {
        self.hold.may_write()?;
        // release: raw-word
        let stored = self.word.publish(self.hold.memory(), value);
        stored.map_err(|error| self.hold.explain(error))
    }

    /// Adds `amount`, from the greatest number on to zero, and gives the new value.
    ///
    /// # Errors
    /// As [`RawWord::set`].
    #[inline]
    pub fn add(&mut self, amount: u64) -> Result<u64, LinkFailure> {
        let value = self.word.get().wrapping_add(amount);
        self.set(value)?;
        Ok(value)
    }

    /// Its offset in bytes.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }
}

impl<C: Connection> Drop for RawWord<C> {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.remove(&self.offset);
    }
}
