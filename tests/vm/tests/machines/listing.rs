//! `vmshm list`: every machine with what is true of it, and nothing that is none.

use serde_json::{Value, json};
use vmshm_vm_tests::environment::{self, is_root};
use vmshm_vm_tests::fleet::{self, Borrowed};
use vmshm_vm_tests::machine::Kind;
use vmshm_vm_tests::patience::SOON;
use vmshm_vm_tests::processes;
use vmshm_vm_tests::program::{vmshm, vmshm_as_nobody};
use vmshm_vm_tests::status::Status;

#[test]
fn three_machines_are_listed_as_they_are_and_nothing_else() {
    if !environment::is_set_up() {
        return;
    }
    let machines = [Kind::Uml, Kind::QemuPrivate(2), Kind::QemuMemfd(1)]
        .map(|kind| fleet::borrow(kind).expect("it is set up"));
    let listed = vmshm(["list", "--json"]).run().json();
    let listed = listed.as_array().expect("a list is an array");
    for machine in &machines {
        assert_entry(machine, listed);
    }
    // Other machines may run here, but what runs inside ours is none.
    let inner: Vec<u32> = machines
        .iter()
        .flat_map(|machine| processes::descendants(machine.pid))
        .collect();
    assert!(
        !inner.is_empty(),
        "user-mode Linux runs its programs as processes"
    );
    let ours = listed.iter().filter(|entry| {
        let pid = entry["pid"].as_u64().expect("a process id");
        inner.iter().any(|&inner| u64::from(inner) == pid)
    });
    assert_eq!(ours.collect::<Vec<_>>(), Vec::<&Value>::new());
    let table = vmshm(["list"]).run().text();
    for machine in &machines {
        let row = table.lines().find(|row| row.contains(&machine.name));
        let row = row.unwrap_or_else(|| panic!("{} is not in\n{table}", machine.name));
        assert!(row.starts_with(&machine.pid.to_string()), "{row}");
        assert!(row.contains(" seen"), "{row}");
    }
}

fn assert_entry(machine: &Borrowed, listed: &[Value]) {
    let named: Vec<&Value> = listed
        .iter()
        .filter(|entry| entry["name"] == machine.name.as_str())
        .collect();
    let [entry] = named[..] else {
        panic!("{} is listed {} times", machine.name, named.len());
    };
    let shared = machine.kind.is_shared();
    let boot_id = machine.guest.check("cat /proc/sys/kernel/random/boot_id");
    let version = machine.guest.check("vmshm-agent --version");
    let version = version.split(' ').nth(1);
    assert_eq!(entry["pid"], machine.pid, "{entry}");
    assert_eq!(entry["vmm"], machine.kind.vmm(), "{entry}");
    assert_eq!(entry["ram_bytes"], machine.kind.ram_bytes(), "{entry}");
    assert_eq!(entry["backing"], if shared { "shared" } else { "private" });
    assert_eq!(entry["access"], if shared { "map" } else { "copy" });
    assert_eq!(
        entry["agent"],
        json!({"version": version, "state": "seen", "boot_id": boot_id})
    );
    assert_eq!(entry["regions"], json!([]), "{entry}");
    let release = machine.guest.check("uname -r");
    let system = entry["guest_os"].as_str().unwrap_or_default();
    assert!(system.contains(&release), "{release} is not in {system}");
    let fields: Vec<&String> = entry.as_object().expect("an object").keys().collect();
    let promised = [
        "access",
        "agent",
        "backing",
        "guest_os",
        "name",
        "pid",
        "ram_bytes",
        "regions",
        "vmm",
    ];
    assert_eq!(fields, promised, "scripts rely on the names");
}

#[test]
fn a_listed_machine_can_be_named_in_every_way() {
    let Some(machine) = fleet::borrow(Kind::Uml) else {
        return;
    };
    for name in [
        machine.name.clone(),
        machine.pid.to_string(),
        format!("uml:{}", machine.name),
    ] {
        let regions = vmshm(["region", "list", &name, "--json"]).run().json();
        assert_eq!(regions, json!([]), "{name}");
    }
    let wrong = format!("qemu:{}", machine.name);
    vmshm(["region", "list", &wrong])
        .run()
        .refused(&["no VM is called", &wrong])
        .hints(&["vmshm list"])
        .within(SOON);
}

#[test]
fn a_region_is_listed_with_its_kind_and_size() {
    let Some(machine) = fleet::borrow(Kind::QemuPrivate(2)) else {
        return;
    };
    let path = machine.path("listed");
    vmshm(["region", "create", &path, "--size", "64K"])
        .run()
        .success();
    let region = json!({"name": "listed", "kind": "raw", "size": 65536});
    let listed = vmshm(["list", "--json"]).run().json();
    let entries = listed.as_array().expect("a list is an array");
    let ours = entries.iter().find(|entry| entry["pid"] == machine.pid);
    assert_eq!(ours.expect("it is listed")["regions"], json!([region]));
    assert_eq!(Status::of(&machine.guest).region("listed").size, 65536);
    vmshm(["region", "remove", &path]).run().success();
}

#[test]
fn a_user_without_access_sees_that_a_machine_is_there() {
    if !is_root() {
        return;
    }
    let Some(machine) = fleet::borrow(Kind::QemuPrivate(2)) else {
        return;
    };
    let listed = vmshm_as_nobody(&["list", "--json"]).run().json();
    let entries = listed.as_array().expect("a list is an array");
    let ours = entries.iter().find(|entry| entry["pid"] == machine.pid);
    let ours = ours.unwrap_or_else(|| panic!("{} is not in {listed}", machine.name));
    assert_eq!(ours["access"], "none", "{ours}");
    assert_eq!(ours["vmm"], "qemu", "{ours}");
    assert_eq!(ours["name"], machine.name.as_str(), "{ours}");
    assert_eq!(ours["agent"], Value::Null, "{ours}");
    let read = vmshm_as_nobody(&["read", &machine.name, "0x1000", "16"]).run();
    read.refused(&["cannot reach the memory"])
        .hints(&[])
        .within(SOON);
}
