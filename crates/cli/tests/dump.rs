//! `vmshm dump` as users type it, over small stored dumps: no VM and no root.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

use std::io::Read;
#[cfg(unix)]
use std::io::Write;
#[cfg(unix)]
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
#[cfg(target_os = "linux")]
use {
    rustix::process::{Pid, Signal, kill_process},
    std::process::Child,
    std::time::{Duration, Instant},
};

const VMSHM: &str = env!("CARGO_BIN_EXE_vmshm");
const PAGE: usize = 4096;

/// A directory with a small dump in LiME's format: a page of ones at 4 KiB, one of zeros
/// and one of twos behind it, and a page of threes at 4 GiB.
struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self {
            directory: tempfile::tempdir().expect("a directory"),
        };
        let mut bytes = lime_range(0x1000, &[[1; PAGE], [0; PAGE], [2; PAGE]].concat());
        bytes.extend(lime_range(1 << 32, &[3; PAGE]));
        std::fs::write(bench.path("source"), bytes).expect("written");
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn subject(&self, name: &str) -> String {
        format!("dump:{}", self.path(name).display())
    }

    fn dump(&self, from: &str, to: &str, more: &[&str]) -> Output {
        let mut command = Command::new(VMSHM);
        command
            .args(["dump", &self.subject(from), "-o"])
            .arg(self.path(to))
            .args(more);
        command.output().expect("it runs")
    }

    /// What is in the directory, in order.
    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.directory).expect("listed");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name())
            .map(|name| name.into_string().expect("text"))
            .collect();
        names.sort();
        names
    }

    fn read(&self, name: &str, address: &str, length: &str) -> Vec<u8> {
        let output = Command::new(VMSHM)
            .args(["read", &self.subject(name), address, length])
            .output()
            .expect("it runs");
        assert!(output.status.success(), "{}", errors(&output));
        output.stdout
    }
}

