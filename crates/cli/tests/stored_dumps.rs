//! `vmshm inspect` and `vmshm translate` over small stored dumps, word for word.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const BANNER: &[u8] = b"Linux version 6.1.0-35-amd64 (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0-14) 12.2.0, GNU ld 2.40) #1 SMP PREEMPT_DYNAMIC Debian 6.1.137-1 (2025-05-07)\n\0";

/// A directory that goes when the test is over.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vmshm-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("made");
        Self(path)
    }

    /// A LiME dump of these ranges.
    fn lime(&self, name: &str, ranges: &[(u64, Vec<u8>)]) -> PathBuf {
        let mut bytes = Vec::new();
        for (start, memory) in ranges {
            bytes.extend_from_slice(&0x4c69_4d45_u32.to_le_bytes());
            bytes.extend_from_slice(&1_u32.to_le_bytes());
            bytes.extend_from_slice(&start.to_le_bytes());
            bytes.extend_from_slice(&(start + memory.len() as u64 - 1).to_le_bytes());
            bytes.extend_from_slice(&[0; 8]);
            bytes.extend_from_slice(memory);
        }
        let path = self.0.join(name);
        std::fs::write(&path, bytes).expect("written");
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn vmshm(arguments: &[&str], dump: &Path) -> Output {
    let subject = format!("dump:{}", dump.display());
    let words = arguments.iter().map(|word| {
        if *word == "DUMP" {
            subject.as_str()
        } else {
            word
        }
    });
    Command::new(env!("CARGO_BIN_EXE_vmshm"))
        .args(words)
        .output()
        .expect("it runs")
}

fn text(bytes: &[u8], dump: &Path) -> String {
    let text = String::from_utf8(bytes.to_vec()).expect("text");
    text.replace(&dump.display().to_string(), "FILE")
}

/// Two ranges of 64 KiB with a long hole, and a kernel in the second.
fn two_ranges(directory: &Directory) -> PathBuf {
    let mut kernel = vec![0; 0x1_0000];
    kernel[..BANNER.len()].copy_from_slice(BANNER);
    directory.lime(
        "memory.lime",
        &[(0x1000, vec![7; 0x1_0000]), (0x1_0000_0000, kernel)],
    )
}

#[test]
fn a_dump_is_shown_with_its_ranges_and_its_system() {
    let directory = Directory::new("inspected");
    let dump = two_ranges(&directory);
    let output = vmshm(&["inspect", "DUMP"], &dump);
    assert!(output.status.success(), "{output:?}");
    let expected = "\
dump    FILE
format  lime
RAM     128 KiB
guest   Linux 6.1.0-35-amd64

blocks
  0  64 KiB  64 KiB exist (100 %)  from byte 0x20
  1  64 KiB  64 KiB exist (100 %)  from byte 0x10040

layout
  0x000000001000-0x000000011000  64 KiB    block 0 + 0x0  stated by the dump's headers
  0x000000011000-0x000100000000  4.00 GiB  hole
  0x000100000000-0x000100010000  64 KiB    block 1 + 0x0  stated by the dump's headers

map
  0x0                                                  0x100010000
    ████████████████████████████//////████████████████████████████  pages that exist
    0000000000000000000000000000//////1111111111111111111111111111  RAM block
  · none to █ all; blank: no RAM; //: a hole too long to draw
";
    // Windows is not asked for holes of a file.
    let expected = if cfg!(windows) {
        expected.replace("64 KiB exist (100 %)", "residency not known")
    } else {
        expected.to_owned()
    };
    assert_eq!(text(&output.stdout, &dump), expected);
    assert_eq!(text(&output.stderr, &dump), "");
}

#[test]
fn an_address_is_translated_into_a_place_of_the_file() {
    let directory = Directory::new("translated");
    let dump = two_ranges(&directory);
    let output = vmshm(&["translate", "DUMP", "0x100000010"], &dump);
    let expected = "\
guest-physical  0x100000010
RAM block       1 (FILE)
offset          0x10
file offset     0x10050
known           stated by the dump's headers
";
    assert_eq!(text(&output.stdout, &dump), expected);
    let output = vmshm(&["translate", "DUMP", "0x100000010", "--json"], &dump);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["file_offset"], 0x1_0050);
    assert_eq!(json["remaining"], 0xfff0);
    assert_eq!(json["source"], "dump-headers");
    assert_eq!(json["vmm_virtual"], serde_json::Value::Null);
    let output = vmshm(&["translate", "DUMP", "0x20000"], &dump);
    assert_eq!(output.status.code(), Some(2));
    let expected =
        "error: address 0x20000 is in a hole of the guest's RAM, between 0x11000 and 0x100000000\n";
    assert_eq!(text(&output.stderr, &dump), expected);
}

