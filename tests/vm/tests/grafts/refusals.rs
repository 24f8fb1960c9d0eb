//! What is grafted although it is confined, and what is refused: each with the reason, and unharmed.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use vmshm_shm::{Mapping, Protection, SharedMemory};
use vmshm_vm_tests::environment::{self, is_root, own_program, skip};
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::grafted::{Bytes, Work, graft_files, grafted_bytes};
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::{LATER, wait_for};
use vmshm_vm_tests::program::Program;

const SIZE: u64 = 1 << 20;

/// As libvirt starts it.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

#[test]
fn qemu_in_its_sandbox_is_grafted() {
    if !environment::is_set_up() || !is_root() {
        return;
    }
    let arguments = ["-sandbox", SANDBOX].map(str::to_owned);
    let kind = Kind::QemuPrivate(2);
    let machine = Machine::boot_with(kind, "sandbox", &[], &arguments, None);
    let filtered = std::fs::read_to_string(format!("/proc/{}/status", machine.pid));
    assert!(filtered.unwrap().contains("Seccomp:\t2"));
    let mut bytes = Bytes::create(&machine, "sandboxed", SIZE);
    let mut work = Work::start(&machine, 2);
    for _ in 0..6 {
        bytes.graft().success();
        assert_eq!(grafted_bytes(machine.pid), SIZE);
        bytes.check();
        bytes.change();
        work.goes_on();
        bytes.undo().success();
        bytes.check();
        work.goes_on();
    }
}

#[test]
fn qemu_with_a_list_of_allowed_calls_is_refused() {
    if !environment::is_set_up() || !is_root() {
        return;
    }
    // QEMU starts under a filter that ends it for a call which grafting needs.
    let directory = tempfile::tempdir().expect("there is room");
    let program = directory.path().join("qemu-system-x86_64");
    let Some(qemu) = found("qemu-system-x86_64") else {
        skip("there is no QEMU");
        return;
    };
    let allow = own_program("allow-calls");
    let script = format!(
        "#!/bin/sh\nexec '{}' '{}' \"$@\"\n",
        allow.display(),
        qemu.display()
    );
    std::fs::write(&program, script).expect("there is room");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, executable).expect("it is ours");
    let paths = std::env::var("PATH").unwrap_or_default();
    let kind = Kind::QemuPrivate(1);
    let variables = [("PATH", format!("{}:{paths}", directory.path().display()))];
    let machine = Machine::boot_in(kind, "allowed", (&[], &[]), None, &variables);
    refused_and_unharmed(
        &machine,
        &["filter of system calls does not allow mmap"],
        &["--method copy"],
    );
}

#[test]
fn a_device_that_may_have_pinned_pages_is_refused() {
    if !environment::is_set_up() || !is_root() {
        return;
    }
    // A file of that name does; nothing opens it but the VMM, which inherits it.
    let directory = Path::new("/dev/vfio");
    let made = std::fs::create_dir(directory).is_ok();
    let path = directory.join(format!("{}", std::process::id()));
    let file = match File::create(&path) {
        Ok(file) => file,
        Err(error) => {
            skip(&format!("no file can be made in /dev/vfio: {error}"));
            return;
        }
    };
    let kind = Kind::QemuPrivate(1);
    let machine = Machine::boot_with(kind, "vfio", &[], &[], Some(file.as_fd()));
    refused_and_unharmed(&machine, &["/dev/vfio/", "pinned"], &["passed-through"]);
    drop(machine);
    std::fs::remove_file(&path).expect("it is ours");
    if made {
        let _ = std::fs::remove_dir(directory);
    }
}

#[test]
fn a_traced_process_is_refused() {
    let Some(machine) = fleet::borrow(Kind::QemuPrivate(2)) else {
        return;
    };
    let mut command = if Command::new("gdb").arg("--version").output().is_ok() {
        let mut command = Command::new("gdb");
        command.args(["-batch", "-nx", "-ex", "continue", "-p"]);
        command
    } else if Command::new("strace").arg("-V").output().is_ok() {
        let mut command = Command::new("strace");
        command.args(["-f", "-o", "/dev/null", "-p"]);
        command
    } else {
        skip("there is neither gdb nor strace");
        return;
    };
    command.arg(machine.pid.to_string());
    // Nothing is looked up elsewhere.
    command.env_remove("DEBUGINFOD_URLS");
    let bytes = Bytes::create(&machine, "traced", SIZE);
    let mut work = Work::start(&machine, 2);
    let tracer = Program::new(command).start();
    let status = || std::fs::read_to_string(format!("/proc/{}/status", machine.pid)).unwrap();
    wait_for("tracer", LATER, || !status().contains("TracerPid:\t0"));
    work.goes_on();
    let outcome = bytes.graft();
    outcome.refused(&["traces it already"]).hints(&["debugger"]);
    work.goes_on();
    bytes.check();
    // It leaves by itself: a debugger that is killed may leave its interruption to the VMM.
    tracer.signal(rustix::process::Signal::INT);
    let _ = tracer.wait(LATER);
    wait_for("end of the tracer", LATER, || {
        status().contains("TracerPid:\t0")
    });
    work.goes_on();
    assert_eq!(graft_files(machine.pid), 0);
}

#[test]
fn memory_that_another_process_maps_is_refused() {
    let Some(machine) = fleet::borrow(Kind::QemuMemfd(2)) else {
        return;
    };
    let bytes = Bytes::create(&machine, "shared", SIZE);
    let mut work = Work::start(&machine, 2);
    let files = std::fs::read_dir(format!("/proc/{}/fd", machine.pid)).unwrap();
    let ram = files
        .filter_map(|file| Some(file.ok()?.path()))
        .find(|path| {
            let target = std::fs::read_link(path).unwrap_or_default();
            target
                .to_string_lossy()
                .starts_with("/memfd:memory-backend")
        })
        .expect("its RAM is a memory file");
    let file = File::open(&ram).expect("it may be opened");
    // As a device's own process would have it.
    let other = Mapping::whole(&file, machine.kind.ram_bytes(), Protection::Read).expect("mapped");
    let outcome = bytes.graft();
    let own = std::process::id().to_string();
    outcome
        .refused(&["other processes map the same memory", &own])
        .hints(&["--method map"]);
    assert!(other.size() > 0);
    drop(other);
    bytes.check();
    work.goes_on();
    assert_eq!(graft_files(machine.pid), 0);
}

fn refused_and_unharmed(machine: &Machine, words: &[&str], hints: &[&str]) {
    let mut bytes = Bytes::create(machine, "refused", SIZE);
    let mut work = Work::start(machine, 1);
    for _ in 0..3 {
        let outcome = bytes.graft();
        outcome.refused(words).hints(hints);
        work.goes_on();
    }
    bytes.check();
    bytes.change();
    bytes.check();
    assert_eq!(graft_files(machine.pid), 0);
}

fn found(program: &str) -> Option<std::path::PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths)
        .map(|path| path.join(program))
        .find(|path| path.is_file())
}
