//! How often a picture is looked at: fast while it changes, slowly while it does not, and
//! never so often that looking takes more than a quarter of a processor. Where a look costs
//! much, an idle picture is looked at once a second.

use std::time::Duration;

/// While it changes: 60 times a second.
pub const FASTEST: Duration = Duration::from_micros(16_667);
/// After a while without changes.
pub const SLOWEST: Duration = Duration::from_millis(250);
/// So many looks in vain do not slow it down: a clock's hand or a line being typed goes on.
const PATIENCE: u32 = 15;
/// Looking takes at most one in so many parts of the time while it changes.
const SHARE: u32 = 4;
/// And while it does not, unless that makes looks rarer than [`RAREST`].
const IDLE_SHARE: u32 = 50;
/// The longest time between looks where each of them is cheap enough.
const RAREST: Duration = Duration::from_secs(1);

/// How often to look.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    interval: Duration,
    in_vain: u32,
    cost: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            interval: FASTEST,
            in_vain: 0,
            cost: Duration::ZERO,
        }
    }
}

impl Pace {
    /// A look took `cost`, and found a change or not.
    pub fn looked(&mut self, cost: Duration, changed: bool) {
        self.cost = cost;
        if changed {
            self.hurry();
            return;
        }
        self.in_vain = self.in_vain.saturating_add(1);
        if self.in_vain > PATIENCE {
            self.interval = (self.interval * 3 / 2).min(SLOWEST);
        }
    }

    /// Something is about to change: a user did something.
    pub fn hurry(&mut self) {
        self.interval = FASTEST;
        self.in_vain = 0;
    }

    /// How long after the begin of the last look the next one is due.
    #[must_use]
    pub fn interval(&self) -> Duration {
        let busy = self.cost.saturating_mul(SHARE);
        let idle = if self.interval == SLOWEST {
            self.cost.saturating_mul(IDLE_SHARE).min(RAREST)
        } else {
            Duration::ZERO
        };
        self.interval.max(busy).max(idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_slows_down_only_after_a_while_and_not_for_ever() {
        let mut pace = Pace::default();
        for _ in 0..PATIENCE {
            pace.looked(Duration::ZERO, false);
            assert_eq!(pace.interval(), FASTEST);
        }
        let mut last = pace.interval();
        for _ in 0..20 {
            pace.looked(Duration::ZERO, false);
            assert!(pace.interval() >= last);
            last = pace.interval();
        }
        assert_eq!(last, SLOWEST);
    }

    #[test]
    fn a_change_or_a_user_makes_it_fast_at_once() {
        let mut slow = Pace::default();
        for _ in 0..100 {
            slow.looked(Duration::ZERO, false);
        }
        let mut changed = slow;
        changed.looked(Duration::ZERO, true);
        assert_eq!(changed.interval(), FASTEST);
        slow.hurry();
        assert_eq!(slow.interval(), FASTEST);
    }

    #[test]
    fn looking_takes_a_quarter_of_a_processor_at_most() {
        let mut pace = Pace::default();
        let cost = Duration::from_millis(100);
        pace.looked(cost, true);
        assert_eq!(pace.interval(), cost * 4);
        for _ in 0..100 {
            pace.looked(Duration::from_millis(10), false);
        }
        assert_eq!(pace.interval(), Duration::from_millis(500));
        pace.looked(cost, false);
        assert_eq!(pace.interval(), RAREST);
        pace.looked(Duration::MAX, true);
        assert!(pace.interval() >= FASTEST);
    }
}
