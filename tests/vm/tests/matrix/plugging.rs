//! DIMMs that are plugged into a running machine, and taken into use by its guest.

use std::ops::Range;

use serde_json::json;
use vmshm_vm_tests::cell::{DIMM, LATER_DIMM};
use vmshm_vm_tests::grafted::{Bytes, grafted_places};
use vmshm_vm_tests::machine::Machine;
use vmshm_vm_tests::patience::{LATER, wait_for};
use vmshm_vm_tests::program::vmshm;
use vmshm_vm_tests::qmp::Qmp;

/// Linux takes memory into use in pieces of this size.
const PIECE: u64 = 128 << 20;
/// A page somewhere in the middle of a DIMM.
const INSIDE: u64 = 0x123_4000;

/// Plugs the first, and waits until the guest uses it.
pub fn plug(machine: &Machine) {
    plug_one(machine, "first", DIMM);
    take_into_use(machine, DIMM);
}

/// Plugs another while the agent runs, which then states its addresses by itself.
pub fn plug_another(machine: &Machine) {
    plug_one(machine, "second", LATER_DIMM);
    take_into_use(machine, DIMM + LATER_DIMM);
    let monitor = Qmp::of(&machine.name);
    let devices = monitor.execute("query-memory-devices", &json!({}));
    let devices = devices.as_array().expect("a list");
    let device = devices.iter().find(|one| one["data"]["id"] == "second");
    let device = &device.expect("it is plugged")["data"];
    let address = device["addr"].as_u64().expect("a number") + INSIDE;
    let pid = machine.pid.to_string();
    let place = format!("{address:#x}");
    wait_for("plugged memory in the layout", LATER, || {
        let read = vmshm(["read", &pid, &place, "4096"]).run();
        if read.code != Some(0) {
            read.refused(&["guest's RAM"]);
            return false;
        }
        // The guest may be writing there at this moment.
        read.success() == monitor.memory(address, 4096)
    });
}

/// Grafts a region that lies in the first: it is found meanwhile, and when that is undone.
pub fn graft(machine: &Machine) {
    let bytes = Bytes::create(machine, "plugged", 4 << 20);
    bytes.graft().success();
    let seen = vmshm(["inspect", &machine.pid.to_string(), "--json"]).run();
    let blocks = seen.json()["blocks"].clone();
    let number = |block: usize, name: &str| blocks[block][name].as_u64().expect("a number");
    let plugged = number(1, "vmm_virtual")..number(1, "vmm_virtual") + number(1, "size");
    assert_eq!(number(1, "size"), DIMM);
    // A guest takes such memory first.
    let is_there = |place: Range<u64>| plugged.contains(&place.start);
    assert!(grafted_places(machine.pid).any(is_there));
    bytes.check();
    bytes.undo().success();
    bytes.check();
}

fn plug_one(machine: &Machine, name: &str, size: u64) {
    let monitor = Qmp::of(&machine.name);
    let backend = format!("{name}-memory");
    let memory = json!({"qom-type": "memory-backend-ram", "id": backend, "size": size});
    monitor.execute("object-add", &memory);
    let device = json!({"driver": "pc-dimm", "id": name, "memdev": backend});
    monitor.execute("device_add", &device);
}

/// Guests that do not do so by themselves are told to.
fn take_into_use(machine: &Machine, plugged: u64) {
    wait_for("plugged memory in the guest", LATER, || {
        let online = "for state in /sys/devices/system/memory/memory*/state; do \
                      [ $(cat $state) = online ] || echo online >$state; done; \
                      grep -l online /sys/devices/system/memory/memory*/state | wc -l";
        let count = machine.guest.check(online);
        let pieces: u64 = count.trim().parse().expect("a number");
        pieces >= (machine.kind.ram_bytes() + plugged) / PIECE
    });
}
