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
/// Where it is read, in sixteenths of RAM: guests take memory from the ends, and these are below every board's gap. But a
/// kernel that chooses its own place at random may be at one of them.
const PLACES: [u64; 4] = [4, 5, 6, 7];
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
    assert!(
        PLACES
            .iter()
            .any(|place| read_untouched(machine, vmm, *place)),
        "all the memory that is read has been used"
    );
    vmshm(["inspect", &pid]).run().success();
    // Nothing is found: that is exit code 1.
    let none = vmshm(["search", &pid, "no guest holds this: \u{1f980}"]).run();
    assert!(matches!(none.code, Some(0 | 1)), "{}", none.errors);
}

/// Reads at so many sixteenths of the machine's RAM; whether that memory was untouched.
fn read_untouched(machine: &Machine, vmm: &Vmm, sixteenths: u64) -> bool {
    // User-mode Linux has its own before its RAM.
    let start = match machine.kind.vmm() {
        "uml" => vmm.blocks[0].file_offset() + machine.kind.ram_bytes() / 4,
        _ => 0,
    };
    let place = format!("{:#x}", start + machine.kind.ram_bytes() / 16 * sixteenths);
    let read = ["read", &machine.pid.to_string(), &place, &READ.to_string()];
    let bytes = vmshm(read).run().success();
    let zeros = bytes.iter().filter(|byte| **byte == 0).count() as u64;
    zeros > READ / 2
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
