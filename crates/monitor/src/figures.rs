//! Counts and durations of what is shown, between two reports.

use std::time::{Duration, Instant};

use vmshm_channel::sink::Stats;

use crate::os::processor_time;

/// The most durations of one kind that are kept for one report.
const SAMPLES: usize = 4096;

/// Durations in nanoseconds: the newest [`SAMPLES`].
#[derive(Debug, Default)]
pub struct Durations {
    nanos: Vec<u64>,
    next: usize,
}

impl Durations {
    /// Adds one.
    pub fn add(&mut self, nanos: u64) {
        match self.nanos.get_mut(self.next) {
            Some(oldest) => *oldest = nanos,
            None => self.nanos.push(nanos),
        }
        self.next = (self.next + 1) % SAMPLES;
    }

    /// The median, and the 99th in 100; zeros when there are none.
    fn take(&mut self) -> (u64, u64) {
        self.nanos.sort_unstable();
        let last = self.nanos.len().saturating_sub(1);
        let at = |hundredth: usize| {
            let place = self.nanos.get(last * hundredth / 100);
            place.copied().unwrap_or(0)
        };
        let taken = (at(50), at(99));
        self.nanos.clear();
        self.next = 0;
        taken
    }
}

/// What has happened since the last report.
#[derive(Debug)]
pub struct Figures {
    since: Instant,
    processor: Duration,
    /// Counts; the durations in it stay zero.
    pub counts: Stats,
    /// What sources took.
    pub capture: Durations,
    /// From seeing a frame to its being ready for presenting.
    pub copy: Durations,
    /// Presenting.
    pub present: Durations,
    /// From announcing to seeing the acknowledgement, in the source's clock.
    pub acknowledged: Durations,
}

impl Figures {
    /// Starts counting.
    pub fn new(now: Instant) -> Self {
        Self {
            since: now,
            processor: processor_time(),
            counts: Stats::default(),
            capture: Durations::default(),
            copy: Durations::default(),
            present: Durations::default(),
            acknowledged: Durations::default(),
        }
    }

    /// Reports, and starts anew.
    pub fn report(&mut self, now: Instant) -> Stats {
        let processor = processor_time();
        let stats = Stats {
            over_nanos: nanos(now.saturating_duration_since(self.since)),
            capture: self.capture.take(),
            copy: self.copy.take(),
            present: self.present.take(),
            acknowledged: self.acknowledged.take(),
            cpu_nanos: nanos(processor.saturating_sub(self.processor)),
            ..std::mem::take(&mut self.counts)
        };
        self.since = now;
        self.processor = processor;
        stats
    }
}

/// A duration in nanoseconds.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_hold_what_came_since_the_last_one() {
        let start = Instant::now();
        let mut figures = Figures::new(start);
        for number in 1..=101 {
            figures.copy.add(number);
        }
        figures.counts.frames = 3;
        let stats = figures.report(start + Duration::from_secs(2));
        assert_eq!(stats.over_nanos, 2_000_000_000);
        assert_eq!(stats.copy, (51, 100));
        assert_eq!(stats.frames, 3);
        let stats = figures.report(start + Duration::from_secs(3));
        assert_eq!((stats.copy, stats.frames), ((0, 0), 0));
    }

    #[test]
    fn durations_are_bounded() {
        let mut durations = Durations::default();
        for _ in 0..3 * SAMPLES {
            durations.add(1);
        }
        assert_eq!(durations.nanos.len(), SAMPLES);
    }
}
