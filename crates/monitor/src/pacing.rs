//! When to look for the next frame: nobody rings a bell for it.
//!
//! Frames of something that moves come in a rhythm. It is learned from the last ones; the
//! monitor sleeps until shortly before the next one is due, and then looks closely. Without a
//! rhythm it looks less often the longer nothing has come.

use std::time::{Duration, Instant};

/// Between looks while a frame is due.
const CLOSE: Duration = Duration::from_micros(50);
/// Between looks when nothing has come for [`QUIET`].
const IDLE: Duration = Duration::from_millis(7);
/// After so long a screen is taken to stand still.
const QUIET: Duration = Duration::from_secs(1);
/// The shortest and the longest rhythm that is followed.
const RHYTHMS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(120));
/// So many frames must have followed each other before their rhythm counts.
const LEARNED: u32 = 4;
/// How many frames of a rhythm may fail to come before it counts no more.
const MISSING: u32 = 3;

/// The rhythm of frames.
#[derive(Debug, Default)]
pub struct Pacing {
    last: Option<Instant>,
    interval: Duration,
    deviation: Duration,
    seen: u32,
}

impl Pacing {
    /// A frame has come.
    pub fn came(&mut self, now: Instant) {
        let Some(last) = self.last.replace(now) else {
            return;
        };
        let interval = now.saturating_duration_since(last);
        if interval > RHYTHMS.1 {
            self.seen = 0;
            return;
        }
        if self.seen == 0 {
            self.interval = interval;
            self.deviation = interval / 4;
        } else {
            // A frame that was left out is no other rhythm.
            let frames =
                (interval + self.interval / 2).as_nanos() / self.interval.as_nanos().max(1);
            let frames = u32::try_from(frames).unwrap_or(MISSING).clamp(1, MISSING);
            let interval = interval / frames;
            self.deviation = (self.deviation * 7 + interval.abs_diff(self.interval)) / 8;
            self.interval = (self.interval * 7 + interval) / 8;
        }
        self.seen = self.seen.saturating_add(1);
    }

    /// How long to sleep before the next look.
    pub fn sleep(&self, now: Instant) -> Duration {
        let Some(last) = self.last else {
            return IDLE;
        };
        let since = now.saturating_duration_since(last);
        if since >= QUIET {
            return IDLE;
        }
        if self.has_rhythm() && since < self.interval * (MISSING + 1) {
            return self.sleep_in_rhythm(since);
        }
        match since.as_millis() {
            ..50 => Duration::from_millis(1),
            50..250 => Duration::from_millis(2),
            _ => Duration::from_millis(4),
        }
    }

    fn has_rhythm(&self) -> bool {
        self.seen >= LEARNED
            && self.interval >= RHYTHMS.0
            && self.interval <= RHYTHMS.1
            && self.deviation < self.interval / 4
    }

    fn sleep_in_rhythm(&self, since: Duration) -> Duration {
        // What the system needs to wake a sleeper is part of the margin.
        let margin = (self.deviation * 3).clamp(Duration::from_micros(300), self.interval / 4);
        let due = (0..=MISSING).map(|missed| self.interval * (missed + 1));
        for due in due {
            let from = due.saturating_sub(margin);
            if since < from {
                return (from - since).max(CLOSE);
            }
            if since < due + margin + Duration::from_millis(1) {
                return CLOSE;
            }
        }
        Duration::from_millis(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Duration = Duration::from_micros(16_667);

    fn in_rhythm(start: Instant) -> (Pacing, Instant) {
        let mut pacing = Pacing::default();
        let mut now = start;
        for _ in 0..40 {
            now += FRAME;
            pacing.came(now);
        }
        (pacing, now)
    }

    #[test]
    fn a_rhythm_is_slept_through_and_met_closely() {
        let (pacing, last) = in_rhythm(Instant::now());
        let first = pacing.sleep(last + Duration::from_millis(1));
        assert!(first > Duration::from_millis(12) && first < Duration::from_millis(16));
        assert_eq!(pacing.sleep(last + FRAME), CLOSE);
        assert_eq!(
            pacing.sleep(last + FRAME - Duration::from_micros(200)),
            CLOSE
        );
        // One that did not come: the one after it is met as well.
        assert_eq!(pacing.sleep(last + 2 * FRAME), CLOSE);
        assert!(pacing.sleep(last + FRAME * 3 / 2) > Duration::from_millis(4));
    }

    #[test]
    fn looks_in_one_interval_are_few() {
        let (pacing, last) = in_rhythm(Instant::now());
        let (mut now, mut looks) = (last, 0);
        while now < last + FRAME {
            now += pacing.sleep(now);
            looks += 1;
        }
        assert!(looks < 20, "{looks}");
    }

    #[test]
    fn a_screen_that_stands_still_is_looked_at_rarely() {
        let (pacing, last) = in_rhythm(Instant::now());
        assert_eq!(pacing.sleep(last + QUIET), IDLE);
        assert_eq!(Pacing::default().sleep(last), IDLE);
        let mut now = last + Duration::from_millis(100);
        while now < last + QUIET {
            let sleep = pacing.sleep(now);
            assert!((Duration::from_millis(1)..=IDLE).contains(&sleep));
            now += sleep;
        }
    }

    #[test]
    fn without_a_rhythm_looks_are_a_millisecond_apart() {
        let mut pacing = Pacing::default();
        let mut now = Instant::now();
        for number in 0..30_u64 {
            now += Duration::from_millis(3 + 29 * (number % 3));
            pacing.came(now);
        }
        assert_eq!(
            pacing.sleep(now + Duration::from_millis(5)),
            Duration::from_millis(1)
        );
    }

    #[test]
    fn frames_at_once_are_no_rhythm() {
        let mut pacing = Pacing::default();
        let now = Instant::now();
        (0..20).for_each(|_| pacing.came(now));
        assert_eq!(pacing.sleep(now), Duration::from_millis(1));
    }
}
