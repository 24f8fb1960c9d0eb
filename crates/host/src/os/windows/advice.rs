//! What a user of Windows can do.

/// For a VM whose process is suspended.
pub(crate) const LET_IT_RUN: &str =
    "let the VM run on (in the VMM, or `Resume process` in Resource Monitor)";
/// For a VM that shows no life.
pub(crate) const IS_IT_PAUSED: &str =
    "is the VM paused? (resume it in the VMM, or by `Resume process` in Resource Monitor)";
/// Where nobody has learned the beacon's place, and it shall not be scanned for.
pub(crate) const BEACON_UNKNOWN: &str = "give it with `--beacon GPA`, as `vmshm-agent status` in the guest prints it, or leave out `--no-scan`";
