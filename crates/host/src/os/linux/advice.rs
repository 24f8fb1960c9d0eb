//! What a user of Linux can do.

/// For a VM whose process is stopped.
pub(crate) const LET_IT_RUN: &str = "let the VM run on (kill -CONT PID)";
/// For a VM that shows no life.
pub(crate) const IS_IT_PAUSED: &str = "is the VM paused? (kill -CONT PID)";
/// Where nobody has learned the beacon's place, and it shall not be scanned for.
pub(crate) const BEACON_UNKNOWN: &str = "give it with `--beacon GPA`, as `vmshm-agent status` prints it; or run `vmshm listen ADDR`, and `vmshm-agent run --connect` in the guest";
