//! Measuring times of a hundred nanoseconds and less.

use std::time::Instant;

/// A moment: `CLOCK_MONOTONIC`, which counts nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment(Instant);

impl Moment {
    /// This moment.
    pub(crate) fn now() -> Self {
        Self(Instant::now())
    }

    /// How long ago it was.
    pub(crate) fn elapsed_nanoseconds(self) -> f64 {
        self.0.elapsed().as_secs_f64() * 1e9
    }
}
