//! `vmshm search` on running machines: what lies where the agent says is found there and nowhere else, and looking
//! makes the VMM no larger.

use std::path::PathBuf;

use serde_json::{Value, json};
use vmshm_vm_tests::bytes::{RandomBytes, hexadecimal};
use vmshm_vm_tests::environment::report;
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::{SOON, wait_for};
use vmshm_vm_tests::processes;
use vmshm_vm_tests::program::vmshm;
use vmshm_vm_tests::status::Status;

/// How much larger a VMM may be after a look at it.
const LARGER_BY: u64 = 1 << 20;

#[test]
fn what_lies_in_uml_is_found_and_nothing_comes_into_being() {
    find_in(Kind::Uml);
}

#[test]
fn what_lies_in_private_ram_is_found_and_nothing_comes_into_being() {
    find_in(Kind::QemuPrivate(2));
}

#[test]
fn what_lies_in_a_memfd_is_found_and_nothing_comes_into_being() {
    find_in(Kind::QemuMemfd(1));
}

fn find_in(kind: Kind) {
    let Some(machine) = fleet::borrow(kind) else {
        return;
    };
    let path = machine.path("sought");
    vmshm(["region", "create", &path, "--size", "64K"])
        .run()
        .success();
    let brand = hexadecimal(&RandomBytes::new(RandomBytes::fresh_seed()).take(24));
    let planted = plant(&machine, &path, &brand);
    let found = || {
        let found = vmshm(["search", &machine.name, "--hex", &brand, "--json"]);
        let found = found.run().json();
        found.as_array().expect("an array").clone()
    };
    let expected: Vec<Value> = planted
        .iter()
        .map(|gpa| json!({"gpa": gpa, "pattern": brand, "kind": "hex"}))
        .collect();
    assert_eq!(found(), expected);
    let aligned = planted.iter().copied().filter(|gpa| gpa % 4096 == 0);
    let lines: String = aligned.map(|gpa| format!("{gpa:#x}\n")).collect();
    let options = ["--hex", &brand, "--align", "4K", "--quiet"];
    let text = vmshm([&["search", &machine.name][..], &options].concat());
    assert_eq!(text.run().success(), lines.as_bytes());

    look_at_a_stopped_one(&machine, &brand, &planted);
    vmshm(["region", "remove", &path]).run().success();
}

/// Writes the brand into the region: where its first page starts, where its last one ends, and across pages that are
/// neighbours. Gives the addresses in rising order.
fn plant(machine: &Machine, path: &str, brand: &str) -> Vec<u64> {
    let length = brand.len() as u64 / 2;
    let status = Status::of(&machine.guest);
    let extents = &status.region("sought").memory.extents;
    let mut planted = Vec::new();
    let mut offset = 0;
    for (index, extent) in extents.iter().enumerate() {
        let mut places = Vec::new();
        if index == 0 {
            places.push(0);
        }
        if extent.length > 4096 {
            places.push(4096 - length / 2);
        }
        if index + 1 == extents.len() {
            places.push(extent.length - length);
        }
        for place in places {
            let at = (offset + place).to_string();
            vmshm(["region", "write", path, &at, "--hex", brand])
                .run()
                .success();
            planted.push(extent.gpa + place);
        }
        offset += extent.length;
    }
    report(&format_args!(
        "{}: {} extents, {} places",
        machine.name,
        extents.len(),
        planted.len()
    ));
    planted.sort_unstable();
    planted
}

/// While the VMM is stopped nothing but the look itself can change its size.
fn look_at_a_stopped_one(machine: &Machine, brand: &str, planted: &[u64]) {
    let _stopped = machine.pause();
    // Each of its threads stops in its own time.
    wait_for("stopped machine", SOON, || {
        processes::is_stopped(machine.pid)
    });
    let before = resident(machine.pid);
    // The agent is silent, so the layout is the machine's rule.
    let options = ["--hex", brand, "--timeout", "0.5"];
    let text = vmshm([&["search", &machine.name][..], &options].concat());
    let lines: String = planted.iter().map(|gpa| format!("{gpa:#x}\n")).collect();
    assert_eq!(text.run().success(), lines.as_bytes());
    let after = resident(machine.pid);
    report(&format_args!(
        "{}: resident {before} before and {after} after",
        machine.name
    ));
    assert!(after.abs_diff(before) < LARGER_BY, "{before} and {after}");
}

/// How much memory a process has, in bytes.
fn resident(pid: u32) -> u64 {
    let path: PathBuf = format!("/proc/{pid}/status").into();
    let status = std::fs::read_to_string(path).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    number.expect("a size").parse::<u64>().expect("a number") << 10
}
