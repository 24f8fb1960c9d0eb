//! Ctrl-C and its like: noted, and looked at between rounds, so that everything that was made is also removed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

fn noted() -> &'static Arc<AtomicUsize> {
    static NOTED: OnceLock<Arc<AtomicUsize>> = OnceLock::new();
    NOTED.get_or_init(Arc::default)
}

/// Notes signals from now on instead of dying of them.
pub fn note() -> Result<()> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let number = usize::try_from(signal)?;
        signal_hook::flag::register_usize(signal, Arc::clone(noted()), number)
            .context("cannot watch for signals")?;
    }
    Ok(())
}

/// An error if a signal came.
pub fn check() -> Result<()> {
    match noted().load(Ordering::Relaxed) {
        0 => Ok(()),
        signal => bail!("ended by signal {signal}"),
    }
}
