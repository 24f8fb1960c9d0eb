//! `vmshm broker` as it is started: by hand with wrong rules, by systemd's way of handing over a socket, and the units
//! that do so. Needs no VM.
#![cfg(target_os = "linux")]
#![allow(
    clippy::expect_used,
    reason = "a test that cannot go on says so by panicking"
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// As long as a slow machine may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn vmshm() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmshm"));
    command.env_remove("VMSHM_BROKER");
    command
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    if !found {
        eprintln!("skipped: there is no {program}");
    }
    found
}

#[test]
fn wrong_rules_are_told_before_anybody_is_served() {
    let directory = tempfile::tempdir().expect("made");
    let rules = directory.path().join("rules.toml");
    std::fs::write(&rules, "[[allow]]\nuid = 1\nvms = []\n").expect("written");
    let output = vmshm()
        .args(["broker", "--rules"])
        .arg(&rules)
        .arg("--socket")
        .arg(directory.path().join("socket"))
        .arg("--state")
        .arg(directory.path().join("state"))
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(2));
    let text = errors(&output);
    assert!(
        text.contains("line 1: an entry names at least one VM"),
        "{text}"
    );
    assert!(!directory.path().join("socket").exists());
}

#[test]
fn a_broker_that_is_not_there_is_named() {
    let path = "/does/not/exist.sock";
    let output = vmshm()
        .args(["region", "list", "web", "--broker", path])
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(2));
    let text = errors(&output);
    assert!(
        text.contains("error: web: no broker can be reached at /does/not/exist.sock"),
        "{text}"
    );
    assert!(
        text.contains("hint: sudo systemctl start vmshm-broker"),
        "{text}"
    );
}

/// A broker that is started by whoever connects, as systemd does it.
fn activated(directory: &Path) -> Ended {
    let activator = Command::new("systemd-socket-activate")
        .arg("--seqpacket")
        .arg("--listen")
        .arg(directory.join("socket"))
        .arg(env!("CARGO_BIN_EXE_vmshm"))
        .args(["broker", "--rules"])
        .arg(directory.join("rules.toml"))
        .arg("--state")
        .arg(directory.join("state"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    Ended(activator)
}

/// Asks it for regions until it says one of these.
fn wait_until_it_says(directory: &Path, words: &[&str]) {
    let start = Instant::now();
    loop {
        let output = vmshm()
            .args(["region", "list", "no such VM", "--broker"])
            .arg(directory.join("socket"))
            .output()
            .expect("runs");
        let text = errors(&output);
        if words.iter().any(|word| text.contains(word)) {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{text}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_socket_that_systemd_hands_over_is_served() {
    if !is_installed("systemd-socket-activate") {
        return;
    }
    let directory = tempfile::tempdir().expect("made");
    let _activator = activated(directory.path());
    // Root may do everything, and nobody else anything.
    wait_until_it_says(directory.path(), &["no VM is called", "may use nothing"]);
}

#[test]
fn a_broker_that_systemd_starts_tells_wrong_rules_to_who_connects() {
    if !is_installed("systemd-socket-activate") {
        return;
    }
    let directory = tempfile::tempdir().expect("made");
    let rules = directory.path().join("rules.toml");
    std::fs::write(rules, "[[allow]]\nuid = 1\nvms = []\n").expect("written");
    let _activator = activated(directory.path());
    wait_until_it_says(
        directory.path(),
        &["line 1: an entry names at least one VM"],
    );
}

/// The units, with the program that was just built in the place of the installed one.
fn units(directory: &Path) -> Vec<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist/systemd");
    ["vmshm-broker.service", "vmshm-broker.socket"]
        .map(|name| {
            let text = std::fs::read_to_string(source.join(name)).expect("there");
            let text = text.replace("/usr/bin/vmshm", env!("CARGO_BIN_EXE_vmshm"));
            let path = directory.join(name);
            std::fs::write(&path, text).expect("written");
            path
        })
        .to_vec()
}

#[test]
fn systemd_finds_no_fault_with_the_units() {
    if !is_installed("systemd-analyze") {
        return;
    }
    let directory = tempfile::tempdir().expect("made");
    let output = Command::new("systemd-analyze")
        .arg("verify")
        .args(units(directory.path()))
        .output()
        .expect("runs");
    assert!(
        output.status.success() && errors(&output).is_empty(),
        "{}",
        errors(&output)
    );
}

#[test]
fn the_unit_sets_no_filter_of_system_calls() {
    let directory = tempfile::tempdir().expect("made");
    let service = &units(directory.path())[0];
    let text = std::fs::read_to_string(service).expect("there");
    // Each of these is done by a filter, and whoever is under one may not read another's.
    for option in [
        "SystemCall",
        "PrivateDevices",
        "ProtectKernel",
        "ProtectClock",
        "ProtectHostname",
        "Restrict",
        "MemoryDenyWriteExecute",
        "LockPersonality",
    ] {
        let is_set = text
            .lines()
            .any(|line| line.starts_with(option) && !line.starts_with("Restart"));
        assert!(!is_set, "{option}");
    }
    assert!(
        !text.contains("MemoryMax="),
        "grafted pages count for the unit"
    );
}
