//! What holds a region to its session: says whether it is over, and why, and is where this
//! side sleeps until the doorbell rings or the region is over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::ending::End;

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
    /// Rings that nobody has slept through yet.
    rung: bool,
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
            self.over.store(true, Ordering::Release);
        }
        self.changed.notify_all();
    }

    /// The other side has rung.
    pub fn wake(&self) {
        self.state().rung = true;
        self.changed.notify_all();
    }

    /// Whether it is over.
    ///
    /// # Errors
    /// The reason.
    #[inline]
    pub fn check(&self) -> Result<(), End> {
        if self.over.load(Ordering::Acquire) {
            return Err(self.state().end.clone().unwrap_or(End::Closed));
        }
        Ok(())
    }

    /// Sleeps until the other side rings, the region is over, or `at_most` has passed. A
    /// ring that came since the last sleep counts.
    pub fn sleep(&self, at_most: Duration) {
        let mut state = self.state();
        if !state.rung && state.end.is_none() {
            let waited = self.changed.wait_timeout(state, at_most);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state.rung = false;
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
