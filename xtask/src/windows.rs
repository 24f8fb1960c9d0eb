//! `cargo xtask windows`: builds the host's programs for Windows into `target/dist/windows`, and runs the Windows tests
//! under Wine, with copies of the programs in `target/windows-tests`.
//!
//! Only the copies have the shim beside them that Wine 8 needs. Everything is built with the release profile, so that
//! what is shipped is what is tested, and no dependency is built twice. Wine keeps its own files below `target`, too.

mod toolchain;
mod wine;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::progress::Step;
use crate::testing::{self, Counts};
use crate::{artifacts, checkout, command, headless_windows};

use toolchain::Toolchain;
use wine::Wine;

/// The host's programs.
const PROGRAMS: [&str; 2] = ["vmshm.exe", "vmshm-monitor.exe"];
/// What plays a VMM, and the name under which it plays another.
const STAND_IN: &str = "vmware-vmx.exe";
const OTHER_STAND_INS: [&str; 2] = ["qemu-system-x86_64.exe", "holder.exe"];
/// The packages whose own tests run under Wine.
const UNIT_TESTED: [&str; 9] = [
    "vmshm-shm",
    "vmshm-link",
    "vmshm-channel",
    "vmshm-pipe",
    "vmshm-endpoint",
    "vmshm-ram",
    "vmshm-host",
    "vmshm-monitor",
    "vmshm",
];
/// The package that runs the programs under Wine.
pub const TESTS: &str = "vmshm-windows-tests";

/// Builds and tests; tells whether all tests passed.
pub fn run() -> Result<bool> {
    let mut counts = Counts::default();
    let outcome = Toolchain::fetch().and_then(|toolchain| build_and_test(&toolchain, &mut counts));
    if let Err(error) = &outcome {
        eprintln!("failed: {error:#}");
        if counts.failed == 0 {
            counts.failed = 1;
        }
    }
    println!("{counts}");
    Ok(outcome.is_ok())
}

/// The same as a step of all tests. A host that cannot get what compiles for Windows skips it, and says so.
pub fn test(counts: &mut Counts) -> Result<()> {
    match Toolchain::fetch() {
        Ok(toolchain) => build_and_test(&toolchain, counts),
        Err(error) => {
            println!("nothing can be compiled for Windows, and its tests are skipped: {error:#}");
            counts.skipped += 1;
            Ok(())
        }
    }
}

/// Compiles in the background what [`test`] will need, so that its time goes by while other tests wait for their VMs. What
/// fails here fails again there, and is told there.
pub fn compile_ahead() -> Option<std::thread::JoinHandle<()>> {
    let toolchain = Toolchain::fetch().ok()?;
    let compile = move || {
        let mut tests = unit_test_command(&toolchain);
        tests.arg("--no-run");
        for command in [build_command(&toolchain), tests] {
            let _ = command::output(&mut command::at_leisure(&command));
        }
    };
    std::thread::Builder::new()
        .name("for Windows".to_owned())
        .spawn(compile)
        .ok()
}

/// Builds and tests, and adds up what the tests report.
fn build_and_test(toolchain: &Toolchain, counts: &mut Counts) -> Result<()> {
    let wine = Wine::fetch();
    if let Err(error) = headless_windows::fetch() {
        println!("windows cannot be shown, and their tests are skipped: {error:#}");
    }
    let copies = build(toolchain)?;
    let wine = match wine {
        Ok(wine) => wine,
        Err(error) => {
            println!("Wine cannot be had, and all tests under it are skipped: {error:#}");
            counts.skipped += 1;
            return Ok(());
        }
    };
    wine.boot()?;
    let units = unit_tests(toolchain, &wine, &copies, counts);
    let whole = whole_tests(&wine, &copies, counts);
    wine.end();
    units.and(whole)
}

/// Builds the programs, and gives the directory of their copies for tests.
fn build(toolchain: &Toolchain) -> Result<PathBuf> {
    {
        let _step = Step::start("building vmshm.exe and vmshm-monitor.exe");
        command::visible(build_command(toolchain).arg("--quiet"))?;
    }
    let output = toolchain.output();
    let dist = checkout::root().join("target/dist/windows");
    let copies = checkout::target()?.join("windows-tests");
    for name in PROGRAMS {
        artifacts::place_in(&output.join(name), &dist, name)?;
        artifacts::place_in(&output.join(name), &copies, name)?;
    }
    artifacts::place_in(&output.join(STAND_IN), &copies, STAND_IN)?;
    for name in OTHER_STAND_INS {
        artifacts::place_in(&output.join(STAND_IN), &copies, name)?;
    }
    build_shim(toolchain, &copies)?;
    Ok(copies)
}

fn build_command(toolchain: &Toolchain) -> Command {
    let mut build = toolchain.cargo("build");
    for package in ["vmshm", "vmshm-monitor", "vmshm-stand-in"] {
        build.args(["--package", package]);
    }
    build
}

/// What builds and runs the packages' own tests.
fn unit_test_command(toolchain: &Toolchain) -> Command {
    let mut command = toolchain.cargo("test");
    command.args(["--no-fail-fast", "--lib", "--bins"]);
    for package in UNIT_TESTED {
        command.args(["--package", package]);
    }
    command
}

/// Builds the library that Wine lacks.
fn build_shim(toolchain: &Toolchain, directory: &Path) -> Result<()> {
    let source = checkout::root().join("tests/windows/shim/bcryptprimitives.c");
    let mut compiler = toolchain.compiler();
    compiler.args(["-Os", "-shared", "-o"]);
    compiler.arg(directory.join(SHIM)).arg(source);
    command::output(compiler.arg("-ladvapi32")).map(drop)
}

/// The library that Wine lacks.
const SHIM: &str = "bcryptprimitives.dll";

/// Runs the packages' own tests.
fn unit_tests(
    toolchain: &Toolchain,
    wine: &Wine,
    copies: &Path,
    counts: &mut Counts,
) -> Result<()> {
    // Test programs lie in a directory of cargo's; a library is looked for beside the program first.
    let beside = toolchain.output().join("deps");
    std::fs::create_dir_all(&beside)
        .with_context(|| format!("cannot make {}", beside.display()))?;
    std::fs::copy(copies.join(SHIM), beside.join(SHIM)).context("cannot copy the shim")?;
    let mut command = unit_test_command(toolchain);
    wine.runs_tests_of(&mut command);
    testing::tests(&mut command, counts)
}

/// Runs the programs, one test after the other.
fn whole_tests(wine: &Wine, copies: &Path, counts: &mut Counts) -> Result<()> {
    let mut command = artifacts::cargo();
    command.args(["test", "--no-fail-fast", "--release", "--package", TESTS]);
    command.args(["--", "--test-threads=1"]);
    command.env("VMSHM_WINDOWS", copies);
    wine.environment(&mut command);
    testing::tests(&mut command, counts)
}
