//! What `doctor` says of this host beyond what it says of each VM.

use crate::diagnosis::Cause;

/// Nothing: what this program may do depends on the VM's process, and is said there.
pub(crate) const fn about_this_host() -> Vec<Cause> {
    Vec::new()
}
