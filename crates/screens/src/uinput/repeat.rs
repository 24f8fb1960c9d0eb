//! The key that repeats: the one pressed last, while it is held.
//!
//! The kernel would do it for a device that says so, which the library that makes ours cannot;
//! desktops repeat keys themselves and ignore this, consoles do not.

use std::time::{Duration, Instant};

/// How long a key is held before it repeats; the kernel's own value.
pub const DELAY: Duration = Duration::from_millis(250);
/// How often it repeats then; the kernel's own value.
pub const PERIOD: Duration = Duration::from_millis(33);

/// The key that repeats.
#[derive(Debug, Clone, Copy, Default)]
pub struct Repeat {
    key: Option<(u16, Instant)>,
}

impl Repeat {
    /// A key went down.
    pub fn pressed(&mut self, code: u16, now: Instant) {
        self.key = Some((code, now + DELAY));
    }

    /// A key went up.
    pub fn released(&mut self, code: u16) {
        self.key = self.key.filter(|(repeating, _)| *repeating != code);
    }

    /// When a key is due.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.key.map(|(_, due)| due)
    }

    /// The key that repeats now. What was missed is not made up for.
    pub fn turn(&mut self, now: Instant) -> Option<u16> {
        let (code, due) = self.key.filter(|(_, due)| now >= *due)?;
        let next = (due + PERIOD).max(now + PERIOD / 2);
        self.key = Some((code, next));
        Some(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_key_repeats_and_only_while_held() {
        let start = Instant::now();
        let mut repeat = Repeat::default();
        assert_eq!(repeat.turn(start), None);
        repeat.pressed(30, start);
        repeat.pressed(31, start);
        repeat.released(30);
        assert_eq!(repeat.turn(start + DELAY / 2), None);
        assert_eq!(repeat.due(), Some(start + DELAY));
        assert_eq!(repeat.turn(start + DELAY), Some(31));
        assert_eq!(repeat.turn(start + DELAY), None);
        assert_eq!(repeat.turn(start + DELAY + PERIOD), Some(31));
        repeat.released(31);
        assert_eq!(repeat.turn(start + 2 * DELAY), None);
        assert_eq!(repeat.due(), None);
    }

    #[test]
    fn what_was_missed_is_not_made_up_for() {
        let start = Instant::now();
        let mut repeat = Repeat::default();
        repeat.pressed(30, start);
        let late = start + Duration::from_secs(10);
        assert_eq!(repeat.turn(late), Some(30));
        assert!(repeat.due() >= Some(late));
    }
}
