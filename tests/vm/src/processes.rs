//! The host's processes, as the kernel shows them.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::{Pid, Signal};

/// The most memory that a process has had at once, in bytes.
///
/// # Panics
/// When it is gone.
#[must_use]
pub fn peak_memory(pid: u32) -> u64 {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).expect("the process is there");
    peak_in(&status)
}

/// The memory that a process has now, in bytes.
///
/// # Panics
/// When it is gone.
#[must_use]
pub fn resident_memory(pid: u32) -> u64 {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.expect("the status tells it") << 10
}

/// The peak from the contents of a `/proc/PID/status`.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn peak_in(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.expect("the status tells the peak") << 10
}

/// The processor time that a process has taken; nothing if it is gone.
#[must_use]
pub fn processor_time(pid: u32) -> Duration {
    times(&format!("/proc/{pid}/stat"), 11)
}

/// The processor time of this process's children that have ended and been waited for, and of theirs.
#[must_use]
pub fn time_of_children() -> Duration {
    times("/proc/self/stat", 13)
}

/// What each thread of a process does, in the kernel's words.
#[must_use]
pub fn threads(pid: u32) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    let tasks = tasks.flatten().map(|task| {
        let read = |name| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let (name, stat, call) = (read("comm"), read("stat"), read("syscall"));
        let state = stat.rsplit(") ").next().unwrap_or_default();
        let state = state.split(' ').next().unwrap_or_default();
        format!("{} {state}, in the call {}\n", name.trim(), call.trim())
    });
    tasks.collect()
}

/// The sum of two numbers of ticks, counted behind the process's name (proc_pid_stat(5)).
fn times(path: &str, first: usize) -> Duration {
    let stat = std::fs::read_to_string(path).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(first).take(2);
    let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// The children of `pid`, their children, and so on.
#[must_use]
pub fn descendants(pid: u32) -> Vec<u32> {
    let parents = parents();
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(
            parents
                .iter()
                .filter(|&(_, &its)| its == parent)
                .map(|(&child, _)| child),
        );
        next += 1;
    }
    found.remove(0);
    found
}

/// Each process with its parent.
fn parents() -> BTreeMap<u32, u32> {
    let processes = std::fs::read_dir("/proc").expect("there is /proc");
    processes
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // pid (name) state parent …; the name may hold anything, so count from its end.
            let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?;
            Some((pid, parent.parse().ok()?))
        })
        .collect()
}

/// Sends a signal to any process.
///
/// # Panics
/// When it is gone already.
pub fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    rustix::process::kill_process(pid.expect("it is a process id"), signal)
        .expect("the process is there");
}

/// Whether a process runs or sleeps; one that only waits to be collected does not.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().next());
    state.is_some_and(|state| !matches!(state, "Z" | "X"))
}

/// Whether all threads of a process are stopped; the signal takes a moment to reach them.
#[must_use]
pub fn is_stopped(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
        state.starts_with(['T', 't'])
    })
}
