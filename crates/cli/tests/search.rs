//! `vmshm search` as users run it, over small stored dumps: output, exit codes and
//! messages. Needs no VM.

use std::io::{BufRead, BufReader, Read, Write};
#[cfg(unix)]
use std::io::{Seek, SeekFrom};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::NamedTempFile;

/// A LiME dump of some ranges.
fn dump(ranges: &[(u64, &[u8])]) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a file");
    for (start, bytes) in ranges {
        let mut header = b"EMiL\x01\0\0\0".to_vec();
        header.extend(start.to_le_bytes());
        header.extend((start + bytes.len() as u64 - 1).to_le_bytes());
        header.extend([0; 8]);
        file.write_all(&header).expect("written");
        file.write_all(bytes).expect("written");
    }
    file
}

fn selector(dump: &NamedTempFile) -> String {
    format!("dump:{}", dump.path().display())
}

fn command(dump: &NamedTempFile, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmshm"));
    command.arg("search").arg(selector(dump)).args(arguments);
    command
}

fn search(dump: &NamedTempFile, arguments: &[&str]) -> Output {
    command(dump, arguments).output().expect("it runs")
}

/// What a search that finds something prints.
fn found(dump: &NamedTempFile, arguments: &[&str]) -> String {
    let output = search(dump, arguments);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Some memory with known words in it: three ranges, the first two of which touch.
fn sample() -> NamedTempFile {
    let mut first = vec![b'.'; 0x1000];
    first[0x10..0x1d].copy_from_slice(b"Linux version");
    first[0xffc..].copy_from_slice(b"left");
    let mut second = vec![b'.'; 0x800];
    second[..5].copy_from_slice(b"right");
    second[0x7fc..].copy_from_slice(b"left");
    let mut third = vec![0; 0x1000];
    third[..5].copy_from_slice(b"right");
    third[0x800..0x804].copy_from_slice(&[0xde, 0xad, 0xbe, 0xef]);
    third[0x900..0x90d].copy_from_slice(b"Linux version");
    dump(&[(0x1000, &first), (0x2000, &second), (0x1_0000_0000, &third)])
}

#[test]
fn text_is_found_at_guest_physical_addresses() {
    assert_eq!(
        found(&sample(), &["Linux version"]),
        "0x1010\n0x100000900\n"
    );
}

#[test]
fn a_match_crosses_ranges_that_touch_and_no_hole() {
    // Both second halves are there; only one follows its first half.
    assert_eq!(found(&sample(), &["leftright"]), "0x1ffc\n");
}

#[test]
fn several_patterns_of_both_kinds_are_told_apart() {
    let lines = found(
        &sample(),
        &["left", "Linux", "--hex", "de AD", "--hex", "beef"],
    );
    assert_eq!(
        lines,
        "0x1010\tLinux\n0x1ffc\tleft\n0x27fc\tleft\n0x100000800\tde AD\n0x100000802\tbeef\n0x100000900\tLinux\n"
    );
}

#[test]
fn json_is_one_array_of_objects_with_stable_names() {
    let sample = sample();
    let text = found(&sample, &["--json", "Linux", "--hex", "DEad"]);
    let array: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        array,
        json!([
            {"gpa": 0x1010, "pattern": "Linux", "kind": "text"},
            {"gpa": 0x1_0000_0800_u64, "pattern": "DEad", "kind": "hex"},
            {"gpa": 0x1_0000_0900_u64, "pattern": "Linux", "kind": "text"},
        ])
    );
    let none = search(&sample, &["--json", "not there"]);
    assert_eq!(none.status.code(), Some(1));
    assert_eq!(none.stdout, b"[]\n");
}

#[test]
fn alignment_and_limit_hold() {
    let memory = dump(&[(0x1003, &[b'a'; 100])]);
    assert_eq!(
        found(&memory, &["aa", "--align", "16"]),
        "0x1010\n0x1020\n0x1030\n0x1040\n0x1050\n0x1060\n"
    );
    assert_eq!(found(&memory, &["aa", "--limit", "2"]), "0x1003\n0x1004\n");
    assert_eq!(
        found(&memory, &["aa", "aaa", "--limit", "3", "--align", "0x40"]),
        "0x1040\taa\n0x1040\taaa\n"
    );
}

