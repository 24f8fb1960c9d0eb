//! `vmshm dump` of real machines: other tools read the dumps, their bytes are the guest's, and a machine that dies in
//! the middle leaves nothing.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use vmshm_vm_tests::bytes::RandomBytes;
use vmshm_vm_tests::environment::{self, guest_program, report, skip};
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::{SOON, wait_for, wait_until};
use vmshm_vm_tests::processes;
use vmshm_vm_tests::program::{Outcome, Program, vmshm};
use vmshm_vm_tests::status::Status;

/// Dumps a machine into a file of this name, and shows how fast that was.
fn dump(machine: &Machine, directory: &TempDir, format: &str) -> PathBuf {
    let file = directory.path().join(format);
    let outcome = vmshm(["dump", &machine.name, "--format", format, "-o"])
        .argument(&file)
        .run();
    let said = outcome.errors.lines().last().unwrap_or_default().to_owned();
    outcome.success();
    assert!(said.starts_with("dumped "), "{said}");
    report(&said);
    file
}

fn read(subject: &str, address: u64, length: u64) -> Vec<u8> {
    vmshm([
        "read",
        subject,
        &format!("{address:#x}"),
        &length.to_string(),
    ])
    .run()
    .success()
}

fn subject(file: &Path) -> String {
    format!("dump:{}", file.display())
}

#[test]
fn volatility_reads_an_elf_dump() {
    read_by_volatility(Kind::QemuMemfd(1), "elf");
}

#[test]
fn volatility_reads_a_lime_dump() {
    read_by_volatility(Kind::QemuPrivate(2), "lime");
}

/// Volatility finds the kernel's banner, and at the address that it tells the machine has it.
fn read_by_volatility(kind: Kind, format: &str) {
    let Some(machine) = fleet::borrow(kind) else {
        return;
    };
    let Some(python) = environment::volatility() else {
        return;
    };
    let directory = tempfile::tempdir().expect("a directory");
    let file = dump(&machine, &directory, format);
    let banners = volatility(&python, &file, "banners.Banners", directory.path());
    let banners = banners.as_array().expect("a list");
    let version = format!("Linux version {} ", machine.guest.check("uname -r"));
    let of_kernel: Vec<(u64, &str)> = banners
        .iter()
        .filter_map(|found| Some((found["Offset"].as_u64()?, found["Banner"].as_str()?)))
        .filter(|(_, banner)| banner.starts_with(&version))
        .collect();
    let known = machine.guest.check("cat /proc/version");
    assert!(
        of_kernel.iter().any(|(_, banner)| *banner == known),
        "{known:?} is not in {banners:?}"
    );
    // The kernel's own banner never moves; copies of it may.
    let there = of_kernel.iter().filter(|(address, banner)| {
        read(&machine.name, *address, banner.len() as u64) == banner.as_bytes()
    });
    assert!(there.count() > 0, "{of_kernel:?}");
}

fn volatility(python: &Path, file: &Path, plugin: &str, cache: &Path) -> Value {
    // Its own start script names the directory that it was installed in; and it takes its name for an option.
    const START: &str = "import sys; sys.argv[0] = 'vol'; from volatility3.cli import main; main()";
    let mut command = Command::new(python);
    command
        .args(["-c", START])
        .args(["--quiet", "--offline", "--renderer", "json", "--cache-path"])
        .arg(cache)
        .arg("--file")
        .arg(file)
        .arg(plugin);
    Program::new(command).run().json()
}

#[test]
fn readelf_shows_the_ranges_of_ram() {
    for kind in [Kind::QemuMemfd(1), Kind::QemuPrivate(2)] {
        let Some(machine) = fleet::borrow(kind) else {
            return;
        };
        let directory = tempfile::tempdir().expect("a directory");
        let file = dump(&machine, &directory, "elf");
        let mut command = Command::new("readelf");
        command.args(["--program-headers", "--wide"]).arg(&file);
        if Command::new("readelf").arg("--version").output().is_err() {
            skip("there is no readelf (package binutils)");
            return;
        }
        let text = Program::new(command).run().text();
        assert!(text.contains("CORE (Core file)"), "{text}");
        let number = |word: &str| {
            let digits = word.strip_prefix("0x").expect("a hexadecimal number");
            u64::from_str_radix(digits, 16).expect("a number")
        };
        let mut sum = 0;
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.first() != Some(&"LOAD") {
                continue;
            }
            let [offset, _, physical, in_file, in_memory] =
                [1, 2, 3, 4, 5].map(|column| number(words[column]));
            assert_eq!(in_file, in_memory, "{line}");
            assert_eq!(offset % 4096, physical % 4096, "{line}");
            sum += in_file;
            // What the file holds there is what the machine has there.
            let address = format!("{physical:#x}");
            let known = vmshm(["read", &machine.name, &address, "1"]).run();
            known.success();
        }
        // The guest's firmware keeps some of RAM's addresses for itself.
        let ram = machine.kind.ram_bytes();
        assert!(
            sum <= ram && sum + (2 << 20) > ram,
            "{sum} of {ram}: {text}"
        );
        let room = file.metadata().expect("it is there").blocks() * 512;
        assert!(room < sum, "{room} of {sum} bytes: it is not sparse");
    }
}

