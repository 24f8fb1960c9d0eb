//! Why VMs cannot be grafted, remembered for a while: finding out reads all that the system
//! tells of a process's memory, and clients may ask often.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long an obstacle counts: it may have gone.
const REMEMBERED: Duration = Duration::from_secs(5);
/// So many times as long counts that there is none: one that has come is found when something
/// is to be lent, too.
const LONGER: u32 = 12;

/// A process and when it started.
type Process = (u32, u64);

/// What was found out last of each VM.
#[derive(Debug)]
pub(crate) struct Obstacles {
    known: Mutex<BTreeMap<Process, Answer>>,
    remembered: Duration,
}

#[derive(Debug)]
struct Answer {
    why: Option<String>,
    since: Instant,
}

impl Answer {
    fn counts(&self, remembered: Duration) -> bool {
        let times = if self.why.is_some() { 1 } else { LONGER };
        self.since.elapsed() < remembered * times
    }
}

impl Default for Obstacles {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            remembered: REMEMBERED,
        }
    }
}

impl Obstacles {
    /// The answer that counts for a process, by `examine` where there is none. Nobody waits for
    /// another one's examination: a process can make its own last.
    pub(crate) fn of(
        &self,
        process: Process,
        examine: impl FnOnce() -> Option<String>,
    ) -> Option<String> {
        if let Some(answer) = self.known().get_mut(&process) {
            if answer.counts(self.remembered) {
                return answer.why.clone();
            }
            // Until this one knows better, the others go by what was.
            answer.since = Instant::now();
        }
        let why = examine();
        let answer = Answer {
            why: why.clone(),
            since: Instant::now(),
        };
        let mut known = self.known();
        // Processes that nobody asks about any more may have ended.
        known.retain(|_, answer| answer.since.elapsed() < self.remembered * LONGER);
        known.insert(process, answer);
        why
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Process, Answer>> {
        // What the lock guards is whole between any two calls.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_for_one_process_and_a_while() {
        let why = || Some("a device".to_owned());
        let obstacles = Obstacles::default();
        assert_eq!(obstacles.of((7, 1), why), why());
        assert_eq!(obstacles.of((7, 1), || None), why());
        assert_eq!(obstacles.of((7, 2), || None), None);
        assert_eq!(obstacles.of((7, 2), why), None);
        let forgetful = Obstacles {
            remembered: Duration::ZERO,
            ..Obstacles::default()
        };
        let old = Answer {
            why: None,
            since: Instant::now() - REMEMBERED * 2,
        };
        assert!(old.counts(REMEMBERED));
        let old = Answer { why: why(), ..old };
        assert!(!old.counts(REMEMBERED));
        assert_eq!(forgetful.of((7, 1), why), why());
        assert_eq!(forgetful.of((7, 1), || None), None);
    }
}
