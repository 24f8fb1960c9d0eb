//! When a receiver looks whether the sender sleeps for want of room.
//!
//! Looking after each record would wake a program that sleeps for another reason once a
//! message, and a sender for room for one record at a time. So a receiver looks when it has
//! given back a quarter of the ring, and when it finds the ring empty; what falls between
//! is covered by the bound of each sleep.

use vmshm_link::ends::SleepWatch;

use crate::connection::Connection;
use crate::hold::Hold;

/// What was given back since the last look, and the look itself.
#[derive(Debug)]
pub(crate) struct RoomBell {
    watch: SleepWatch,
    given: u64,
    quarter: u64,
}

impl RoomBell {
    /// For a ring of `capacity` (bytes or records).
    pub(crate) const fn new(capacity: u64) -> Self {
        Self {
            watch: SleepWatch::new(),
            given: 0,
            quarter: capacity / 4,
        }
    }

    /// The receiver has taken `amount`; zero when it has found nothing.
    #[inline]
    pub(crate) fn took<C: Connection>(&mut self, hold: &Hold<C>, amount: u64) {
        self.given += amount;
        if self.given >= self.quarter.max(1) || (amount == 0 && self.given > 0) {
            self.given = 0;
            hold.wake_peer(&mut self.watch);
        }
    }
}
