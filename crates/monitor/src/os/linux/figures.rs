//! The processor's time, and how exactly this thread is woken.

use std::num::NonZeroU64;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Sleeps end this much late at most.
const TIMER_SLACK_NANOS: u64 = 1000;

/// What this process has used of the processors.
pub fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Has this thread's waits end as exactly as they can.
pub fn sharpen_timers() {
    // Without it every sleep of 50 us would take 100: only slower, so never mind.
    let slack = NonZeroU64::new(TIMER_SLACK_NANOS);
    let _ = rustix::thread::set_current_timer_slack(slack);
}
