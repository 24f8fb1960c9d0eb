//! Builds the programs of the project and puts them into `target/dist`: `vmshm`, `vmshm-monitor`, and `vmshm-agent` as a
//! static binary.
//!
//! A file in `target/dist` is replaced in one step, so that a VM that starts meanwhile finds the old or the new one.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::progress::Step;
use crate::{checkout, command};

/// The target of the static binaries. Named explicitly so that its flags do not reach build scripts.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds everything into `target/dist`.
pub fn build() -> Result<()> {
    let step = Step::start("building vmshm and vmshm-monitor");
    build_host(&[])?;
    drop(step);
    build_agent()
}

/// The same, and the examples, which the tests run on both sides. Together with the programs they
/// share what both are made of.
pub fn build_with_examples() -> Result<()> {
    let step = Step::start("building vmshm, vmshm-monitor and the examples");
    build_host(&["--package", "vmshm-examples", "--bins", "--examples"])?;
    drop(step);
    build_agent()
}

/// Builds the host's command `vmshm`, and `vmshm-monitor`, which it starts, and what else is named.
fn build_host(more: &[&str]) -> Result<()> {
    let packages = ["--package", "vmshm", "--package", "vmshm-monitor"];
    command::visible(
        cargo()
            .args(["build", "--quiet", "--release"])
            .args(packages)
            .args(more),
    )?;
    place(&cargo_output().join("release/vmshm"))?;
    place(&cargo_output().join("release/vmshm-monitor"))
}

/// Builds the guest's daemon, which must not need any library of the guest.
pub fn build_agent() -> Result<()> {
    let _step = Step::start("building vmshm-agent");
    let output = cargo_output().join("static");
    let flags = format!(
        "{} -C target-feature=+crt-static",
        std::env::var("RUSTFLAGS").unwrap_or_default()
    );
    let mut build = cargo();
    build
        .env("RUSTFLAGS", flags.trim_start())
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    build
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            "vmshm-agent",
            "--target",
            TARGET,
            "--target-dir",
        ])
        .arg(&output);
    command::visible(&mut build)?;
    place(&output.join(TARGET).join("release/vmshm-agent"))
}

/// Cargo itself, run in the checkout.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(checkout::root());
    command
}

/// Where cargo puts what it builds.
pub fn cargo_output() -> PathBuf {
    let chosen = std::env::var_os("CARGO_TARGET_DIR").filter(|directory| !directory.is_empty());
    checkout::root().join(chosen.map_or_else(|| PathBuf::from("target"), PathBuf::from))
}

/// Copies a finished program into `target/dist`, in one step, if it is not there yet.
fn place(program: &Path) -> Result<()> {
    let name = program.file_name().context("a program has a name")?;
    let name = name.to_string_lossy();
    place_in(program, &checkout::root().join("target/dist"), &name)
}

/// Copies a finished program into a directory under a name, in one step, if it is not there yet.
pub fn place_in(program: &Path, directory: &Path, name: &str) -> Result<()> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let contents =
        std::fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let place = directory.join(name);
    if std::fs::read(&place).is_ok_and(|old| old == contents) {
        return Ok(());
    }
    let scratch = tempfile::NamedTempFile::new_in(directory)?;
    std::fs::write(scratch.path(), contents)?;
    std::fs::set_permissions(
        scratch.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )?;
    scratch
        .persist(&place)
        .with_context(|| format!("cannot replace {}", place.display()))?;
    Ok(())
}
