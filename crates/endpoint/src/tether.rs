//! What holds a region to its session: says whether it is over, and why, and is where this
//! side sleeps until the doorbell rings or the region is over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::ending::End;
use crate::os::STEP_OF_WAITS;

/// A region's tie to its session. Whoever watches the session calls [`Tether::end`] and
/// [`Tether::wake`]; links call the rest.
#[derive(Debug, Default)]
pub struct Tether {
    /// Whether `state.end` is set: all that is looked at while everything is well.
    over: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    end: Option<End>,
    /// How often the other side has rung.
    rings: u64,
    /// The rings that [`Tether::sleep`] knows of.
    heard: u64,
}

impl Tether {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The region is over. Only the first reason counts.
    pub fn end(&self, end: End) {
        let mut state = self.state();
        if state.end.is_none() {
            state.end = Some(end);
            // release: tether-end
            self.over.store(true, Ordering::Release);
        }
        self.changed.notify_all();
    }

    /// The other side has rung.
    pub fn wake(&self) {
        let mut state = self.state();
        state.rings = state.rings.wrapping_add(1);
        drop(state);
        self.changed.notify_all();
    }

    /// How often the other side has rung so far, for [`Tether::sleep_since`].
    #[must_use]
    pub fn rings(&self) -> u64 {
        self.state().rings
    }

    /// Whether it is over.
    ///
    /// # Errors
    /// The reason.
    #[inline]
    pub fn check(&self) -> Result<(), End> {
        // acquire: tether-end
        if self.over.load(Ordering::Acquire) {
            return Err(self.reason());
        }
        Ok(())
    }

    #[cold]
    fn reason(&self) -> End {
        self.state().end.clone().unwrap_or(End::Closed)
    }

    /// Sleeps until the other side rings, the region is over, or `at_most` has passed. A
    /// ring that came since the last sleep counts. For a single sleeper.
    pub fn sleep(&self, at_most: Duration) {
        let heard = self.state().heard;
        self.sleep_since(heard, at_most);
        let mut state = self.state();
        state.heard = state.rings;
    }

    /// Sleeps until the other side has rung more often than `rings` times, the region is
    /// over, or `at_most` has passed. Of several sleepers each hears each ring.
    pub fn sleep_since(&self, rings: u64, at_most: Duration) {
        let state = self.state();
        if state.rings == rings && state.end.is_none() {
            if at_most < STEP_OF_WAITS {
                // It would take so much longer than being woken could save.
                drop(state);
                return thread::sleep(at_most);
            }
            // Waking for nothing does no harm: whoever sleeps here looks again anyway.
            let waited = self.changed.wait_timeout(state, at_most);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_before_the_sleep_is_not_slept_through() {
        let tether = Tether::default();
        tether.wake();
        tether.sleep(Duration::from_secs(3600));
        tether.sleep(Duration::from_millis(1));
    }

    #[test]
    fn each_of_several_sleepers_hears_a_ring() {
        let tether = Tether::default();
        let rings = tether.rings();
        tether.wake();
        tether.sleep_since(rings, Duration::from_secs(3600));
        tether.sleep_since(rings, Duration::from_secs(3600));
        assert_ne!(tether.rings(), rings);
    }

    #[test]
    fn the_first_reason_stays_and_wakes_sleepers() {
        let tether = Tether::default();
        assert_eq!(tether.check(), Ok(()));
        std::thread::scope(|scope| {
            scope.spawn(|| tether.sleep(Duration::from_secs(3600)));
            tether.end(End::RegionRemoved);
            tether.end(End::AgentLeft);
        });
        assert_eq!(tether.check(), Err(End::RegionRemoved));
    }
}
