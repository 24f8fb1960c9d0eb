//! A region that a link holds: opened by its wish, watched by its tether, slept over, and
//! let go of once.
//!
//! The halves of a link share one of these. It refuses every access once the region is over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vmshm_link::LinkError;
use vmshm_link::control::Role;
use vmshm_link::directory::RegionKind;
use vmshm_link::ends::{Presence, SleepWatch, Sleeper};
use vmshm_shm::SharedMemory;

use crate::connection::{Connection, Doorbell, Held, Right, Wish};
use crate::ending::End;
use crate::error::{LinkFailure, OpenError};
use crate::tether::Tether;
use crate::wait::Manner;

/// How long a failure of the memory waits for the session's watcher to say what happened.
const VERDICT: Duration = Duration::from_millis(250);

/// A held region and how its ends wait.
#[derive(Debug)]
pub(crate) struct Hold<C: Connection> {
    connection: Arc<C>,
    wish: Wish,
    manner: Manner,
    held: Held<C>,
    /// This side's presence when the region was opened.
    own: Presence,
    sleepers: Mutex<Sleepers<C>>,
    closed: AtomicBool,
}

/// The threads of this end that sleep over the region. They share one word.
#[derive(Debug)]
struct Sleepers<C: Connection> {
    /// Nothing for a watcher and over a raw region: those write no word of an end.
    word: Option<Sleeper<C::Memory>>,
    asleep: u32,
}

impl<C: Connection> Hold<C> {
    /// Opens the region that is wished for.
    pub(crate) fn open(
        connection: Arc<C>,
        wish: Wish,
        manner: Manner,
    ) -> Result<Arc<Self>, OpenError> {
        let held = connection.open(&wish)?;
        let hold = Self {
            own: Presence::NOBODY,
            sleepers: Mutex::new(Sleepers {
                word: None,
                asleep: 0,
            }),
            closed: AtomicBool::new(false),
            connection,
            wish,
            manner,
            held,
        };
        hold.settle().map(Arc::new)
    }

    /// Reads and resumes what an end has in the region's first page. A hold that fails here
    /// is closed by its drop.
    fn settle(mut self) -> Result<Self, OpenError> {
        if self.wish.role == Role::End && self.wish.kind != RegionKind::Raw {
            let memory = self.memory();
            let word = Sleeper::resume(memory.clone(), C::SIDE)
                .map_err(|error| self.explain_open(error))?;
            let own = Presence::read(memory, C::SIDE).map_err(|error| self.explain_open(error))?;
            self.own = own;
            self.sleepers = Mutex::new(Sleepers {
                word: Some(word),
                asleep: 0,
            });
        }
        Ok(self)
    }

    /// Lets go of this region, makes a new session where the last one is over, and opens
    /// the region again by the same wish.
    pub(crate) fn reopen(&self, timeout: Duration) -> Result<Arc<Self>, OpenError> {
        let started = Instant::now();
        self.close();
        self.connection.reconnect(timeout)?;
        let wish = Wish {
            timeout: timeout.saturating_sub(started.elapsed()),
            ..self.wish.clone()
        };
        Self::open(Arc::clone(&self.connection), wish, self.manner)
    }

    /// Lets go of the region; the second time it does nothing.
    pub(crate) fn close(&self) {
        // Only the swap itself decides, nothing else is ordered by it.
        if !self.closed.swap(true, Ordering::Relaxed) {
            self.held.tether.end(End::Closed);
            self.connection.close(self.held.region);
        }
    }

    #[inline]
    pub(crate) const fn memory(&self) -> &C::Memory {
        &self.held.memory
    }

    pub(crate) const fn manner(&self) -> Manner {
        self.manner
    }

    #[inline]
    pub(crate) fn tether(&self) -> &Tether {
        &self.held.tether
    }

    /// Who had this side's end when the region was opened: this one.
    pub(crate) const fn own(&self) -> Presence {
        self.own
    }

    pub(crate) fn is_costly(&self) -> bool {
        self.memory().is_costly()
    }

    /// Whether the region is over.
    #[inline]
    pub(crate) fn check(&self) -> Result<(), LinkFailure> {
        match self.held.tether.check() {
            Ok(()) => Ok(()),
            Err(end) => Err(end.into()),
        }
    }

    /// Whether this side may still write the region. For use in a look.
    #[inline]
    pub(crate) fn verify(&self) -> Result<(), LinkError> {
        self.held.right.verify()
    }

