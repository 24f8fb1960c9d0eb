//! Processes by /proc: when one started, whether it runs, which boot and which numbers.

use std::fs;
use std::os::unix::fs::MetadataExt;

/// This boot of this host.
pub(crate) fn boot_id() -> Option<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16)
        .ok()
        .map(u128::to_be_bytes)
}

/// Whose process numbers are ours.
pub(crate) fn pid_namespace() -> Option<u64> {
    fs::metadata("/proc/self/ns/pid")
        .ok()
        .map(|meta| meta.ino())
}

/// When a process started: field 22 of `/proc/PID/stat` (proc_pid_stat(5)); nothing for a process that is
/// gone or only a zombie.
pub(crate) fn start_time(pid: u64) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field may hold spaces and parentheses; the rest starts after the last one.
    let rest = stat.rsplit_once(')')?.1;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    // Field 3 was the state; 22 is the 19th from there.
    fields.nth(18)?.parse().ok()
}

/// Whether the process of that number that started then runs no more.
pub(crate) fn has_ended(pid: u64, started: u64) -> bool {
    start_time(pid) != Some(started)
}

/// The system counts processor time in hundredths of a second.
const TICK: std::time::Duration = std::time::Duration::from_millis(10);

/// What a process has used of the processor, all its threads together (fields 14 and 15 of
/// proc_pid_stat(5)).
pub(crate) fn processor_time(pid: u32) -> Option<std::time::Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field may hold spaces and parentheses; the rest starts after the last one.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    let (user, system) = (ticks()?, ticks()?);
    Some(TICK * user.checked_add(system)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn this_process_has_used_the_processor() {
        let start = Instant::now();
        let own = std::process::id();
        while processor_time(own).is_none_or(|used| used.is_zero()) {
            let waited = start.elapsed();
            assert!(waited < Duration::from_secs(60), "it never counts");
        }
        assert_eq!(processor_time(u32::MAX), None);
    }
}
