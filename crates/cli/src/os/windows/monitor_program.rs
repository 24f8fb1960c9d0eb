//! The program that shows screens: its name, whether a file is one, and how it ended.
//!
//! Sources: ntstatus.h for the codes; "GetProcessTimes" (learn.microsoft.com/windows/win32).
#![allow(unsafe_code, reason = "the processor's time has no safe interface")]

use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use windows_sys::Win32::Foundation::{
    FILETIME, STATUS_ACCESS_VIOLATION, STATUS_CONTROL_C_EXIT, STATUS_DLL_NOT_FOUND,
    STATUS_STACK_BUFFER_OVERRUN,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, GetProcessTimes};

/// Its file's name.
pub(crate) const MONITOR_PROGRAM: &str = "vmshm-monitor.exe";

/// Whether a file can be started: it has the name already.
pub(crate) fn is_program(path: &Path) -> bool {
    path.is_file()
}

/// How a process ended, if that was not in good order.
pub(crate) fn words_for_end(status: ExitStatus) -> Option<String> {
    let code = status.code()?;
    let words = match code {
        0 => return None,
        // What crashed ends with the status of its fault, which is negative.
        ..0 => match code {
            STATUS_ACCESS_VIOLATION => "it was ended by an access violation".to_owned(),
            STATUS_STACK_BUFFER_OVERRUN => "it has ended itself at once".to_owned(),
            STATUS_CONTROL_C_EXIT => "it was ended with its console".to_owned(),
            STATUS_DLL_NOT_FOUND => "a library that it needs is not there".to_owned(),
            _ => format!("it was ended by status {code:#010x}"),
        },
        _ => format!("it ended with status {code}"),
    };
    Some(words)
}

/// What this process has used of the processors; zero where the system does not say.
pub(crate) fn processor_time() -> Duration {
    let mut times = [FILETIME::default(); 4];
    let [created, ended, system, user] = &mut times;
    // SAFETY: no preconditions; it answers a handle that stands for this process.
    let own = unsafe { GetCurrentProcess() };
    // SAFETY: the handle is open, and all four are places for a time.
    let done = unsafe { GetProcessTimes(own, created, ended, system, user) };
    if done == 0 {
        return Duration::ZERO;
    }
    // They count 100 nanoseconds.
    let duration = |time: &FILETIME| {
        let ticks = u64::from(time.dwHighDateTime) << 32 | u64::from(time.dwLowDateTime);
        Duration::from_nanos(ticks.saturating_mul(100))
    };
    duration(system) + duration(user)
}

#[cfg(test)]
mod tests {
    use std::os::windows::process::ExitStatusExt;

    use super::*;

    #[test]
    fn ends_are_told_by_status() {
        let end = |code: u32| words_for_end(ExitStatus::from_raw(code));
        assert_eq!(end(0), None);
        assert_eq!(end(3).as_deref(), Some("it ended with status 3"));
        let violation = end(STATUS_ACCESS_VIOLATION.cast_unsigned());
        assert!(violation.is_some_and(|words| words.contains("access violation")));
        assert_eq!(
            end(0xc000_0017).as_deref(),
            Some("it was ended by status 0xc0000017")
        );
    }
}
