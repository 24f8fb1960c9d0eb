//! VMMs that choose odd names, and VMMs in other namespaces: listed as they are, and reached where that is possible.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use vmshm_vm_tests::environment::{self, is_root};
use vmshm_vm_tests::patience::{SOON, wait_until};
use vmshm_vm_tests::processes;
use vmshm_vm_tests::program::vmshm;

/// An emulator without a guest: it is stopped before its first instruction.
const EMULATOR: &str = "qemu-system-x86_64";
const IDLE: [&str; 6] = ["-S", "-nodefaults", "-display", "none", "-accel", "tcg"];

/// A process with all that it started; they are killed with the value.
struct Emulator(Child);

impl Emulator {
    fn start(command: &mut Command) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.expect("it starts"))
    }

    /// How it is listed, once it is.
    fn listed(&self) -> Value {
        wait_until("the emulator in the list", SOON, || {
            let mut ours = processes::descendants(self.0.id());
            ours.push(self.0.id());
            let listed = vmshm(["list", "--json"]).run().json();
            let entries = listed.as_array().expect("an array").clone();
            entries.into_iter().find(|entry| {
                ours.iter().any(|pid| entry["pid"] == *pid) && entry["access"] != "none"
            })
        })
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        for pid in processes::descendants(self.0.id()) {
            processes::signal(pid, rustix::process::Signal::KILL);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn names_of_any_bytes_are_shown_and_do_nothing() {
    if !environment::is_set_up() {
        return;
    }
    let name = b"odd \x1b[31mred\x1b[2J\nsecond line\r\x07\xff\xc2\x9bZ";
    let emulator = Emulator::start(
        Command::new(EMULATOR)
            .args(IDLE)
            .args(["-m", "72M", "-name"])
            .arg(OsStr::from_bytes(name)),
    );
    let listed = emulator.listed();
    let shown = listed["name"].as_str().expect("text");
    assert_eq!(
        shown,
        String::from_utf8_lossy(name),
        "JSON has the name itself"
    );

    let pid = listed["pid"].to_string();
    let machines = vmshm(["list", "--json"]).run().json();
    let watched = vmshm(["list", "--watch", "--timeout", "0.1"]).run();
    let inspected = vmshm(["doctor", &pid]).run();
    let refused = vmshm(["region", "list", shown]).run();
    refused.refused(&["\\u{1b}[31mred"]);
    let table = vmshm(["list"]).run().text();
    // Others may come and go, but a name never makes a line.
    assert!(table.lines().count() <= machines.as_array().expect("an array").len() + 3);
    let row = table.lines().find(|row| row.starts_with(&pid));
    let row = row.unwrap_or_else(|| panic!("{pid} is not in {table}"));
    assert!(
        row.contains("\\u{1b}[31mred\\u{1b}[2J\\nsecond line\\r\\u{7}"),
        "{row}"
    );
    for text in [
        table,
        watched.text(),
        inspected.text(),
        refused.errors.clone(),
    ] {
        let acts = |character: char| character.is_control() && character != '\n';
        assert!(!text.contains(acts), "{text:?}");
    }
}

#[test]
fn a_machine_in_other_namespaces_is_found_and_reached() {
    if !environment::is_set_up() || !is_root() {
        return;
    }
    // Its RAM's file lies on a file system that only it has mounted.
    let script = format!(
        "mount -t tmpfs -o size=96M private /mnt && exec {EMULATOR} {} -m 80M -name elsewhere \
         -object memory-backend-file,id=ram,size=80M,share=on,mem-path=/mnt/ram \
         -machine pc,memory-backend=ram",
        IDLE.join(" ")
    );
    let emulator = Emulator::start(Command::new("unshare").args([
        "--pid",
        "--mount",
        "--fork",
        "--mount-proc",
        "sh",
        "-c",
        &script,
    ]));
    let listed = emulator.listed();
    assert_eq!(listed["vmm"], "qemu", "{listed}");
    assert_eq!(listed["name"], "elsewhere", "{listed}");
    assert_eq!(listed["ram_bytes"], 80 << 20, "{listed}");
    assert_eq!(listed["backing"], "shared", "{listed}");
    assert_eq!(listed["access"], "map", "{listed}");
    let read = vmshm(["read", &listed["pid"].to_string(), "0x100000", "4096"]).run();
    assert_eq!(read.success(), vec![0; 4096], "it has not run yet");
}