#[test]
fn nothing_found_is_exit_code_1_and_no_output() {
    let output = search(&sample(), &["nowhere to be seen"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(talk.contains("nothing found in the 10 KiB"), "{talk}");
    assert!(talk.contains("stated by the dump's headers"), "{talk}");
    let quiet = search(&sample(), &["nowhere to be seen", "--quiet"]);
    assert_eq!(quiet.status.code(), Some(1));
    assert!(quiet.stderr.is_empty(), "{quiet:?}");
}

#[test]
fn bad_input_is_refused_in_words() {
    let sample = sample();
    let cases: [(&[&str], &str); 9] = [
        (&[], "TEXT"),
        (&[""], "pattern 1 is empty"),
        (&["a", "--hex", ""], "pattern 2 is empty"),
        (&["--hex", "abc"], "odd number"),
        (&["--hex", "xy"], "no hexadecimal digit"),
        (&["a", "--limit", "0"], "0 matches"),
        (&["a", "--align", "0"], "multiple of"),
        (&["a", "--align", "many"], "expected a size"),
        (&["a", "--limit=-1"], "expected a number"),
    ];
    for (arguments, expected) in cases {
        let output = search(&sample, arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?} {output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        let talk = String::from_utf8_lossy(&output.stderr);
        assert!(talk.contains(expected), "{arguments:?}: {talk}");
    }
}

#[test]
fn dumps_that_cannot_be_read_are_refused() {
    let mut short = NamedTempFile::new().expect("a file");
    short.write_all(b"EMiL\x01\0\0\0").expect("written");
    let output = search(&short, &["a"]);
    assert_eq!(output.status.code(), Some(2));
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(
        talk.contains("cut short") && talk.contains("hint:"),
        "{talk}"
    );
}

#[cfg(unix)]
#[test]
fn a_pattern_may_be_any_bytes_that_can_be_typed() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let memory = dump(&[(0, b"..\xff\xfe\n-x..")]);
    let output = command(&memory, &["--json"])
        .arg(OsStr::from_bytes(b"\xff\xfe\n"))
        .args(["--", "-x"])
        .output()
        .expect("it runs");
    let array: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let addresses: Vec<_> = array
        .as_array()
        .into_iter()
        .flatten()
        .map(|found| found["gpa"].clone())
        .collect();
    assert_eq!(addresses, [json!(2), json!(5)]);
    assert_eq!(found(&memory, &["\n-", "x"]), "0x4\t\\n-\n0x6\tx\n");
}

#[test]
fn a_reader_that_leaves_early_is_a_success() {
    let memory = dump(&[(0, &vec![b'a'; 4 << 20])]);
    let mut child = command(&memory, &["a"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    stdout.read_line(&mut line).expect("a line");
    assert_eq!(line, "0x0\n");
    drop(stdout);
    let mut talk = String::new();
    let mut stderr = child.stderr.take().expect("a pipe");
    stderr.read_to_string(&mut talk).expect("read");
    assert!(child.wait().expect("ends").success(), "{talk}");
    assert!(!talk.contains("error"), "{talk}");
}

// Windows is not asked for holes: all of the file would be read.
#[cfg(unix)]
#[test]
fn a_sparse_dump_s_holes_are_not_searched() {
    let file = NamedTempFile::new().expect("a file");
    file.as_file().set_len(1 << 40).expect("grown");
    let mut place = file.as_file();
    place.seek(SeekFrom::Start(1 << 39)).expect("moved");
    place.write_all(b"needle").expect("written");
    let output = search(&file, &["needle"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(output.stdout, b"0x8000000000\n");
}

#[test]
fn help_says_that_dumps_can_be_searched() {
    for command in ["search", "read"] {
        let output = Command::new(env!("CARGO_BIN_EXE_vmshm"))
            .args([command, "--help"])
            .output()
            .expect("it runs");
        let help = String::from_utf8(output.stdout).expect("text");
        assert!(
            help.contains("dump:FILE") && help.contains("Example"),
            "{help}"
        );
    }
}
