//! A DIMM that is plugged into a running machine, and taken into use by its guest.

use serde_json::json;
use vmshm_vm_tests::cell::DIMM;
use vmshm_vm_tests::machine::Machine;
use vmshm_vm_tests::patience::{SOON, wait_for};
use vmshm_vm_tests::qmp::Qmp;

/// Plugs it, and waits until the guest uses it.
pub fn plug(machine: &Machine) {
    let monitor = Qmp::of(&machine.name);
    plug_one(&monitor);
    take_into_use(machine);
}

fn plug_one(monitor: &Qmp) {
    let memory = json!({"qom-type": "memory-backend-ram", "id": "plugged", "size": DIMM});
    monitor.execute("object-add", &memory);
    let device = json!({"driver": "pc-dimm", "id": "dimm", "memdev": "plugged"});
    monitor.execute("device_add", &device);
}

/// Guests that do not do so by themselves are told to.
fn take_into_use(machine: &Machine) {
    let pieces = DIMM >> 27;
    wait_for("plugged memory in the guest", SOON, || {
        let online = "for state in /sys/devices/system/memory/memory*/state; do \
                      [ $(cat $state) = online ] || echo online >$state; done; \
                      grep -l online /sys/devices/system/memory/memory*/state | wc -l";
        let count = machine.guest.check(online);
        let blocks: u64 = count.trim().parse().expect("a number");
        blocks >= (machine.kind.ram_bytes() >> 27) + pieces
    });
}
