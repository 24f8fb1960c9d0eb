//! The other processes of this host, as far as it matters who started them and what they run. It
//! does not look into them.

use std::os::unix::fs::MetadataExt;

/// The other processes that run this very program.
pub(super) fn own_programs() -> Vec<u32> {
    let own = programs().into_iter().filter(|program| program.is_own);
    own.map(|program| program.pid).collect()
}

/// Another process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Program {
    pub(super) pid: u32,
    pub(super) parent: u32,
    /// Whether it runs this very program.
    pub(super) is_own: bool,
}

/// The other processes.
pub(super) fn programs() -> Vec<Program> {
    let file = |pid: &str| {
        let file = std::fs::metadata(format!("/proc/{pid}/exe")).ok()?;
        Some((file.dev(), file.ino()))
    };
    let own = file("self");
    let program = |pid: u32| {
        Some(Program {
            pid,
            parent: parent(pid)?,
            is_own: own.is_some() && file(&pid.to_string()) == own,
        })
    };
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id())
        .filter_map(program)
        .collect()
}

/// Who started a process: field 4 of proc_pid_stat(5).
fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = stat.rsplit_once(')')?.1;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}
