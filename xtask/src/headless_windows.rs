//! What the tests and benchmarks need to show windows on a host without a screen: an X server in memory, programs that type,
//! click and look, and the libraries that `vmshm-monitor` loads when it opens a window.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::{artifacts, command, debian13, install, testing};

/// Everything at once: one call of apt.
const PACKAGES: [&str; 10] = [
    "xvfb",
    "xdotool",
    "x11-apps",
    "xauth",
    "libx11-6",
    "libx11-xcb1",
    "libxcursor1",
    "libxi6",
    "libxkbcommon0",
    "libxkbcommon-x11-0",
];
/// The programs among them.
const PROGRAMS: [&str; 3] = ["Xvfb", "xdotool", "xwd"];

/// Installs what is missing.
pub fn fetch() -> Result<()> {
    // The programs bring most of the libraries; the last one comes by its own package only.
    let is_there = PROGRAMS
        .iter()
        .all(|program| command::find(program).is_some())
        && command::output(Command::new("ldconfig").arg("-p"))
            .is_ok_and(|list| list.contains("libxkbcommon-x11.so.0"));
    if is_there {
        return Ok(());
    }
    install::packages("an X server in memory", &PACKAGES)
}

/// `cargo xtask picture`: boots a guest with a desktop, shows it in a window, and writes what is seen to `file`.
pub fn picture(file: &Path) -> Result<()> {
    fetch()?;
    install::program("openbox", "openbox")?;
    artifacts::build()?;
    debian13::tree()?;
    let mut cargo = artifacts::cargo();
    cargo.args(["run", "--quiet", "--release", "--package", "vmshm-vm-tests"]);
    cargo.args(["--bin", "window-picture", "--"]).arg(file);
    cargo.envs(testing::environment()?);
    command::visible(&mut cargo)
}
