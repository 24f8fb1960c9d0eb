//! What is a VM and what only looks like one, and what doctor says where something is in the way.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use vmshm_vm_tests::command_line::find;
use vmshm_vm_tests::environment::{self, is_root, own_program, skip};
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::machine::Kind;
use vmshm_vm_tests::patience::{SOON, wait_until};
use vmshm_vm_tests::program::{vmshm, vmshm_as_nobody};

/// A process that ends with its value.
struct Started(Child);

impl Started {
    fn new(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(command.spawn().expect("the program is there"))
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    fn line(&mut self) -> String {
        let mut said = String::new();
        let output = self.0.stdout.as_mut().expect("it is piped");
        BufReader::new(output)
            .read_line(&mut said)
            .expect("it says something");
        said.trim().to_owned()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn listed(pid: u32) -> Option<serde_json::Value> {
    let all = vmshm(["list", "--json"]).run().json();
    let all = all.as_array().expect("an array").clone();
    all.into_iter().find(|entry| entry["pid"] == pid)
}

/// The options of a QEMU that waits before its first instruction.
const WAITING: [&str; 8] = [
    "-S",
    "-display",
    "none",
    "-machine",
    "pc",
    "-m",
    "80",
    "-nodefaults",
];

#[test]
fn qemu_is_found_under_another_file_name_and_one_that_pretends_is_not() {
    if !environment::is_set_up() {
        return;
    }
    let Some(qemu) = find("qemu-system-x86_64") else {
        skip("QEMU is not installed");
        return;
    };
    let copy = std::env::temp_dir().join(format!("emulator-{}", std::process::id()));
    std::fs::copy(&qemu, &copy).expect("there is room");
    let renamed = Started::new(
        // A program in another place does not find its firmware by itself.
        Command::new(&copy)
            .args(["-L", "/usr/share/seabios", "-L", "/usr/share/qemu"])
            .args(WAITING)
            .args(["-name", "guest=other,debug-threads=on"]),
    );
    let entry = wait_until("renamed QEMU in the list", SOON, || listed(renamed.0.id()));
    assert_eq!(entry["vmm"], "qemu");
    assert_eq!(entry["name"], "other");
    assert_eq!(entry["ram_bytes"], 80 << 20);
    assert_eq!(entry["access"], "copy");
    std::fs::remove_file(&copy).expect("removed");
    // Its file is deleted, and it is still what it was.
    assert!(listed(renamed.0.id()).is_some());

    let pretender = Started::new(
        Command::new("sh")
            .arg0("qemu-system-x86_64")
            .args(["-c", "read line", "-name", "fake"])
            .args(WAITING),
    );
    assert_eq!(listed(pretender.0.id()), None);
}

/// Something that holds memory as the user nobody.
fn held(words: &[&str]) -> (Started, String) {
    let mut holder = Started::new(
        Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(own_program("hold-memory"))
            .args(words),
    );
    let descriptor = holder.line();
    (holder, descriptor)
}

#[test]
fn a_file_that_nobody_may_open_is_reached_by_a_copy_of_its_descriptor() {
    if !environment::is_set_up() || !is_root() {
        return;
    }
    let (holder, descriptor) = held(&["closed", "24"]);
    let path = format!("/proc/{}/fd/{descriptor}", holder.pid());
    let opened = Command::new("setpriv")
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "head",
            "-c",
            "1",
            &path,
        ])
        .stderr(Stdio::null())
        .status()
        .expect("there is setpriv");
    assert!(!opened.success(), "its mode lets nobody in");
    let read = vmshm_as_nobody(&["read", &holder.pid(), "0x1000", "19", "--method", "map"]).run();
    assert!(read.errors.contains("a guess"), "{}", read.errors);
    assert_eq!(read.success(), b"held by hold-memory");
}

#[test]
fn doctor_names_the_owner_and_what_is_not_dumpable() {
    if !environment::is_set_up() || !is_root() {
        return;
    }
    let (holder, _) = held(&["memfd", "24", "secret"]);
    let refused = vmshm_as_nobody(&["doctor", &holder.pid()]).run();
    refused.refused(&["not dumpable"]).hints(&["root"]);

    let machine = fleet::borrow(Kind::QemuPrivate(2)).expect("it is set up");
    let text = vmshm(["doctor", &machine.name]).run().text();
    for words in [
        "  copy: yes",
        "  map: no: the guest's RAM is private memory",
        "memory-backend-memfd",
        "  agent: running",
    ] {
        assert!(text.contains(words), "no {words:?} in\n{text}");
    }
    let seen = vmshm_as_nobody(&["doctor", &machine.name]).run().text();
    for words in [
        "  map: no: the process belongs to root (uid 0), and you are",
        "hint: run as root",
    ] {
        assert!(seen.contains(words), "no {words:?} in\n{seen}");
    }
    let all = vmshm(["doctor", "--json"]).run().json();
    let all = all.as_array().expect("an array");
    let entry = all
        .iter()
        .find(|entry| entry["pid"] == machine.pid)
        .expect("it is there");
    assert_eq!(entry["vmm"], "qemu");
    assert_eq!(entry["copy"]["works"], true);
    assert_eq!(entry["map"]["works"], false);
    assert!(
        entry["map"]["hint"]
            .as_str()
            .expect("a hint")
            .contains("copy")
    );
    assert_eq!(entry["graft"]["works"], true);
    assert_eq!(entry["agent"]["what"], "running");
}

#[test]
fn doctor_says_why_regions_of_shared_memory_are_not_grafted() {
    let Some(machine) = fleet::borrow(Kind::Uml) else {
        return;
    };
    // Its guest's processes are the host's, and have its memory mapped.
    let text = vmshm(["doctor", &machine.name]).run().text();
    for words in [
        "  map: yes",
        "  graft: no: other processes map the same memory",
        "use --method map",
    ] {
        assert!(text.contains(words), "no {words:?} in\n{text}");
    }
}

#[test]
fn under_yama_shared_memory_is_mapped_and_doctor_names_yama_for_the_rest() {
    let Some(machine) = fleet::borrow(Kind::QemuPrivate(2)) else {
        return;
    };
    // Yama is the guest kernel's: the guest looks at a process of its own.
    let vmshm = environment::program("vmshm");
    let vmshm = std::fs::canonicalize(vmshm).expect("it is there");
    let vmshm = format!(
        "setpriv --reuid=65534 --regid=65534 --clear-groups '{}'",
        vmshm.display()
    );
    let holder = environment::guest_program("hold-memory");
    for scope in [1, 2] {
        let script = format!(
            "cd /tmp; echo {scope} > /proc/sys/kernel/yama/ptrace_scope
             rm -f line said; mkfifo line; sleep 600 > line & keep=$!
             setpriv --reuid=65534 --regid=65534 --clear-groups {holder} memfd 24 < line > said & held=$!
             for try in $(seq 300); do [ -s said ] && break; sleep 0.1; done
             {vmshm} read $held 0x1000 19 --method map; echo
             {vmshm} read $held 0x1000 19 --method copy 2>&1; echo code $?
             {vmshm} doctor $held 2>&1
             kill $keep $held; rm -f line said
             mkfifo line; sleep 600 > line & keep=$!
             setpriv --reuid=65534 --regid=65534 --clear-groups {holder} closed 24 < line > said & held=$!
             for try in $(seq 300); do [ -s said ] && break; sleep 0.1; done
             {vmshm} read $held 0x1000 19 --method map 2>&1; echo closed $?
             kill $keep $held; rm -f line said; echo 0 > /proc/sys/kernel/yama/ptrace_scope"
        );
        let said = machine.guest.check(&script);
        for words in [
            "held by hold-memory",
            "code 2",
            "  map: yes",
            &format!(
                "  copy: no: the system forbids copying from other processes (ptrace_scope is {scope})"
            ),
            "set kernel.yama.ptrace_scope to 0",
            // Where the file's mode lets nobody in, Yama also keeps the descriptor from being copied.
            "closed 2",
            ", mode 0000) cannot be opened: Permission denied",
        ] {
            assert!(said.contains(words), "no {words:?} in\n{said}");
        }
    }
}
