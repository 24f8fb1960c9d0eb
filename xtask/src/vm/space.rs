//! Directories for a VM's own files: small ones, and one that can hold the guest's RAM.
//!
//! RAM goes to `/dev/shm`, where it never reaches a disk, unless that is too small; then to the temporary directory.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// A new directory for sockets and small files.
pub fn small() -> Result<TempDir> {
    new_in(&std::env::temp_dir())
}

/// A new directory on a file system with room for `ram` bytes.
pub fn for_ram(ram: u64) -> Result<TempDir> {
    let places = [PathBuf::from("/dev/shm"), std::env::temp_dir()];
    match places.iter().find(|place| room(place) >= ram) {
        Some(place) => new_in(place),
        None => bail!(
            "neither /dev/shm nor {} has room for {} MiB of RAM\nhint: give less --ram, or set TMPDIR",
            places[1].display(),
            ram >> 20
        ),
    }
}

/// Whether `/dev/shm` has room for `ram` bytes.
pub fn shared_memory_holds(ram: u64) -> bool {
    room(Path::new("/dev/shm")) >= ram
}

/// The bytes that a file in `directory` may still take; 0 where none can be made.
fn room(directory: &Path) -> u64 {
    let writable = rustix::fs::access(directory, rustix::fs::Access::WRITE_OK).is_ok();
    let Ok(status) = rustix::fs::statvfs(directory) else {
        return 0;
    };
    if writable {
        status.f_bavail.saturating_mul(status.f_frsize)
    } else {
        0
    }
}

/// A new private directory in `place`.
fn new_in(place: &Path) -> Result<TempDir> {
    let made = tempfile::Builder::new().prefix("vmshm-").tempdir_in(place);
    made.with_context(|| format!("cannot make a directory in {}", place.display()))
}