fn lime_range(start: u64, bytes: &[u8]) -> Vec<u8> {
    let mut all = b"EMiL\x01\0\0\0".to_vec();
    all.extend(start.to_le_bytes());
    all.extend((start + bytes.len() as u64 - 1).to_le_bytes());
    all.extend([0; 8]);
    all.extend(bytes);
    all
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn refused(output: &Output, words: &[&str]) {
    let errors = errors(output);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(output.stdout.is_empty());
    for word in words {
        assert!(errors.contains(word), "no {word:?} in {errors}");
    }
}

#[test]
fn each_format_holds_the_memory_and_says_so() {
    let bench = Bench::new();
    for format in ["elf", "lime", "raw"] {
        let output = bench.dump("source", format, &["--format", format]);
        assert!(output.status.success(), "{}", errors(&output));
        assert!(output.stdout.is_empty());
        let said = errors(&output);
        for words in [
            "layout: stated by the dump's headers",
            "16 KiB RAM to",
            &format!("({format}, 2 ranges)"),
            "/s",
        ] {
            assert!(said.contains(words), "no {words:?} in {said}");
        }
        assert!(!said.contains('\x1b') && !said.contains('\r'), "{said}");
        assert_eq!(bench.read(format, "0x1000", "4K"), [1; PAGE]);
        assert_eq!(bench.read(format, "0x2000", "4K"), [0; PAGE]);
        assert_eq!(bench.read(format, "0x3ffc", "4"), [2; 4]);
        assert_eq!(bench.read(format, "0x100000000", "4K"), [3; PAGE]);
        #[cfg(unix)]
        {
            let metadata = std::fs::metadata(bench.path(format)).expect("there");
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
            assert!(metadata.blocks() * 512 <= 64 << 10, "it is sparse");
        }
    }
    assert_eq!(bench.files(), ["elf", "lime", "raw", "source"]);
    let raw = std::fs::metadata(bench.path("raw")).expect("there").len();
    assert_eq!(raw, (1 << 32) + PAGE as u64);
}

#[test]
fn the_default_is_elf_and_quiet_is_quiet() {
    let bench = Bench::new();
    let output = bench.dump("source", "out", &["--quiet"]);
    assert!(output.status.success());
    assert_eq!(errors(&output), "");
    let mut head = [0; 4];
    let mut file = std::fs::File::open(bench.path("out")).expect("there");
    file.read_exact(&mut head).expect("read");
    assert_eq!(&head, b"\x7fELF");
}

#[test]
fn a_dump_of_a_dump_is_equal() {
    let bench = Bench::new();
    for format in ["elf", "lime"] {
        let options = ["--format", format];
        assert!(bench.dump("source", "first", &options).status.success());
        assert!(bench.dump("first", "second", &options).status.success());
        // Also in place: the old file is read until the new one is whole.
        assert!(bench.dump("second", "second", &options).status.success());
        let bytes = |name: &str| std::fs::read(bench.path(name)).expect("read");
        assert!(bytes("first") == bytes("second"), "{format}");
    }
    assert!(
        std::fs::read(bench.path("source")).expect("read") == {
            assert!(
                bench
                    .dump("first", "again", &["--format", "lime"])
                    .status
                    .success()
            );
            std::fs::read(bench.path("again")).expect("read")
        }
    );
}

#[test]
fn a_pipe_gets_the_same_bytes_as_a_file() {
    let bench = Bench::new();
    for format in ["elf", "lime"] {
        assert!(
            bench
                .dump("source", "file", &["--format", format])
                .status
                .success()
        );
        let file = std::fs::read(bench.path("file")).expect("read");
        let output = Command::new(VMSHM)
            .args([
                "dump",
                &bench.subject("source"),
                "-o",
                "-",
                "--format",
                format,
            ])
            .output()
            .expect("it runs");
        assert!(output.status.success(), "{}", errors(&output));
        assert!(output.stdout == file, "{format}");
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_with_a_name_stays_a_pipe() {
    let bench = Bench::new();
    let options = ["--format", "lime"];
    assert!(bench.dump("source", "file", &options).status.success());
    let pipe = bench.path("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("it runs");
    assert!(made.success());
    let reader = {
        let pipe = pipe.clone();
        std::thread::spawn(move || std::fs::read(pipe).expect("read"))
    };
    assert!(bench.dump("source", "pipe", &options).status.success());
    let file = std::fs::read(bench.path("file")).expect("read");
    assert!(reader.join().expect("it reads") == file);
    assert!(
        std::fs::metadata(&pipe)
            .expect("there")
            .file_type()
            .is_fifo()
    );
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let bench = Bench::new();
    let mut child = Command::new(VMSHM)
        .args([
            "dump",
            &bench.subject("source"),
            "-o",
            "-",
            "--format",
            "raw",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    let mut head = [0; 100];
    let mut stdout = child.stdout.take().expect("piped");
    stdout.read_exact(&mut head).expect("read");
    drop(stdout);
    assert!(child.wait().expect("it ends").success());
}

#[cfg(windows)]
#[test]
fn devices_are_written_and_not_replaced() {
    let bench = Bench::new();
    for name in ["NUL", r"\\.\NUL"] {
        let output = Command::new(VMSHM)
            .args(["dump", &bench.subject("source"), "-o", name])
            .args(["--format", "lime"])
            .output()
            .expect("it runs");
        assert!(output.status.success(), "{}", errors(&output));
    }
    assert_eq!(bench.files(), ["source"]);
}

#[cfg(unix)]
#[test]
fn devices_are_written_and_not_replaced() {
    let bench = Bench::new();
    let subject = bench.subject("source");
    for command in [
        vec!["dump", &subject, "-o", "/dev/null", "--format", "lime"],
        vec!["read", &subject, "0x1000", "16", "-o", "/dev/null"],
    ] {
        let output = Command::new(VMSHM).args(command).output().expect("it runs");
        assert!(output.status.success(), "{}", errors(&output));
        let kind = std::fs::metadata("/dev/null").expect("there").file_type();
        assert!(kind.is_char_device());
    }
    let output = Command::new(VMSHM)
        .args(["dump", &subject, "-o", "/dev/full", "--format", "lime"])
        .output()
        .expect("it runs");
    refused(
        &output,
        &[
            "error: cannot write /dev/full",
            "No space left",
            "hint: the dump needs up to",
        ],
    );
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_named_and_leaves_nothing() {
    let bench = Bench::new();
    std::fs::write(bench.path("big"), vec![7; 4 << 20]).expect("written");
    let script = r#"mount -t tmpfs -o size=1m none "$1" && shift && "$@"; code=$?; ls -A "$OLDPWD/small" 2>/dev/null >&2; exit $code"#;
    let small = bench.path("small");
    std::fs::create_dir(&small).expect("made");
    let probe = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg(r#"mount -t tmpfs -o size=1m none "$1""#)
        .arg("sh")
        .arg(&small)
        .output();
    if !probe.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: a small file system cannot be mounted here");
        return;
    }
    let script = script.replace("$OLDPWD/small", &small.display().to_string());
    let output = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            &script,
            "sh",
        ])
        .arg(&small)
        .args([VMSHM, "dump", &bench.subject("big"), "--quiet", "-o"])
        .arg(small.join("out"))
        .output()
        .expect("it runs");
    let name = small.join("out").display().to_string();
    refused(
        &output,
        &[
            &format!("error: cannot write {name}: No space left"),
            "hint: the dump needs up to 4 MiB of room, and 1 MiB are free there",
        ],
    );
    assert!(!errors(&output).contains("partial"), "{}", errors(&output));
}

#[cfg(unix)]
#[test]
fn a_limit_on_files_is_named_and_leaves_what_was_there() {
    let bench = Bench::new();
    std::fs::write(bench.path("out"), "old").expect("written");
    let output = Command::new("sh")
        .args(["-c", r#"ulimit -f 4; exec "$@""#, "sh", VMSHM, "dump"])
        .args([&bench.subject("source"), "--quiet", "-o"])
        .arg(bench.path("out"))
        .output()
        .expect("it runs");
    refused(
        &output,
        &[
            "error: cannot write",
            "out: File too large",
            "hint: the file would be",
            "ulimit -f",
        ],
    );
    assert_eq!(bench.files(), ["out", "source"]);
    assert_eq!(std::fs::read(bench.path("out")).expect("read"), b"old");
}

/// Starts a dump that takes a while, stops it as soon as its partial file is there, sends
/// it a signal, and lets it go on.
#[cfg(target_os = "linux")]
fn interrupted(bench: &Bench, signal: Signal) -> Option<Output> {
    // None of them is ignored, even where these tests run in the background or under `nohup`.
    let mut child: Child = Command::new("env")
        .args(["--default-signal=HUP,INT,TERM", VMSHM])
        .args(["dump", &bench.subject("big"), "-o"])
        .arg(bench.path("out"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let start = Instant::now();
    while !bench.files().iter().any(|name| name.contains("partial")) {
        if child.try_wait().expect("it is ours").is_some() {
            return None;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "it never starts");
    }
    for signal in [Signal::STOP, signal, Signal::CONT] {
        kill_process(Pid::from_child(&child), signal).expect("it is not reaped yet");
    }
    let output = child.wait_with_output().expect("it ends");
    (!output.status.success()).then_some(output)
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupted_dump_leaves_nothing() {
    let bench = Bench::new();
    let mut big = std::fs::File::create(bench.path("big")).expect("made");
    for _ in 0..96 {
        big.write_all(&[7; 1 << 20]).expect("written");
    }
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        // A dump that was done before the signal came tells nothing.
        let output = (0..50).find_map(|_| {
            let _ = std::fs::remove_file(bench.path("out"));
            interrupted(&bench, signal)
        });
        let output = output.expect("one of them is caught in the middle");
        refused(&output, &["error: interrupted; ", "out is not written"]);
        assert_eq!(bench.files(), ["big", "source"], "{signal:?}");
    }
}

#[test]
fn what_cannot_be_dumped_or_written_is_refused() {
    let bench = Bench::new();
    std::fs::write(bench.path("cut"), &lime_range(0, &[1; PAGE])[..100]).expect("written");
    std::fs::write(bench.path("gzip"), b"\x1f\x8b\x08\0rest").expect("written");
    std::fs::write(bench.path("empty"), b"").expect("written");
    std::fs::write(bench.path("high"), lime_range(1 << 63, &[1; PAGE])).expect("written");
    let before = bench.files();
    for (from, more, words) in [
        ("cut", &[][..], &["cut short", "hint:"][..]),
        ("gzip", &[], &["compressed by gzip", "hint: decompress"]),
        ("empty", &[], &["holds no memory"]),
        ("nowhere", &[], &["cannot open the dump"]),
        (
            "high",
            &["--format", "raw"],
            &["does not fit", "hint:", "elf"],
        ),
    ] {
        refused(&bench.dump(from, "out", more), words);
    }
    let no_place = bench.dump("source", "no/such", &[]);
    refused(&no_place, &["cannot create", "no/such"]);
    #[cfg(unix)]
    refused(&no_place, &["No such file"]);
    let directory = bench.directory.path().to_owned();
    refused(
        &bench.dump("source", ".", &[]),
        &["cannot create", &directory.display().to_string()],
    );
    assert_eq!(bench.files(), before);
    let missing = Command::new(VMSHM)
        .args(["dump", &bench.subject("source")])
        .output()
        .expect("it runs");
    refused(&missing, &["--output"]);
}
