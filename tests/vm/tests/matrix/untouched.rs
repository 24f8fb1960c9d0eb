//! Looking at a machine brings no memory into being: what its RAM takes on the host is the same before and after.

use std::time::Duration;

use vmshm_ram::{Vmm, find_by_pid};
use vmshm_vm_tests::environment::report;
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::{LATER, wait_for};
use vmshm_vm_tests::program::vmshm;
use vmshm_vm_tests::residency;

const MIB: u64 = 1 << 20;
/// How much of untouched memory is read.
const READ: u64 = 16 * MIB;
/// An idle guest may still touch memory of its own: then a new machine is asked. What was brought into being once is
/// there the next time, so only a machine that nobody has looked at counts.
const MACHINES: usize = 3;

/// Boots a machine without its agent, and checks that on the way.
pub fn boot(kind: Kind) -> Machine {
    let mut grown = Vec::new();
    for _ in 0..MACHINES {
        let machine = Machine::boot_without_agent(kind);
        let vmm = find_by_pid(machine.pid).expect("it is there");
        wait_until_idle(&vmm);
        let before = residency::of(&vmm);
        look(&machine, &vmm);
        let growth = residency::of(&vmm).saturating_sub(before);
        report(&format_args!(
            "{}: {} MiB of RAM are there, {} KiB more after looking",
            machine.name,
            before / MIB,
            growth >> 10
        ));
        assert!(before + READ < kind.ram_bytes(), "nothing is untouched");
        if growth < MIB {
            return machine;
        }
        grown.push(growth);
    }
    panic!("RAM has grown each time by {grown:?} bytes");
}

/// Everything that only looks.
fn look(machine: &Machine, vmm: &Vmm) {
    let pid = machine.pid.to_string();
    vmshm(["list", "--json"]).run().success();
    // Guests take memory from the ends. This is below every board's gap; user-mode Linux has its own before its RAM.
    let middle = if machine.kind.vmm() == "uml" {
        vmm.blocks[0].file_offset() + machine.kind.ram_bytes() / 8 * 5
    } else {
        machine.kind.ram_bytes() / 4
    };
    let middle = format!("{middle:#x}");
    let length = READ.to_string();
    let bytes = vmshm(["read", &pid, &middle, &length]).run().success();
    let zeros = bytes.iter().filter(|byte| **byte == 0).count() as u64;
    assert!(zeros > READ / 2, "the memory that is read has been used");
    vmshm(["inspect", &pid]).run().success();
    // Nothing is found: that is exit code 1.
    let none = vmshm(["search", &pid, "no guest holds this: \u{1f980}"]).run();
    assert!(matches!(none.code, Some(0 | 1)), "{}", none.errors);
}

/// Waits until the guest hardly touches new memory.
fn wait_until_idle(vmm: &Vmm) {
    let mut last = residency::of(vmm);
    wait_for("idle guest", LATER, || {
        std::thread::sleep(Duration::from_secs(1));
        let now = residency::of(vmm);
        let idle = now.abs_diff(last) < MIB / 16;
        last = now;
        idle
    });
}
