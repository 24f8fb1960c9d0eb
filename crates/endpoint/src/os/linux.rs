//! Linux: a futex's timeout is kept to some microseconds.

use std::time::Duration;

/// A wait that can be woken ends so much later than was asked for.
pub(crate) const STEP_OF_WAITS: Duration = Duration::ZERO;
