//! What can be told of a machine without an agent: its layout from what firmware and
//! kernel left in memory, its system, and all of it drawn. QEMU's monitor is the truth.

use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;
use vmshm_vm_tests::environment;
use vmshm_vm_tests::lines::Lines;
use vmshm_vm_tests::monitor::Monitor;
use vmshm_vm_tests::patience::{LATER, wait_for};
use vmshm_vm_tests::processes::resident_memory;
use vmshm_vm_tests::program::{Program, Running, vmshm};

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;

/// A QEMU whose guest has no agent, with a monitor.
struct Bare {
    name: String,
    pid: u32,
    socket: PathBuf,
    booter: Option<Running>,
}

impl Bare {
    fn boot(label: &str, options: &[&str]) -> Self {
        let name = format!("vm-tests-{}-{label}", std::process::id());
        let socket = std::env::temp_dir().join(format!("{name}.qmp"));
        let mut command = Command::new(environment::booter());
        command
            .args(["vm", "qemu", "--no-agent", "--name", &name])
            .args(options)
            .arg("--")
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", socket.display()));
        let mut booter = Program::new(command).start();
        let said = Lines::collect(booter.stdout.take().expect("it is piped"));
        wait_for("machine that is up", LATER, || {
            said.so_far().ends_with('\n') || said.has_ended()
        });
        let up: Value = serde_json::from_str(&said.so_far())
            .unwrap_or_else(|_| panic!("no machine: {}", booter.errors.so_far()));
        Self {
            name,
            pid: u32::try_from(up["pid"].as_u64().expect("a number")).expect("a process"),
            socket,
            booter: Some(booter),
        }
    }

    fn inspect(&self) -> Value {
        vmshm(["inspect", &self.name, "--json"]).run().json()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        if let Some(booter) = self.booter.take().filter(|_| !std::thread::panicking()) {
            booter.signal(Signal::TERM);
            let _outcome = booter.wait(LATER);
        }
        // The VMM made it.
        let _ = std::fs::remove_file(&self.socket);
    }
}

#[test]
fn a_pc_above_four_gib_is_told_by_its_tables_and_read_right() {
    if environment::is_set_up() {
        check(
            &Bare::boot("pc", &["--machine", "pc", "--ram", "5G"]),
            5 << 30,
        );
    }
}

#[test]
fn a_small_q35_in_a_memfd_is_told_by_its_tables_and_read_right() {
    if environment::is_set_up() {
        let options = ["--machine", "q35", "--ram", "1G", "--backing", "memfd"];
        check(&Bare::boot("q35", &options), 1 << 30);
    }
}

fn check(machine: &Bare, ram_bytes: u64) {
    // While this test has the monitor, vmshm cannot ask it.
    let mut monitor = Monitor::connect(&machine.socket);
    let before = resident_memory(machine.pid);
    let told = machine.inspect();
    let after = resident_memory(machine.pid);
    let idle_growth = after.abs_diff(before);
    assert_eq!(told["ram_bytes"], ram_bytes, "{told:#}");
    assert_eq!(told["agent"], Value::Null, "{told:#}");
    let system = told["guest_os"].as_str().unwrap_or_default();
    assert!(system.starts_with("Linux "), "{told:#}");
    let ranges = told["layout"].as_array().expect("a layout").clone();
    let length: u64 = ranges.iter().map(|range| number(range, "length")).sum();
    // All but the old graphics memory.
    assert_eq!(length, ram_bytes - 0x2_0000, "{told:#}");
    for range in &ranges {
        let source = range["source"].as_str().unwrap_or_default();
        assert!(
            ["firmware-tables", "guest-page-tables"].contains(&source),
            "{range} of {told:#}"
        );
    }
    monitor.pause(true);
    let before = resident_memory(machine.pid);
    let _looked = machine.inspect();
    let after = resident_memory(machine.pid);
    environment::report(&format_args!(
        "{}: the VMM's memory changed by {} KiB while it was inspected, and by {} KiB while it ran",
        machine.name,
        after.abs_diff(before) >> 10,
        idle_growth >> 10,
    ));
    assert!(after.abs_diff(before) < MIB, "{before} became {after}");
    for range in &ranges {
        check_range(machine, &mut monitor, range);
    }
    monitor.pause(false);
    drop(monitor);
    // The monitor is free now, and knows it for sure.
    let high = ranges.last().map_or(0, |range| number(range, "gpa"));
    let address = format!("{high:#x}");
    let by_monitor = vmshm(["translate", &machine.name, &address, "--json"])
        .run()
        .json();
    assert_eq!(by_monitor["source"], "qmp", "{by_monitor:#}");
    let last = ranges.last().expect("a range");
    assert_eq!(by_monitor["offset"], last["offset"]);
    pictures(machine);
}

/// The first and the last page of a range and some in between are what the guest has.
fn check_range(machine: &Bare, monitor: &mut Monitor, range: &Value) {
    let (start, length) = (number(range, "gpa"), number(range, "length"));
    let pages = length / PAGE;
    let some = (0..3).map(|_| getrandom::u64().expect("random numbers") % pages);
    for page in [0, pages - 1].into_iter().chain(some) {
        let address = start + page * PAGE;
        let text = format!("{address:#x}");
        let read = vmshm(["read", &machine.name, &text, "4096"])
            .run()
            .success();
        assert!(
            read == monitor.memory(address, PAGE),
            "{text} is not what the guest has there"
        );
        let place = vmshm(["translate", &machine.name, &text, "--json"])
            .run()
            .json();
        assert_eq!(number(&place, "vmm_virtual"), monitor.host_address(address));
        assert_eq!(place["source"], range["source"], "{text}");
    }
}

fn pictures(machine: &Bare) {
    for (kind, start) in [("svg", &b"<svg "[..]), ("png", b"\x89PNG")] {
        let path = std::env::temp_dir().join(format!("{}.{kind}", machine.name));
        let file = path.display().to_string();
        vmshm(["inspect", &machine.name, "--picture", &file])
            .run()
            .success();
        let bytes = std::fs::read(&path).expect("a picture");
        std::fs::remove_file(&path).expect("it is there");
        assert!(bytes.starts_with(start) && bytes.len() > 4000, "{kind}");
    }
}

fn number(value: &Value, field: &str) -> u64 {
    let number = value[field].as_u64();
    number.unwrap_or_else(|| panic!("no {field} in {value}"))
}
