//! How much somebody may send within a second.

use std::time::{Duration, Instant};

/// The length of a turn.
const TURN: Duration = Duration::from_secs(1);

/// What is left of it.
#[derive(Debug)]
pub(super) struct Budget {
    most: usize,
    used: usize,
    since: Instant,
}

impl Budget {
    pub(super) const fn new(most: usize, now: Instant) -> Self {
        Self {
            most,
            used: 0,
            since: now,
        }
    }

    /// Uses some of it; whether there was as much.
    pub(super) fn spend(&mut self, count: usize) -> bool {
        let now = Instant::now();
        if now.saturating_duration_since(self.since) >= TURN {
            self.since = now;
            self.used = 0;
        }
        self.used = self.used.saturating_add(count);
        self.used <= self.most
    }

    /// When there is more, where nothing is left now.
    pub(super) fn spent_until(&self, now: Instant) -> Option<Instant> {
        let renewed = self.since + TURN;
        (self.used >= self.most && renewed > now).then_some(renewed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_spent_and_comes_back() {
        let now = Instant::now();
        let mut budget = Budget::new(10, now);
        assert!(budget.spend(9) && budget.spent_until(now).is_none());
        assert!(!budget.spend(2));
        let until = budget.spent_until(now).expect("it is spent");
        assert_eq!(budget.spent_until(until), None);
        let past = Instant::now()
            .checked_sub(2 * TURN)
            .expect("it has run so long");
        let mut old = Budget {
            since: past,
            ..budget
        };
        assert!(old.spend(10));
    }
}
