//! Installs what cannot be unpacked below `target/`: QEMU and the like, through apt.
//!
//! As root, or through sudo where somebody sits at a terminal to answer it. Elsewhere it refuses, with the exact command.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, anyhow, bail};

use crate::command;
use crate::lock::Lock;
use crate::progress::Step;

/// The path of `program`, after installing `package` if it is missing.
pub fn program(program: &str, package: &str) -> Result<PathBuf> {
    program_of(program, &[package])
}

/// The path of `program`, after installing the packages that it needs if it is missing.
pub fn program_of(program: &str, packages: &[&str]) -> Result<PathBuf> {
    if let Some(found) = command::find(program) {
        return Ok(found);
    }
    let _lock = Lock::take("install")?;
    if command::find(program).is_none() {
        install(program, packages, false)?;
    }
    command::find(program).ok_or_else(|| {
        anyhow!(
            "{program} is still missing after installing {}",
            packages.join(" ")
        )
    })
}

/// Installs `package` for the sake of what is missing, which is no program.
pub fn package(missing: &str, package: &str) -> Result<()> {
    packages(missing, &[package])
}

/// Installs packages for the sake of what is missing.
pub fn packages(missing: &str, packages: &[&str]) -> Result<()> {
    let _lock = Lock::take("install")?;
    install(missing, packages, false)
}

/// As [`packages`], the newest that there are: the host's package lists may name older ones.
pub fn newest_packages(missing: &str, packages: &[&str]) -> Result<()> {
    let _lock = Lock::take("install")?;
    install(missing, packages, true)
}

/// Installs packages, with fresh package lists if the host's are empty or stale, or if that is asked for.
fn install(program: &str, packages: &[&str], newest: bool) -> Result<()> {
    let names = packages.join(" ");
    let by_hand =
        format!("{program} is missing\nhint: sudo apt-get install --no-install-recommends {names}");
    let root = rustix::process::geteuid().is_root();
    if command::find("apt-get").is_none() {
        bail!(
            "{program} is missing, and this host has no apt-get to install it with\nhint: install it by hand (Debian has it in: {names})"
        );
    }
    let can_ask = std::io::stdin().is_terminal() && command::find("sudo").is_some();
    if !root && !can_ask {
        bail!(by_hand);
    }
    let apt = |arguments: &[&str]| {
        let mut command = if root {
            Command::new("env")
        } else {
            Command::new("sudo")
        };
        command
            .args(["DEBIAN_FRONTEND=noninteractive", "apt-get"])
            .args(arguments);
        // sudo talks to the terminal, so its output is not kept.
        if root {
            command::output(&mut command).map(drop)
        } else {
            command::visible(&mut command)
        }
    };
    let _step = root.then(|| Step::start(format!("installing {names}")));
    let mut arguments = vec!["install", "-q", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    if !newest && apt(&arguments).is_ok() {
        return Ok(());
    }
    if let Err(error) = apt(&["update", "-q"]) {
        eprintln!("warning: {error}");
    }
    apt(&arguments)
}
