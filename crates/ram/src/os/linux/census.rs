//! Who runs on this host, counted again and again at little cost: which processes are
//! new, or have become another program, since the last count. It tells nothing else of
//! them; what was judged once need not be read again.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io;
use std::os::unix::fs::DirEntryExt;
use std::time::{Duration, Instant};

use super::process::ProcRoot;

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
        for (pid, inode) in self.root.pids_with_inodes()? {
            let mark = self.mark(pid, inode);
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

    /// What changes when another process takes the number, or the process becomes another
    /// program. The kernel makes a new inode for each process.
    fn mark(&self, pid: u32, inode: u64) -> u64 {
        let process = self.root.process(pid);
        let mut hasher = DefaultHasher::new();
        inode.hash(&mut hasher);
        match process.executable() {
            Ok(path) => path.hash(&mut hasher),
            // Another user's: its name is all that may be read.
            Err(_) => fs::read(process.path("comm"))
                .unwrap_or_default()
                .hash(&mut hasher),
        }
        hasher.finish()
    }
}

impl ProcRoot {
    fn pids_with_inodes(&self) -> io::Result<Vec<(u32, u64)>> {
        Ok(fs::read_dir(self.path())?
            .filter_map(Result::ok)
            .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.ino())))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn only_what_is_new_or_another_program_is_judged_at_once() {
        let mut census = Census::default();
        let start = Instant::now();
        let own = std::process::id();
        assert!(census.count(start).expect("listed").contains(&own));
        assert!(!census.count(start).expect("listed").contains(&own));
        // The shell becomes another program when its line is closed.
        let mut child = Command::new("sh")
            .args(["-c", "read -r line; exec sleep 60"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let pid = child.id();
        let exe = || fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let named = |word: &str| {
            exe()
                .file_name()
                .is_some_and(|name| name.to_string_lossy().contains(word))
        };
        while !named("sh") || named("census") {
            std::thread::yield_now();
        }
        assert!(census.count(start).expect("listed").contains(&pid));
        assert!(!census.count(start).expect("listed").contains(&pid));
        let shell = exe();
        drop(child.stdin.take());
        while exe() == shell {
            std::thread::yield_now();
        }
        assert!(census.count(start).expect("listed").contains(&pid));
        child.kill().expect("killed");
        child.wait().expect("reaped");
        assert!(!census.count(start).expect("listed").contains(&pid));
    }

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
