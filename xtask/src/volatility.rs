//! Volatility 3, which the tests read dumps with: installed once by pip into a Python environment of its own below
//! `target/vm`.
//!
//! Where it cannot be had, that is the caller's to say; nothing but those tests needs it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::lock::Lock;
use crate::progress::Step;
use crate::{checkout, command, install};

/// The version that the tests were written with, so that another one is no surprise in a test run.
const REQUIREMENT: &str = "volatility3==2.28.2";

/// The Python that has Volatility 3, if it was fetched already.
pub fn present() -> Option<PathBuf> {
    let python = home().ok()?.join("bin/python");
    python.exists().then_some(python)
}

/// The Python that has Volatility 3, fetched if it is missing.
pub fn python() -> Result<PathBuf> {
    if let Some(python) = present() {
        return Ok(python);
    }
    let python3 = install::program("python3", "python3")?;
    let venv = |directory: &Path| {
        let mut command = Command::new(&python3);
        command.args(["-m", "venv"]).arg(directory);
        command
    };
    // A fresh Debian has Python without what makes environments.
    let ready = command::output(Command::new(&python3).args(["-c", "import venv, ensurepip"]));
    if ready.is_err() {
        install::package("Python's venv", "python3-venv")?;
    }
    let _lock = Lock::take("fetch")?;
    if let Some(python) = present() {
        return Ok(python);
    }
    let _step = Step::start("fetching Volatility 3");
    let scratch = tempfile::Builder::new()
        .prefix(".volatility-")
        .tempdir_in(checkout::vm_cache()?)?;
    // Its programs name the directory that it was made in; `bin/python` does not.
    let made = scratch.path().join("environment");
    command::output(&mut venv(&made)).context("cannot make an environment for Volatility 3")?;
    let pip = ["-m", "pip", "install", "--quiet", "--no-input", REQUIREMENT];
    command::output(Command::new(made.join("bin/python")).args(pip))
        .context("cannot install Volatility 3")?;
    let home = home()?;
    std::fs::rename(&made, &home).with_context(|| format!("cannot make {}", home.display()))?;
    Ok(home.join("bin/python"))
}

fn home() -> Result<PathBuf> {
    Ok(checkout::vm_cache()?.join("volatility"))
}
