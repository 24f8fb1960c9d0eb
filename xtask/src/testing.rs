//! `cargo xtask test`: formatting, lints, tidy, all tests, the model checks, and the tests on real VMs.
//!
//! Every step runs even if an earlier one failed; only what cannot work without the builds is left out. The last line is
//! always `N passed, N failed, N skipped`, summed over all test programs; a step that fails without a test counts as
//! one failure.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::bench::{self, BenchOptions};
use crate::vm::options::Vmm;
use crate::{
    artifacts, checkout, command, debian13, headless_windows, install, tidy, vm, volatility,
    windows,
};

/// The package whose tests boot VMs.
const VM_TESTS: &str = "vmshm-vm-tests";

/// What the tests' programs reported, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    passed: u64,
    /// Of the steps that have no tests, too.
    pub failed: u64,
    /// Of the steps that this host cannot do, too.
    pub skipped: u64,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (passed, failed, skipped) = (self.passed, self.failed, self.skipped);
        write!(
            formatter,
            "{passed} passed, {failed} failed, {skipped} skipped"
        )
    }
}

impl Counts {
    /// Adds the numbers of a line `test result: ok. 3 passed; 0 failed; 1 ignored; …`, if it is one.
    fn add_line(&mut self, line: &str) {
        let Some((_, results)) = line.split_once("test result: ") else {
            return;
        };
        let results = results
            .split_once(". ")
            .map_or(results, |(_, numbers)| numbers);
        for result in results.split(';') {
            let mut words = result.split_whitespace();
            let Some(number) = words.next().and_then(|number| number.parse::<u64>().ok()) else {
                continue;
            };
            match words.next() {
                Some("passed") => self.passed += number,
                Some("failed") => self.failed += number,
                Some("ignored") => self.skipped += number,
                _ => {}
            }
        }
    }
}

/// Runs everything and tells whether all of it passed. With `all`, the long tests run, too.
pub fn run(all: bool) -> bool {
    let mut counts = Counts::default();
    let mut failed_steps = Vec::new();
    for (name, step) in steps(all) {
        println!("== {name}");
        let before = counts.failed;
        let outcome = step(&mut counts);
        let _ = std::io::stdout().flush();
        if let Err(error) = outcome {
            eprintln!("failed: {name}: {error:#}");
            failed_steps.push(name);
            if counts.failed == before {
                counts.failed += 1;
            }
        }
    }
    for name in &failed_steps {
        println!("failed step: {name}");
    }
    println!("{counts}");
    failed_steps.is_empty()
}

