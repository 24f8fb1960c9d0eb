//! Raw dumps whose memory begins like another format, as a guest may choose: they are read
//! as raw where that is asked for, and whoever makes one is told. Needs no VM.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

use std::path::Path;
use std::process::{Command, Output};

const MAGICS: [(&[u8], &str); 3] = [
    (b"\x7fELF\x02\x01\x01", "an ELF file"),
    (b"EMiL\x01\0\0\0", "a dump in LiME's format"),
    (b"\x1f\x8b\x08", "compressed by gzip"),
];

fn vmshm(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vmshm"))
        .current_dir(directory)
        .args(arguments)
        .output()
        .expect("it runs")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Two pages that begin so.
fn memory(magic: &[u8]) -> Vec<u8> {
    let mut memory = vec![5; 8192];
    memory[..magic.len()].copy_from_slice(magic);
    memory
}

#[test]
fn raw_memory_is_read_as_such_where_that_is_asked_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    for (magic, _) in MAGICS {
        let memory = memory(magic);
        std::fs::write(directory.join("memory"), &memory).expect("written");
        let taken_for_another = vmshm(directory, &["read", "dump:memory", "0", "8K"]);
        let errors = errors(&taken_for_another);
        assert_eq!(taken_for_another.status.code(), Some(2), "{errors}");
        assert!(errors.contains("`dump:raw:FILE`"), "{errors}");
        let raw = vmshm(directory, &["read", "dump:raw:memory", "0", "8K"]);
        assert!(raw.stdout == memory, "{raw:?}");
    }
    let missing = vmshm(directory, &["read", "dump:raw:missing", "0", "8K"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(errors(&missing).contains("cannot open the dump missing"));
}

// A name with a colon is none on Windows.
#[cfg(unix)]
#[test]
fn a_file_whose_name_begins_so_is_meant_itself() {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    std::fs::write(directory.join("memory"), b"the other").expect("written");
    std::fs::write(directory.join("raw:memory"), b"this one!").expect("written");
    let output = vmshm(directory, &["read", "dump:raw:memory", "0", "9"]);
    assert_eq!(output.stdout, b"this one!", "{output:?}");
}

#[test]
fn whoever_makes_a_raw_dump_that_looks_like_another_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    for (magic, name) in MAGICS {
        std::fs::write(directory.join("memory"), memory(magic)).expect("written");
        for output in ["file", if cfg!(windows) { "NUL" } else { "/dev/null" }] {
            let dump = ["dump", "dump:raw:memory", "-o", output, "--format", "raw"];
            let dumped = vmshm(directory, &dump);
            assert!(dumped.status.success(), "{dumped:?}");
            let expected = format!("warning: the guest's memory begins like {name}, ");
            assert!(errors(&dumped).contains(&expected), "{dumped:?}");
        }
        let elf = ["dump", "dump:raw:memory", "-o", "file", "--format", "elf"];
        assert!(!errors(&vmshm(directory, &elf)).contains("warning"));
    }
    std::fs::write(directory.join("memory"), memory(b"")).expect("written");
    let dump = ["dump", "dump:memory", "-o", "file", "--format", "raw"];
    let dumped = vmshm(directory, &dump);
    assert!(dumped.status.success() && !errors(&dumped).contains("warning"));
}
