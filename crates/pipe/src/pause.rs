//! Carrying out a pause of the wire's wait schedule with this system's clock.

use std::time::Duration;

use vmshm_link::wait::{Backoff, Pause};

/// Pauses as the schedule says.
pub fn pause(backoff: &mut Backoff) {
    match backoff.pause() {
        Pause::Spin => std::hint::spin_loop(),
        Pause::Yield => std::thread::yield_now(),
        Pause::Sleep(micros) => std::thread::sleep(Duration::from_micros(u64::from(micros))),
    }
}
