//! The directory in which vmshm's commands of one user leave each other notes: what a
//! listener has learned, what the last list saw. Only that user may enter it. A
//! directory of somebody else, or one that others may enter, is neither read nor
//! written; a link is not followed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where it may lie, the best first. As far as possible that does not depend on how the
/// user has logged in.
pub(crate) fn candidates() -> Vec<PathBuf> {
    let user = rustix::process::geteuid();
    let mut directories = Vec::new();
    if user.is_root() {
        // In a guest that is a host, too, /run/vmshm is the agent's.
        directories.push(PathBuf::from("/run/vmshm-host"));
    }
    directories.push(PathBuf::from(format!("/run/user/{}/vmshm", user.as_raw())));
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    if let Some(runtime) = runtime.filter(|path| path.is_absolute()) {
        directories.push(runtime.join("vmshm"));
    }
    directories.push(PathBuf::from(format!("/tmp/vmshm-{}", user.as_raw())));
    directories
}

/// Whether this is a directory, not a link to one, of this user that nobody else may
/// enter.
pub(crate) fn is_ours_alone(directory: &Path) -> bool {
    fs::symlink_metadata(directory).is_ok_and(|found| {
        found.is_dir()
            && found.uid() == rustix::process::geteuid().as_raw()
            && found.mode() & 0o077 == 0
    })
}
