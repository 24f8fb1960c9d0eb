//! Who runs on this host, counted again and again at little cost: which processes are
//! new, or have become another program, since the last count. It tells nothing else of
//! them; what was judged once need not be read again.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use crate::os::ProcRoot;

/// A process that was no VM may become one without another program: it starts itself
/// again, or takes its RAM later. So it is judged again, ever more rarely.
const FIRST_AGAIN: Duration = Duration::from_millis(500);
/// The longest pause between two judgements.
const LAST_AGAIN: Duration = Duration::from_secs(60);

/// The processes of the last count.
#[derive(Debug)]
pub struct Census {
    root: ProcRoot,
    entries: HashMap<u32, Entry>,
}

#[derive(Debug)]
struct Entry {
    mark: u64,
    judge_at: Instant,
    pause: Duration,
}

impl Default for Census {
    fn default() -> Self {
        Self::new(ProcRoot::system())
    }
}

impl Census {
    /// A count of the processes in `root` that has not begun.
    #[must_use]
    pub fn new(root: ProcRoot) -> Self {
        Self {
            root,
            entries: HashMap::new(),
        }
    }

    /// Counts, and gives those that it is time to judge, in rising order: new ones, those
    /// that became another program, and from time to time the others.
    ///
    /// # Errors
    /// The system's, when processes cannot be listed.
    pub fn count(&mut self, now: Instant) -> io::Result<Vec<u32>> {
        let mut due = Vec::new();
        let mut entries = HashMap::with_capacity(self.entries.len());
        for (pid, mark) in self.root.marks()? {
            let entry = match self.entries.remove(&pid) {
                Some(mut entry) if entry.mark == mark => {
                    if entry.judge_at <= now {
                        due.push(pid);
                        entry.pause = (entry.pause * 2).min(LAST_AGAIN);
                        entry.judge_at = now + entry.pause;
                    }
                    entry
                }
                _ => {
                    due.push(pid);
                    Entry {
                        mark,
                        judge_at: now + FIRST_AGAIN,
                        pause: FIRST_AGAIN,
                    }
                }
            };
            entries.insert(pid, entry);
        }
        self.entries = entries;
        due.sort_unstable();
        Ok(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_no_vm_is_judged_again_ever_more_rarely() {
        let mut census = Census::default();
        let start = Instant::now();
        let own = std::process::id();
        let mut judged = Vec::new();
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            if census.count(now).expect("listed").contains(&own) {
                judged.push(second);
            }
        }
        assert!(judged.starts_with(&[0, 1]), "{judged:?}");
        assert!((10..25).contains(&judged.len()), "{judged:?}");
    }
}
