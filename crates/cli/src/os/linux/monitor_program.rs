//! The program that shows screens: its name, whether a file is one, and how it ended.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Its file's name.
pub(crate) const MONITOR_PROGRAM: &str = "vmshm-monitor";

/// Whether a file can be started.
pub(crate) fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// How a process ended, if that was not in good order.
pub(crate) fn words_for_end(status: ExitStatus) -> Option<String> {
    match (status.code(), status.signal()) {
        (Some(0), _) => None,
        (Some(code), _) => Some(format!("it ended with status {code}")),
        (None, Some(signal)) => Some(match signal_hook::low_level::signal_name(signal) {
            Some(name) => format!("it was ended by signal {signal} ({name})"),
            None => format!("it was ended by signal {signal}"),
        }),
        (None, None) => Some("it ended".to_owned()),
    }
}

/// What this process has used of the processors.
pub(crate) fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn ends_are_told_by_status_and_signal() {
        let end = |script: &str| {
            let status = Command::new("sh").args(["-c", script]).status();
            words_for_end(status.expect("it starts"))
        };
        assert_eq!(end("exit 0"), None);
        assert_eq!(end("exit 3").as_deref(), Some("it ended with status 3"));
        assert_eq!(
            end("kill -9 $$").as_deref(),
            Some("it was ended by signal 9 (SIGKILL)")
        );
    }
}
