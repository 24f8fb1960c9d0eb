//! What tells that a process is another one, or has become another program.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io;
use std::os::unix::fs::DirEntryExt;

use super::process::ProcRoot;

impl ProcRoot {
    /// All processes, each with a mark that changes when another process takes the number,
    /// or the process becomes another program. The kernel makes a new inode for each process.
    pub(crate) fn marks(&self) -> io::Result<Vec<(u32, u64)>> {
        Ok(fs::read_dir(self.path())?
            .filter_map(Result::ok)
            .filter_map(|entry| {
                let pid = entry.file_name().to_str()?.parse().ok()?;
                Some((pid, self.mark(pid, entry.ino())))
            })
            .collect())
    }

    fn mark(&self, pid: u32, inode: u64) -> u64 {
        let process = self.process(pid);
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;
    use std::time::Instant;

    use crate::Census;

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
}