#[test]
fn a_raw_dump_without_a_system_is_shown_with_what_is_missing() {
    let directory = Directory::new("raw");
    let dump = directory.0.join("memory.raw");
    std::fs::write(&dump, vec![1; 8192]).expect("written");
    let output = vmshm(&["inspect", "DUMP"], &dump);
    assert!(output.status.success(), "{output:?}");
    let notes = text(&output.stderr, &dump);
    assert!(notes.contains("note: a raw file does not say"), "{notes}");
    assert!(notes.contains("hint: dumps as ELF cores"), "{notes}");
    assert!(
        notes.contains("no operating system was recognised"),
        "{notes}"
    );
    let quiet = vmshm(&["inspect", "DUMP", "--quiet"], &dump);
    assert!(quiet.stderr.is_empty());
}

/// A name that would be markup, as far as the system's names allow.
const ODD: &str = if cfg!(windows) {
    "a&lt;b&'.lime"
} else {
    "a<b>&\"c'.lime"
};
const ODD_IN_SVG: &str = if cfg!(windows) {
    "a&amp;lt;b&amp;&apos;.lime"
} else {
    "a&lt;b&gt;&amp;&quot;c&apos;.lime"
};

#[test]
fn pictures_appear_whole_and_hold_no_name_as_markup() {
    let directory = Directory::new("pictured");
    let odd = directory.0.join(ODD);
    std::fs::rename(two_ranges(&directory), &odd).expect("renamed");
    for (name, start) in [("p.svg", &b"<svg "[..]), ("p.png", b"\x89PNG\r\n")] {
        let path = directory.0.join(name);
        let path_text = path.display().to_string();
        let output = vmshm(
            &["inspect", "DUMP", "--picture", &path_text, "--json"],
            &odd,
        );
        assert!(output.status.success(), "{output:?}");
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(json["layout"][1]["gpa"], 1_u64 << 32);
        assert_eq!(json["holes"][0]["gpa"], 0x1_1000);
        let bytes = std::fs::read(&path).expect("a picture");
        assert!(bytes.starts_with(start), "{name}");
        if name == "p.svg" {
            let svg = String::from_utf8(bytes).expect("text");
            assert!(svg.contains(ODD_IN_SVG), "{svg}");
            assert!(!svg.contains("a<b>"));
        }
    }
    let left: Vec<_> = std::fs::read_dir(&directory.0).expect("listed").collect();
    assert_eq!(left.len(), 3, "no partial file is left: {left:?}");
    let output = vmshm(&["inspect", "DUMP", "--picture", "x.jpg"], &odd);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_file_that_is_no_dump_or_not_there_is_refused() {
    let directory = Directory::new("refused");
    let missing = directory.0.join("missing");
    for command in [&["inspect", "DUMP"][..], &["translate", "DUMP", "0"]] {
        let output = vmshm(command, &missing);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr, &missing).starts_with("error: cannot open the dump FILE: "));
    }
}

#[test]
fn of_a_great_many_ranges_the_first_are_listed_and_the_picture_stays_small() {
    let directory = Directory::new("many");
    let ranges: Vec<_> = (0..20_000)
        .map(|index| (index << 13, vec![1; 16]))
        .collect();
    let dump = directory.lime("memory.lime", &ranges);
    let picture = directory.0.join("p.svg");
    let output = vmshm(
        &[
            "inspect",
            "DUMP",
            "--picture",
            &picture.display().to_string(),
        ],
        &dump,
    );
    assert!(output.status.success(), "{output:?}");
    let shown = text(&output.stdout, &dump);
    assert!(shown.contains("  and 18000 more blocks; `--json` lists all\n"));
    assert!(shown.contains("  and 18000 more ranges; `--json` lists all\n"));
    assert!(shown.contains("\n  0x000000000010-0x000000002000  7.98 KiB  hole\n"));
    assert!(shown.lines().count() < 6100, "{}", shown.lines().count());
    let length = std::fs::metadata(&picture).expect("a picture").len();
    assert!(length < 8 << 20, "{length}");
    let output = vmshm(&["inspect", "DUMP", "--json"], &dump);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["layout"].as_array().expect("ranges").len(), 20_000);
    assert_eq!(json["holes"].as_array().expect("holes").len(), 19_999);
    // The last ones are found like the first.
    let output = vmshm(&["translate", "DUMP", "0x9c3e000"], &dump);
    assert!(text(&output.stdout, &dump).contains("RAM block       19999 "));
}