    /// [`Hold::check`] and [`Hold::verify`], before something is written.
    #[inline]
    pub(crate) fn may_write(&self) -> Result<(), LinkFailure> {
        self.check()?;
        self.verify().map_err(|error| self.explain(error))
    }

    /// Writes something by `act`, if this side still may.
    #[inline]
    pub(crate) fn attempt<T>(
        &self,
        act: impl FnOnce() -> Result<T, LinkError>,
    ) -> Result<T, LinkFailure> {
        self.check()?;
        match self.verify().and_then(|()| act()) {
            Ok(done) => Ok(done),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// What an error of the memory or of its other writer means. The link is over by it,
    /// unless the caller asked for the impossible; if the watcher of the session knows a
    /// reason behind it (a VM that is gone, a guest that was restarted), that one counts.
    #[cold]
    pub(crate) fn explain(&self, error: LinkError) -> LinkFailure {
        if is_the_callers(error) {
            return error.into();
        }
        let tether = self.tether();
        let started = Instant::now();
        loop {
            let rings = tether.rings();
            if let Err(end) = tether.check() {
                return end.into();
            }
            let left = VERDICT.saturating_sub(started.elapsed());
            if left.is_zero() {
                break;
            }
            tether.sleep_since(rings, left);
        }
        tether.end(End::Link(error));
        self.check().err().unwrap_or_else(|| error.into())
    }

    /// As [`Hold::explain`], for an error at opening.
    pub(crate) fn explain_open(&self, error: LinkError) -> OpenError {
        if is_the_callers(error) {
            return OpenError::BadSize(error.to_string());
        }
        match self.explain(error) {
            LinkFailure::Ended(end) => OpenError::Ended(end),
            _ => OpenError::Ended(End::Link(error)),
        }
    }

    /// How the other side's end stands.
    pub(crate) fn peer(&self) -> Result<Presence, LinkFailure> {
        self.check()?;
        self.see_peer().map_err(|error| self.explain(error))
    }

    /// As [`Hold::peer`], for use in a look.
    #[inline]
    pub(crate) fn see_peer(&self) -> Result<Presence, LinkError> {
        Presence::read(self.memory(), C::SIDE.other())
    }

    /// Rings where the other side sleeps and has not been rung for yet. What was done is
    /// done: a failure here is for the next call to tell.
    #[inline]
    pub(crate) fn wake_peer(&self, watch: &mut SleepWatch) {
        if let Some(doorbell) = &self.held.doorbell {
            match watch.check(self.memory(), C::SIDE.other()) {
                Ok(true) => self.ring(doorbell.as_ref()),
                Ok(false) => {}
                Err(error) => drop(self.explain(error)),
            }
        }
    }

    #[cold]
    fn ring(&self, doorbell: &dyn Doorbell) {
        doorbell.ring(self.held.region);
    }

    /// Whether something wakes the other side, and so, as a rule, this one.
    pub(crate) const fn has_doorbell(&self) -> bool {
        self.held.doorbell.is_some()
    }

    fn sleepers(&self) -> MutexGuard<'_, Sleepers<C>> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says in memory that a thread of this end is about to sleep.
    pub(crate) fn fall_asleep(&self) -> Result<(), LinkFailure> {
        let mut sleepers = self.sleepers();
        let another = sleepers.asleep > 0;
        if let Some(word) = &mut sleepers.word {
            self.may_write()?;
            // The other side rings once for each odd number, and may have rung for this
            // one before the second thread looked.
            let marked = if another {
                word.wake_up().and_then(|()| word.fall_asleep())
            } else {
                word.fall_asleep()
            };
            marked.map_err(|error| self.explain(error))?;
        }
        sleepers.asleep += 1;
        Ok(())
    }

    /// Says in memory that a thread of this end does not sleep any more.
    pub(crate) fn wake_up(&self) -> Result<(), LinkFailure> {
        let mut sleepers = self.sleepers();
        sleepers.asleep = sleepers.asleep.saturating_sub(1);
        let last = sleepers.asleep == 0;
        match &mut sleepers.word {
            Some(word) if last => {
                self.may_write()?;
                word.wake_up().map_err(|error| self.explain(error))
            }
            _ => Ok(()),
        }
    }
}

/// Whether an error says that the caller asked for the impossible.
const fn is_the_callers(error: LinkError) -> bool {
    matches!(
        error,
        LinkError::TooLong { .. }
            | LinkError::NotWhole { .. }
            | LinkError::EmptyRecord
            | LinkError::TooSmall { .. }
    )
}

impl<C: Connection> Drop for Hold<C> {
    fn drop(&mut self) {
        self.close();
    }
}