#[test]
fn the_kernel_is_the_same_in_the_machine_and_in_its_dumps() {
    for kind in [Kind::QemuMemfd(1), Kind::QemuPrivate(2)] {
        let Some(machine) = fleet::borrow(kind) else {
            return;
        };
        let directory = tempfile::tempdir().expect("a directory");
        let map = machine.guest.check("cat /proc/iomem");
        let code = map
            .lines()
            .find(|line| line.ends_with("Kernel code"))
            .and_then(|line| line.trim().split(' ').next()?.split_once('-'))
            .expect("the kernel is somewhere");
        let [first, last] = [code.0, code.1]
            .map(|text| u64::from_str_radix(text, 16).expect("a hexadecimal number"));
        let length = (last + 1 - first).min(8 << 20);
        for format in ["elf", "lime", "raw"] {
            let before = read(&machine.name, first, length);
            let file = dump(&machine, &directory, format);
            let after = read(&machine.name, first, length);
            let dumped = read(&subject(&file), first, length);
            std::fs::remove_file(&file).expect("it is there");
            // The kernel patches itself, though rarely.
            let still = (0..dumped.len()).filter(|&at| before[at] == after[at]);
            let wrong = still.clone().filter(|&at| dumped[at] != before[at]).count();
            assert_eq!(wrong, 0, "{format}");
            assert!(still.count() * 100 > dumped.len() * 99);
            assert!(dumped.iter().any(|byte| *byte != 0));
        }
    }
}

#[test]
fn what_a_guest_wrote_is_in_the_dump() {
    let Some(machine) = fleet::borrow(Kind::Uml) else {
        return;
    };
    let directory = tempfile::tempdir().expect("a directory");
    let path = machine.path("dumped");
    vmshm(["region", "create", &path, "--size", "1M"])
        .run()
        .success();
    let seed = RandomBytes::fresh_seed();
    let status = Status::of(&machine.guest);
    let memory = &status.region("dumped").memory;
    let program = guest_program("write-file");
    machine
        .guest
        .check(&format!("{program} {} {} {seed}", memory.memory, 1 << 20));
    for format in ["elf", "lime", "raw"] {
        let file = dump(&machine, &directory, format);
        let bytes: Vec<u8> = memory
            .extents
            .iter()
            .flat_map(|extent| read(&subject(&file), extent.gpa, extent.length))
            .collect();
        assert!(bytes == RandomBytes::new(seed).take(1 << 20), "{format}");
    }
    vmshm(["region", "remove", &path]).run().success();
}

#[test]
fn nothing_comes_into_being_in_a_machine_that_is_dumped() {
    let Some(machine) = fleet::borrow(Kind::QemuPrivate(2)) else {
        return;
    };
    let resident = || {
        let path = format!("/proc/{}/status", machine.pid);
        let status = std::fs::read_to_string(path).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        kib.map(|kib: u64| kib << 10).expect("a size")
    };
    let paused = machine.pause();
    wait_for("machine that stands still", SOON, || {
        processes::is_stopped(machine.pid)
    });
    let before = resident();
    let outcome = vmshm(["dump", &machine.name, "-o", "/dev/null"]).run();
    let after = resident();
    drop(paused);
    outcome.success();
    assert!(
        after.abs_diff(before) < 1 << 20,
        "{before} and {after} bytes"
    );
}

#[test]
fn a_machine_that_dies_in_the_middle_leaves_no_dump() {
    if !environment::is_set_up() {
        return;
    }
    let machine = Machine::boot_as(Kind::Uml, "dying", &["--no-agent"]);
    let directory = tempfile::tempdir().expect("a directory");
    let outcome = wait_until("dump that is caught in the middle", 2 * SOON, || {
        killed_in_the_middle(&machine, &directory)
    });
    outcome.refused(&["the VM has ended while its memory was being dumped"]);
    let left = std::fs::read_dir(&directory).expect("listed").count();
    assert_eq!(left, 0, "nothing is left behind");
}

/// Starts a dump and stops it when it has hardly begun, then kills the machine and lets the dump go on. Nothing where
/// the dump was too fast for that; then the machine still lives.
fn killed_in_the_middle(machine: &Machine, directory: &TempDir) -> Option<Outcome> {
    let file = directory.path().join("out");
    let mut running = vmshm(["dump", &machine.name, "-o"]).argument(&file).start();
    let partial = || {
        let mut entries = std::fs::read_dir(directory).expect("listed").flatten();
        entries.find(|entry| entry.file_name().to_string_lossy().contains("partial"))
    };
    while partial().is_none() {
        if !running.is_running() {
            // It was faster than we are.
            std::fs::remove_file(&file).expect("it was whole");
            return None;
        }
    }
    running.signal(Signal::STOP);
    let begun = partial().and_then(|entry| entry.metadata().ok());
    let written = begun.map(|metadata| metadata.blocks() * 512);
    // A guest of this size has many times that in memory.
    if written.is_some_and(|written| written < 16 << 20) {
        machine.kill();
        wait_for("end of the machine", SOON, || !machine.is_alive());
        running.signal(Signal::CONT);
        return Some(running.wait(SOON));
    }
    running.signal(Signal::CONT);
    running.wait(SOON).success();
    std::fs::remove_file(&file).expect("it was whole");
    None
}
