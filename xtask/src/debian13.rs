//! The Debian 13 tree that guests can run on, made once by mmdebstrap below `target/vm`.

use std::path::PathBuf;

use anyhow::{Result, bail};

/// The tree's directory, made if it is missing.
pub fn tree() -> Result<PathBuf> {
    bail!("not yet")
}
