//! Windows: a wait that can be woken (`WaitOnAddress`) ends at a tick of the system's timer,
//! 15.6 ms apart by default (learn.microsoft.com, "Wait functions and time-out intervals").
//! A plain sleep is as exact as half a millisecond, since `std` has it end by a timer of
//! high resolution where there is one.

use std::time::Duration;

/// A wait that can be woken ends so much later than was asked for.
pub(crate) const STEP_OF_WAITS: Duration = Duration::from_millis(16);
