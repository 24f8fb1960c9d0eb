//! Commands that go on until they are asked to end: signals end them in good order, what
//! was ignored when they started stays ignored, and so does a reader that leaves. Needs
//! no VM.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const HUP: u32 = 1;
const INT: u32 = 2;
const TERM: u32 = 15;
const LISTEN: &[&str] = &["listen", "127.0.0.1:0"];
const WATCH: &[&str] = &["list", "--watch"];

/// Starts a command where a signal is ignored, as `nohup` starts it.
fn start_with_ignored_hangup(arguments: &[&str]) -> Child {
    Command::new("sh")
        .args(["-c", r#"trap "" HUP; exec "$@""#, "sh"])
        .arg(env!("CARGO_BIN_EXE_vmshm"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs")
}

/// Whether a process catches or ignores a signal, by the name of the mask in /proc.
fn has(pid: u32, mask: &str, signal: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix(mask));
    let bits = u64::from_str_radix(line.expect("a mask").trim(), 16).expect("hexadecimal");
    bits & (1 << (signal - 1)) != 0
}

fn send(pid: u32, signal: &str) {
    let sent = Command::new("kill").args([signal, &pid.to_string()]).status();
    assert!(sent.expect("it runs").success());
}

#[test]
fn ignored_signals_stay_ignored_and_others_end_it_well() {
    for arguments in [LISTEN, WATCH] {
        let child = start_with_ignored_hangup(arguments);
        let pid = child.id();
        while !has(pid, "SigCgt:", TERM) {
            std::thread::sleep(Duration::from_millis(5));
        }
        // That one is the last to be caught.
        assert!(has(pid, "SigCgt:", INT), "{arguments:?}");
        send(pid, "-HUP");
        assert!(has(pid, "SigIgn:", HUP), "{arguments:?}");
        assert!(!has(pid, "SigCgt:", HUP), "{arguments:?}");
        send(pid, "-TERM");
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{arguments:?} {output:?}");
    }
}

#[test]
fn a_listener_ends_well_when_its_reader_leaves() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vmshm"))
        .args(LISTEN)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut line = String::new();
    let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    while !line.contains("listening at") {
        line.clear();
        let count = stderr.read_line(&mut line).expect("text");
        assert!(count > 0, "it ends before it listens");
    }
    drop(child.stdout.take());
    assert!(child.wait().expect("it ends").success());
}
