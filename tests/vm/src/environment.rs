//! What `cargo xtask test` tells the tests: where the programs are. Without it nothing is booted, and that is said.

use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;

/// The directory with the programs under test.
const PROGRAMS: &str = "VMSHM_DIST";
/// The program that boots VMs.
const BOOTER: &str = "VMSHM_XTASK";

/// The Python that has Volatility 3, where it could be had.
const VOLATILITY: &str = "VMSHM_VOLATILITY";

/// Whether the programs are there; says why a test is skipped if not.
#[must_use]
pub fn is_set_up() -> bool {
    match (std::env::var_os(PROGRAMS), std::env::var_os(BOOTER)) {
        (Some(_), Some(_)) => true,
        (None, None) => {
            skip("`cargo xtask test` runs the tests on real VMs");
            false
        }
        _ => panic!("{PROGRAMS} and {BOOTER} go together"),
    }
}

/// Whether this is root; says why a test is skipped if not.
#[must_use]
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("this needs root");
    }
    root
}

/// A program under test.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    path(PROGRAMS).join(name)
}

/// A program of this package that runs in a guest, where it lies at the same path.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn guest_program(name: &str) -> String {
    format!("'{}'", own_program(name).display())
}

/// A program of this package.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn own_program(name: &str) -> PathBuf {
    let tests = std::env::current_exe().expect("a program knows its path");
    // target/release/deps/machines-…, beside which target/release/NAME lies.
    let found = tests
        .ancestors()
        .map(|directory| directory.join(name))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} was not built"))
}

/// An example of the project.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn example(name: &str) -> PathBuf {
    own_program(&format!("examples/{name}"))
}

/// An example as the guest runs it, where it lies at the same path.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn guest_example(name: &str) -> String {
    format!("'{}'", example(name).display())
}

/// The Python that has Volatility 3; says why a test is skipped if there is none.
#[must_use]
pub fn volatility() -> Option<PathBuf> {
    let python = std::env::var_os(VOLATILITY).map(PathBuf::from);
    if python.is_none() {
        skip("there is no Volatility 3; `cargo xtask test` fetches it with python3 and pip");
    }
    python
}

/// The program that boots VMs.
#[must_use]
pub fn booter() -> PathBuf {
    path(BOOTER)
}

fn path(variable: &str) -> PathBuf {
    let value = std::env::var_os(variable);
    PathBuf::from(value.unwrap_or_else(|| panic!("{variable} is not set")))
}

/// Says why a test is skipped, past the test runner's capture.
pub fn skip(reason: &str) {
    let test = std::thread::current();
    let name = test.name().unwrap_or("a test").to_owned();
    report(&format!("skipped: {name}: {reason}"));
}

/// Shows a figure, past the test runner's capture.
pub fn report(text: &dyn Display) {
    // Nobody may listen.
    let _ = writeln!(std::io::stderr(), "    {text}");
}
