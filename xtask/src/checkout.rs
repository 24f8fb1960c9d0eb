//! Where things lie in this checkout: the root, `target/dist`, and the caches below `target/`.
//!
//! Everything that xtask fetches or makes lies below `<checkout>/target`, also where `CARGO_TARGET_DIR` sends
//! cargo's own output elsewhere. Refuses nothing; it only names paths.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The root directory of the checkout that this xtask was built from.
pub fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// `<checkout>/target`, made if it is missing.
pub fn target() -> Result<PathBuf> {
    made(root().join("target"))
}

/// The directory that holds the finished programs: `VMSHM_DIST` if a test run set it, else `target/dist`.
pub fn dist() -> PathBuf {
    prebuilt_dist().unwrap_or_else(|| root().join("target/dist"))
}

/// The directory of finished programs that the caller promises are up to date, if there is one.
pub fn prebuilt_dist() -> Option<PathBuf> {
    std::env::var_os("VMSHM_DIST")
        .filter(|dist| !dist.is_empty())
        .map(PathBuf::from)
}

/// The directory for what the VMs need: unpacked packages, apt's private state, trees, and the lock.
pub fn vm_cache() -> Result<PathBuf> {
    made(target()?.join("vm"))
}

/// Makes `directory` with its parents and gives it back.
fn made(directory: PathBuf) -> Result<PathBuf> {
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}
