//! Locks between xtask processes of one checkout, so that several can start, fetch and end at once.
//!
//! The lock is advisory and lasts as long as the value; the kernel drops it when the process dies. Programs that xtask
//! starts do not inherit it.

use std::fs::File;

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

use crate::checkout;
use crate::progress::Step;

/// A lock, held until it is dropped.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the lock called `name`, and says so if another process has it.
    pub fn take(name: &str) -> Result<Self> {
        let path = checkout::vm_cache()?.join(format!("{name}.lock"));
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let _step = Step::start(format!("waiting for another xtask ({name})"));
            flock(&file, FlockOperation::LockExclusive)
                .with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Ok(Self { _file: file })
    }
}
