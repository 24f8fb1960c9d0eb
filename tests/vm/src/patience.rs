//! Waiting for a condition, with a deadline so generous that only a hang misses it.

use std::time::{Duration, Instant};

/// For what takes a moment, on a machine with other things to do.
pub const SOON: Duration = Duration::from_secs(60);
/// For what takes its time: transfers, boots, filling memory.
pub const LATER: Duration = Duration::from_secs(180);

/// For what must be said soon after a death: three times what is promised, for machines with other things to do.
pub const SURVIVORS: Duration = Duration::from_secs(6);

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// Looks again and again until there is a result.
///
/// # Panics
/// After `limit`, with what was waited for.
pub fn wait_until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(result) = look() {
            return result;
        }
        assert!(start.elapsed() < limit, "no {what} within {limit:?}");
        std::thread::sleep(LOOK);
    }
}

/// Looks again and again until something holds.
///
/// # Panics
/// After `limit`, with what was waited for.
pub fn wait_for(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    wait_until(what, limit, || holds().then_some(()));
}

/// Looks again and again until a number has come to `goal`: however long that takes, as long as it grows.
///
/// # Panics
/// When it stands still for `limit`.
pub fn wait_for_growth(what: &str, limit: Duration, goal: u64, mut number: impl FnMut() -> u64) {
    let (mut last, mut grown) = (number(), Instant::now());
    while last < goal {
        std::thread::sleep(LOOK);
        let now = number();
        if now > last {
            (last, grown) = (now, Instant::now());
        }
        assert!(
            grown.elapsed() < limit,
            "no {what} for {limit:?}, after {last} of {goal}"
        );
    }
}
