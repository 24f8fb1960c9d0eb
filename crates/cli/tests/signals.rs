//! Signals end commands in good order, and what was ignored when they started stays
//! ignored; so does the end of who reads. Needs no VM.
#![cfg(target_os = "linux")]
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const LISTEN: &[&str] = &["listen", "127.0.0.1:0"];
const WATCH: &[&str] = &["list", "--watch"];

/// A program that no signal is ignored for, even where these tests run in the background or under `nohup`.
fn undisturbed(program: &str) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP,INT,TERM", program]);
    command
}

/// Starts a command where a signal is ignored, as `nohup` starts it.
fn start_with_ignored_hangup(arguments: &[&str]) -> Child {
    undisturbed("sh")
        .args(["-c", r#"trap "" HUP; exec "$@""#, "sh"])
        .arg(env!("CARGO_BIN_EXE_vmshm"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs")
}

/// Whether a process catches or ignores a signal, by the name of the mask in /proc.
fn has(child: &Child, mask: &str, signal: Signal) -> bool {
    let path = format!("/proc/{}/status", child.id());
    let status = std::fs::read_to_string(path).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix(mask));
    let bits = u64::from_str_radix(line.expect("a mask").trim(), 16).expect("hexadecimal");
    bits & (1 << (signal.as_raw() - 1)) != 0
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("it is not reaped yet");
}

/// Waits for the end of a command that may go on for ever.
fn end_of(mut child: Child) -> Output {
    let start = Instant::now();
    while child.try_wait().expect("it is ours").is_none() {
        if start.elapsed() > Duration::from_secs(60) {
            let _ = child.kill();
            panic!("it goes on: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("it ends")
}

#[test]
fn ignored_signals_stay_ignored_and_others_end_it_well() {
    for arguments in [LISTEN, WATCH] {
        let child = start_with_ignored_hangup(arguments);
        while !has(&child, "SigCgt:", Signal::TERM) {
            std::thread::sleep(Duration::from_millis(5));
        }
        // That one is the last to be caught.
        assert!(has(&child, "SigCgt:", Signal::INT), "{arguments:?}");
        send(&child, Signal::HUP);
        assert!(has(&child, "SigIgn:", Signal::HUP), "{arguments:?}");
        assert!(!has(&child, "SigCgt:", Signal::HUP), "{arguments:?}");
        send(&child, Signal::TERM);
        let output = end_of(child);
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
    let output = end_of(child);
    assert!(output.status.success(), "{output:?}");
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("listed");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        let name = entry.expect("an entry").file_name();
        name.into_string().expect("text")
    };
    let mut names: Vec<_> = entries.map(name).collect();
    names.sort();
    names
}

fn read_into_file(directory: &Path) -> Command {
    let mut command = undisturbed(env!("CARGO_BIN_EXE_vmshm"));
    command
        .arg("read")
        .arg(format!("dump:{}", directory.join("source").display()))
        .args(["0", "96M", "-o"])
        .arg(directory.join("out"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Starts a read that takes a while, stops it as soon as its partial file is there, sends
/// it a signal, and lets it go on. Nothing where it was done before the signal came.
fn interrupted(directory: &Path, signal: Signal) -> Option<Output> {
    let mut child = read_into_file(directory).spawn().expect("it runs");
    let start = Instant::now();
    while !names(directory).iter().any(|name| name.contains("partial")) {
        if child.try_wait().expect("it is ours").is_some() {
            return None;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "it never starts");
    }
    for signal in [Signal::STOP, signal, Signal::CONT] {
        send(&child, signal);
    }
    let output = child.wait_with_output().expect("it ends");
    (!output.status.success()).then_some(output)
}

#[test]
fn an_interrupted_read_leaves_nothing_and_a_whole_one_is_for_its_owner() {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    std::fs::write(directory.join("source"), vec![7; 96 << 20]).expect("written");
    let out = directory.join("out");
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let output = (0..50).find_map(|_| {
            let _ = std::fs::remove_file(&out);
            interrupted(directory, signal)
        });
        let output = output.expect("one of them is caught in the middle");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let errors = String::from_utf8_lossy(&output.stderr);
        let expected = format!("error: interrupted; {} is not written", out.display());
        assert!(errors.contains(&expected), "{errors}");
        assert_eq!(names(directory), ["source"], "{signal:?}");
    }
    let whole = read_into_file(directory).output().expect("it runs");
    assert!(whole.status.success(), "{whole:?}");
    let metadata = std::fs::metadata(&out).expect("there");
    assert_eq!(metadata.len(), 96 << 20);
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
}
