//! A moment until which is waited; also one that never comes. It refuses no duration: one
//! that no clock can say has no end.

use std::time::{Duration, Instant};

/// When waiting ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// So long from now.
    pub(crate) fn after(patience: Duration) -> Self {
        Self(Instant::now().checked_add(patience))
    }

    /// How long it is until then.
    pub(crate) fn left(self) -> Duration {
        self.0.map_or(Duration::MAX, |end| {
            end.saturating_duration_since(Instant::now())
        })
    }

    /// Whether it is over.
    pub(crate) fn has_passed(self) -> bool {
        self.left().is_zero()
    }

    /// The same moment, but at least so far from now.
    pub(crate) fn not_before(self, least: Duration) -> Self {
        let least = Self::after(least);
        // Where either never comes, nor does the later one.
        Self(self.0.zip(least.0).map(|(one, other)| one.max(other)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_moment_that_never_comes_is_no_overflow() {
        let never = Deadline::after(Duration::MAX);
        assert!(!never.has_passed());
        assert!(never.left() > HOUR);
        assert_eq!(never.not_before(HOUR).left(), Duration::MAX);
        let now = Deadline::after(Duration::ZERO);
        assert!(now.has_passed());
        assert_eq!(now.not_before(Duration::MAX).left(), Duration::MAX);
    }

    #[test]
    fn the_later_of_two_moments_counts() {
        let now = Deadline::after(Duration::ZERO);
        assert!(now.not_before(HOUR).left() > HOUR / 2);
        let later = Deadline::after(2 * HOUR);
        assert!(later.not_before(HOUR).left() > HOUR);
    }
}
