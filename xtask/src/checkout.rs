//! Where things lie in this checkout: the root, `target/dist`, and the caches below `target/`.
//!
//! Everything that xtask fetches or makes lies below `<checkout>/target`, also where `CARGO_TARGET_DIR` sends
//! cargo's own output elsewhere. Refuses nothing; it only names paths.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result};

/// The root directory of the checkout.
///
/// Cargo names it when it runs xtask. Else it is the checkout around the working directory, and only then the one that
/// this xtask was built in: a checkout may have been moved or copied since, with its build directory.
pub fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let run_by_cargo =
            std::env::var("CARGO_PKG_NAME").is_ok_and(|package| package == env!("CARGO_PKG_NAME"));
        let named = std::env::var_os("CARGO_MANIFEST_DIR")
            .filter(|_| run_by_cargo)
            .map(PathBuf::from);
        let built = Path::new(env!("CARGO_MANIFEST_DIR"));
        let named = named
            .as_deref()
            .and_then(Path::parent)
            .map(Path::to_path_buf);
        named
            .or_else(around_here)
            .unwrap_or_else(|| built.parent().unwrap_or(built).to_path_buf())
    })
}

/// The nearest directory around the working directory that holds this very package.
fn around_here() -> Option<PathBuf> {
    let here = std::env::current_dir().ok()?;
    let is_checkout = |directory: &&Path| {
        directory.join("xtask/src/vm/guest/start.sh").is_file()
            && directory.join("Cargo.toml").is_file()
    };
    here.ancestors().find(is_checkout).map(Path::to_path_buf)
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