/// One step: its headline, and what it does.
type Step = (&'static str, Box<dyn Fn(&mut Counts) -> Result<()>>);

/// The steps in their order.
fn steps(all: bool) -> Vec<Step> {
    let mut steps: Vec<Step> = vec![
        (
            "formatting",
            Box::new(|_| command::visible(artifacts::cargo().args(["fmt", "--all", "--check"]))),
        ),
        (
            "lints",
            Box::new(|_| {
                let lints = [
                    "clippy",
                    "--workspace",
                    "--all-targets",
                    "--quiet",
                    "--",
                    "-D",
                    "warnings",
                ];
                command::visible(artifacts::cargo().args(lints))
            }),
        ),
        (
            "tidy",
            Box::new(|_| match tidy::run()? {
                0 => Ok(()),
                errors => bail!("{errors} errors"),
            }),
        ),
        (
            "unit and documentation tests",
            Box::new(|counts| {
                tests(
                    artifacts::cargo().args([
                        "test",
                        "--no-fail-fast",
                        "--workspace",
                        "--exclude",
                        VM_TESTS,
                        "--exclude",
                        windows::TESTS,
                    ]),
                    counts,
                )
            }),
        ),
        (
            "model checks of the memory orderings",
            Box::new(model_checks),
        ),
        (
            "building the programs",
            Box::new(|_| artifacts::build_with_examples()),
        ),
        ("fetching what the VMs need", Box::new(move |_| fetch(all))),
        (
            "tests on real VMs",
            Box::new(move |counts| vm_tests(all, counts)),
        ),
        (
            "the programs for Windows, under Wine",
            Box::new(windows::test),
        ),
    ];
    if all {
        steps.push((
            "the long tests of grafting",
            Box::new(|counts| {
                let package = ["test", "--package", "vmshm-graft", "--test", "life"];
                tests(
                    artifacts::cargo().args(package).args(["--", "--ignored"]),
                    counts,
                )
            }),
        ));
        steps.push(("the benchmark's own checks", Box::new(bench_checks)));
        steps.push((
            "the benchmark, quickly",
            Box::new(|_| {
                bench::run(&BenchOptions {
                    quick: true,
                    ..BenchOptions::default()
                })
            }),
        ));
    }
    steps
}

/// The measuring program is a workspace of its own, which the steps above do not reach.
fn bench_checks(counts: &mut Counts) -> Result<()> {
    for mut command in bench::checks() {
        if command.get_args().any(|word| word == "test") {
            tests(&mut command, counts)?;
        } else {
            command::visible(&mut command)?;
        }
    }
    Ok(())
}

/// Runs the loom tests of `link`, in a build directory of their own because of their flags.
fn model_checks(counts: &mut Counts) -> Result<()> {
    let directory = checkout::root().join("crates/link/tests");
    if !directory.join("loom.rs").is_file() && !directory.join("loom/main.rs").is_file() {
        println!("there are no model checks yet");
        return Ok(());
    }
    let flags = format!(
        "{} --cfg loom",
        std::env::var("RUSTFLAGS").unwrap_or_default()
    );
    let mut loom = artifacts::cargo();
    loom.args([
        "test",
        "--package",
        "vmshm-link",
        "--release",
        "--test",
        "loom",
        "--target-dir",
    ]);
    loom.arg(artifacts::cargo_output().join("loom"));
    loom.env("RUSTFLAGS", flags.trim_start())
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    tests(&mut loom, counts)
}

/// What Bochs needs to run a boot sector: itself, a display without a screen, and firmware.
const BOCHS: [&str; 4] = ["bochs", "bochs-term", "bochsbios", "vgabios"];

/// Fetches kernels, QEMU and busybox now, so that no test waits for a download; and what only some tests need, which are
/// skipped where it cannot be had.
fn fetch(all: bool) -> Result<()> {
    if let Err(error) = volatility::python() {
        eprintln!("warning: the tests that need Volatility 3 will be skipped: {error:#}");
    }
    if let Err(error) = install::program_of("strace", &["strace"]) {
        println!(
            "strace cannot be had, and the test that counts system calls is skipped: {error:#}"
        );
    }
    if let Err(error) = headless_windows::fetch() {
        println!("windows cannot be shown, and their tests are skipped: {error:#}");
    }
    debian13::tree()?;
    if all && let Err(error) = debian13::systemd_tree() {
        println!("a tree with systemd cannot be had, and its test is skipped: {error:#}");
    }
    let uml = vm::fetch(Vmm::Uml);
    vm::fetch(Vmm::Qemu)?;
    if let Err(error) = install::program_of("bochs-bin", &BOCHS) {
        println!("Bochs cannot be had, and its test is skipped: {error:#}");
    }
    uml
}

/// What the tests' programs are told: where the built programs are, and what boots VMs.
pub fn environment() -> Result<[(&'static str, std::path::PathBuf); 2]> {
    let xtask = std::env::current_exe().context("xtask does not know its own path")?;
    Ok([
        ("VMSHM_DIST", checkout::root().join("target/dist")),
        ("VMSHM_XTASK", xtask),
    ])
}

/// Runs the tests that boot VMs, one after the other, on the programs just built.
fn vm_tests(all: bool, counts: &mut Counts) -> Result<()> {
    let mut command = artifacts::cargo();
    command.args([
        "test",
        "--no-fail-fast",
        "--package",
        VM_TESTS,
        "--release",
        "--",
        "--test-threads=1",
    ]);
    if all {
        command.arg("--include-ignored");
    }
    for (name, value) in environment()? {
        command.env(name, value);
    }
    if let Some(python) = volatility::present() {
        command.env("VMSHM_VOLATILITY", python);
    }
    let compiled = windows::compile_ahead();
    let outcome = tests(&mut command, counts);
    if let Some(compiled) = compiled {
        // Its outcome is looked at by the step that needs it.
        let _ = compiled.join();
    }
    outcome
}

/// Runs a test command with its output in the open, and adds up what it reports. All test programs run, also after one
/// that fails.
pub fn tests(command: &mut Command, counts: &mut Counts) -> Result<()> {
    let line = command::line(command);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {line}"))?;
    if let Some(output) = child.stdout.take() {
        let mut reader = BufReader::new(output);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes)? > 0 {
            let text = String::from_utf8_lossy(&bytes);
            print!("{text}");
            let _ = std::io::stdout().flush();
            counts.add_line(&text);
            bytes.clear();
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{line}: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_several_programs_add_up() {
        let mut counts = Counts::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.01s",
            "9 passed; 9 failed",
        ] {
            counts.add_line(line);
        }
        assert_eq!(
            counts,
            Counts {
                passed: 5,
                failed: 4,
                skipped: 1
            }
        );
    }
}
