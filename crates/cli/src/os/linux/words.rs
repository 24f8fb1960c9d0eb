//! What arguments are made of, and words for what is Linux's.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use vmshm_ram::ProcRoot;

/// Why `--method graft` is refused, if it is.
pub(crate) const GRAFT_REFUSAL: Option<&str> = None;

/// What to do where no VM was found.
pub(crate) const NO_MACHINE_HINT: &str =
    "a VM of another user or in another pid namespace may be hidden; run as root";

/// What to do where the system refuses a file for its length.
pub(crate) const FILE_TOO_LARGE_HINT: &str =
    "raise the limit (`ulimit -f`), or choose a file system that holds such a file";

/// The bytes of an argument, as they were typed.
///
/// # Errors
/// None here; a system whose arguments are no bytes refuses what it cannot say in UTF-8.
#[expect(
    clippy::unnecessary_wraps,
    reason = "the same name on a system where it can fail"
)]
pub(crate) fn pattern_bytes(argument: &OsStr) -> Result<Vec<u8>, String> {
    Ok(argument.as_bytes().to_vec())
}

/// What this user does not see of other users' VMs. Whoever is not root does not see
/// everything, and should know.
pub(crate) fn hidden_machines() -> Option<&'static str> {
    if ProcRoot::system().hides_processes() {
        Some(
            "/proc hides the processes of other users (hidepid), or shows a container's only; root outside of it sees all",
        )
    } else if !rustix::process::geteuid().is_root() {
        Some("of other users' processes only the command lines are seen; root sees all VMs")
    } else {
        None
    }
}

/// What to do about an error of a file; nothing that its text does not say.
pub(crate) const fn hint_for(_error: &io::Error) -> Option<&'static str> {
    None
}
