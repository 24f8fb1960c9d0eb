//! How long threads were ready to run and did not: what the system's scheduler says of them.
//!
//! `/proc/PID/task/TID/schedstat` holds that time in its second number, in nanoseconds. Time that the host of a virtual
//! machine took (steal, in `/proc/stat`) counts as well. Where a file is missing, nothing was waited.

use std::path::PathBuf;
use std::time::Instant;

/// Nanoseconds of one tick of `/proc/stat`.
const TICK: f64 = 1e7;

/// Threads under observation.
#[derive(Debug)]
pub struct Waiting {
    threads: Vec<PathBuf>,
    begun: Instant,
    before: f64,
}

impl Waiting {
    /// Of all threads of these processes, and of the threads that they start later.
    pub fn of(processes: Vec<u32>) -> Self {
        Self {
            threads: processes
                .into_iter()
                .map(|process| PathBuf::from(format!("/proc/{process}/task")))
                .collect(),
            begun: Instant::now(),
            before: 0.0,
        }
    }

    /// From here on.
    pub fn begin(&mut self) {
        self.before = self.waited();
        self.begun = Instant::now();
    }

    /// What was waited since [`Waiting::begin`], as a share of the time since then.
    pub fn share(&self) -> f64 {
        let waited = (self.waited() - self.before).max(0.0);
        waited / self.begun.elapsed().as_nanos().max(1) as f64
    }

    fn waited(&self) -> f64 {
        let threads = self
            .threads
            .iter()
            .filter_map(|tasks| tasks.read_dir().ok());
        let waited: f64 = threads
            .flat_map(|tasks| tasks.flatten())
            .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
            .filter_map(|text| text.split_whitespace().nth(1)?.parse::<f64>().ok())
            .sum();
        let machine = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        waited + stolen(&machine) * TICK
    }
}

/// Ticks that the host of this machine took, of the first line of `/proc/stat`.
fn stolen(stat: &str) -> f64 {
    stat.lines()
        .next()
        .and_then(|line| line.split_whitespace().nth(8)?.parse().ok())
        .unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steal_is_the_eighth_number() {
        assert_eq!(stolen("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1"), 8.0);
        assert_eq!(stolen(""), 0.0);
    }

    #[test]
    fn a_process_that_does_not_exist_waits_for_nothing() {
        let mut waiting = Waiting::of(vec![u32::MAX]);
        waiting.begin();
        // Whatever the machine's host takes meanwhile may count.
        assert!(waiting.share() >= 0.0);
    }
}
