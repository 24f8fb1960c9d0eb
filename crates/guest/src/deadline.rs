//! A moment until which is waited; also one that never comes.

use std::time::{Duration, Instant};

use rustix::event::Timespec;

/// When waiting ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// So long from now; never where that is further than the clock reaches.
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

    /// Sleeps for `pause`, but not beyond the moment.
    pub(crate) fn pause(self, pause: Duration) {
        std::thread::sleep(pause.min(self.left()));
    }
}

/// A duration as the system's calls take it.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_that_never_comes_is_no_overflow() {
        let never = Deadline::after(Duration::MAX);
        assert!(!never.has_passed());
        assert!(timespec(never.left()).tv_sec > 0);
        let now = Deadline::after(Duration::ZERO);
        assert!(now.has_passed());
        now.pause(Duration::from_secs(3600));
    }
}
