//! Two threads, each on a processor of its own, that start at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::processors::{Processors, pin};

/// Runs `first` on this thread and `second` beside it. Gives the time from the start of both to the end of `second`,
/// and what that one gave.
pub fn run<T: Send>(
    processors: Processors,
    first: impl FnOnce() -> Result<()>,
    second: impl FnOnce() -> Result<T> + Send,
) -> Result<(Duration, T)> {
    let (ready, go) = (AtomicBool::new(false), AtomicBool::new(false));
    pin(processors.first)?;
    std::thread::scope(|scope| {
        let beside = scope.spawn(|| {
            let pinned = pin(processors.second);
            ready.store(true, Ordering::Release);
            while !go.load(Ordering::Acquire) {
                std::hint::spin_loop();
            }
            pinned?;
            let given = second()?;
            Ok::<_, anyhow::Error>((given, Instant::now()))
        });
        while !ready.load(Ordering::Acquire) {
            // It may have been put onto this very processor first.
            std::thread::yield_now();
        }
        let start = Instant::now();
        go.store(true, Ordering::Release);
        let done = first();
        let beside = beside.join().ok().context("the second thread panicked")?;
        done?;
        let (given, end) = beside?;
        Ok((end.duration_since(start), given))
    })
}
