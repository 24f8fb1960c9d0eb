//! Guest RAM is found where VMware has it: in a section with a name, in one without, among others of its size, in a
//! process with very many handles; and where it is not the process's own, it is not taken.

use serde_json::Value;
use vmshm_vm_tests::patience::{LATER, wait_until};
use vmshm_windows_tests::configuration::Configuration;
use vmshm_windows_tests::stand_in::{NOBODY, QEMU, StandIn, VMWARE};
use vmshm_windows_tests::wine::Wine;

const MIB: u64 = 1 << 20;

/// The entry of a process in the list, once its agent was seen: on a busy machine the first look may be too short.
fn entry(wine: &Wine, vmm: &StandIn) -> Value {
    wait_until("seen agent", LATER, || {
        let listed = wine.run(&["list", "--json"]).json();
        let listed = listed.as_array().expect("an array");
        let pid = |entry: &&Value| entry["pid"] == vmm.number;
        let mut ours = listed.iter().filter(pid);
        let entry = ours
            .next()
            .unwrap_or_else(|| panic!("{} is not in {listed:?}", vmm.number));
        assert!(ours.next().is_none(), "it is listed once");
        (entry["agent"]["state"] == "seen").then(|| entry.clone())
    })
}

#[track_caller]
fn assert_found(wine: &Wine, vmm: &StandIn, name: &str, mebibytes: u64) {
    let entry = entry(wine, vmm);
    assert_eq!(entry["vmm"], "vmware", "{entry}");
    assert_eq!(entry["name"], name, "{entry}");
    assert_eq!(entry["ram_bytes"], mebibytes * MIB, "{entry}");
    assert_eq!(entry["backing"], "shared", "{entry}");
    assert_eq!(entry["access"], "map", "{entry}");
    assert_eq!(entry["agent"]["state"], "seen", "{entry}");
}

#[test]
fn a_section_with_a_name_is_found() {
    let Some(wine) = Wine::set_up() else { return };
    let file = Configuration::write("named", 256);
    for namespace in ["Local", "Global"] {
        let name = format!(r"{namespace}\VMwareMem{{pid}}Memory");
        let vmm = StandIn::start(&wine, VMWARE, &["--name", &name, &file.path()]);
        assert_found(&wine, &vmm, "named", 256);
        let inspected = wine.run(&["inspect", &vmm.pid]).text();
        let name = format!("VMwareMem{}Memory", vmm.pid);
        assert!(inspected.contains(&name), "{inspected}");
    }
}

#[test]
fn a_section_without_a_name_is_found() {
    let Some(wine) = Wine::set_up() else { return };
    let file = Configuration::write("unnamed", 256);
    let vmm = StandIn::start(&wine, VMWARE, &[&file.path()]);
    assert_found(&wine, &vmm, "unnamed", 256);
}

#[test]
fn of_three_sections_of_the_same_size_the_right_one_is_taken_and_inspect_says_why() {
    let Some(wine) = Wine::set_up() else { return };
    let file = Configuration::write("three", 256);
    let mut vmm = StandIn::start(&wine, VMWARE, &["--decoys", "2", &file.path()]);
    assert_found(&wine, &vmm, "three", 256);
    let inspected = wine.run(&["inspect", &vmm.pid]);
    let text = inspected.text();
    assert!(text.contains("section"), "{text}");
    let inspected = wine.run(&["inspect", &vmm.pid, "--json"]).json();
    assert_eq!(inspected["agent"]["state"], "seen", "{inspected}");
    assert_eq!(inspected["beacon"], vmm.said["beacon"], "{inspected}");
    // What is written there arrives, so that it is the right one.
    let written = wine.run(&["write", &vmm.pid, "0x3000", "--hex", "c0ffee42"]);
    let _ = written.success();
    assert_eq!(vmm.tell("peek 0x3000 4"), "c0ffee42");
    let read = wine.run(&["read", &vmm.pid, "0x3000", "4"]).success();
    assert_eq!(read, [0xc0, 0xff, 0xee, 0x42]);
}

#[test]
fn ram_around_a_hole_is_laid_out_as_the_guest_says() {
    let Some(wine) = Wine::set_up() else { return };
    let file = Configuration::with_hole("split", 256, Some(128));
    let vmm = StandIn::start(
        &wine,
        VMWARE,
        &["--hole", "128", "--decoys", "1", &file.path()],
    );
    assert_found(&wine, &vmm, "split", 256);
    let inspected = wine.run(&["inspect", &vmm.pid, "--json"]).json();
    let ranges = inspected["layout"].as_array().expect("an array");
    let last = ranges.last().expect("a range");
    assert_eq!(last["gpa"], 4_u64 << 30, "{inspected}");
    assert_eq!(last["offset"], 128 * MIB, "{inspected}");
}

#[test]
fn very_many_handles_hide_nothing() {
    let Some(wine) = Wine::set_up() else { return };
    let file = Configuration::write("handles", 256);
    let vmm = StandIn::start(&wine, VMWARE, &["--handles", "100000", &file.path()]);
    assert_found(&wine, &vmm, "handles", 256);
}

#[test]
fn a_name_that_another_process_has_taken_is_not_believed() {
    let Some(wine) = Wine::set_up() else { return };
    let file = Configuration::write("robbed", 256);
    let mut vmm = StandIn::start(&wine, VMWARE, &[&file.path()]);
    let name = format!(r"Local\VMwareMem{}Memory", vmm.pid);
    let mut thief = StandIn::start(&wine, NOBODY, &["--name", &name]);
    assert_found(&wine, &vmm, "robbed", 256);
    vmm.tell("poke 0x3000 11111111");
    thief.tell("poke 0x3000 22222222");
    let read = wine.run(&["read", &vmm.pid, "0x3000", "4"]).success();
    assert_eq!(read, [0x11; 4]);
}

#[test]
fn private_memory_is_reached_by_copying() {
    let Some(wine) = Wine::set_up() else { return };
    let options = ["--private", "--size", "64", "--", "-m", "64M"];
    let mut vmm = StandIn::start(&wine, QEMU, &options);
    let entry = entry(&wine, &vmm);
    assert_eq!(entry["vmm"], "qemu", "{entry}");
    assert_eq!(entry["backing"], "private", "{entry}");
    assert_eq!(entry["access"], "copy", "{entry}");
    assert_eq!(entry["agent"]["state"], "seen", "{entry}");
    vmm.tell("poke 0x3000 0123456789");
    let read = wine.run(&["read", &vmm.pid, "0x3000", "5"]).success();
    assert_eq!(read, [0x01, 0x23, 0x45, 0x67, 0x89]);
    let written = wine.run(&["write", &vmm.pid, "0x3001", "--hex", "ffff"]);
    let _ = written.success();
    assert_eq!(vmm.tell("peek 0x3000 5"), "01ffff6789");
}

#[test]
fn any_process_can_be_named_by_its_number() {
    let Some(wine) = Wine::set_up() else { return };
    let vmm = StandIn::start(&wine, NOBODY, &["--decoys", "1"]);
    let inspected = wine.run(&["inspect", &vmm.pid, "--json"]).json();
    assert_eq!(inspected["agent"]["state"], "seen", "{inspected}");
    let listed = wine.run(&["list", "--json"]).json();
    let listed = listed.as_array().expect("an array");
    let ours = listed.iter().any(|entry| entry["pid"] == vmm.number);
    assert!(!ours, "nothing says that it is a VMM");
}
