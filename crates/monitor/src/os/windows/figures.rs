//! The processor's time, and how exactly this thread is woken.

use std::time::Duration;

use windows_sys::Win32::Foundation::FILETIME;
use windows_sys::Win32::System::Threading::{GetCurrentProcess, GetProcessTimes};

/// What this process has used of the processors; zero where the system does not say.
pub fn processor_time() -> Duration {
    let nothing = FILETIME {
        dwLowDateTime: 0,
        dwHighDateTime: 0,
    };
    let (mut created, mut ended, mut system, mut user) = (nothing, nothing, nothing, nothing);
    // SAFETY: no preconditions; it answers a handle that stands for this process.
    let own = unsafe { GetCurrentProcess() };
    // SAFETY: the handle is open, and all four are places for a time.
    let done = unsafe {
        GetProcessTimes(
            own,
            &raw mut created,
            &raw mut ended,
            &raw mut system,
            &raw mut user,
        )
    };
    if done == 0 {
        return Duration::ZERO;
    }
    duration(&system) + duration(&user)
}

/// They count 100 nanoseconds.
fn duration(time: &FILETIME) -> Duration {
    let ticks = u64::from(time.dwHighDateTime) << 32 | u64::from(time.dwLowDateTime);
    Duration::from_nanos(ticks.saturating_mul(100))
}

/// Has this thread's waits end as exactly as they can: they sleep on timers of high resolution
/// anyway.
pub const fn sharpen_timers() {}
