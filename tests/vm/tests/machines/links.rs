//! The five examples between host and guest: what a developer copies from works on every kind of machine, over map and
//! over copy, whichever side comes first, and leaves nothing behind.

use vmshm_vm_tests::environment::{guest_example, report};
use vmshm_vm_tests::example::{on_host, outcome_in_guest};
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::{LATER, wait_for};
use vmshm_vm_tests::program::vmshm;
use vmshm_vm_tests::status::Status;

#[test]
fn on_uml() {
    run_all(Kind::Uml);
}

#[test]
fn on_qemu_with_a_memfd_and_one_processor() {
    run_all(Kind::QemuMemfd(1));
}

#[test]
fn on_qemu_with_a_memfd_and_two_processors() {
    run_all(Kind::QemuMemfd(2));
}

#[test]
fn on_qemu_with_private_ram_and_one_processor() {
    run_all(Kind::QemuPrivate(1));
}

#[test]
fn on_qemu_with_private_ram_and_two_processors() {
    run_all(Kind::QemuPrivate(2));
}

fn run_all(kind: Kind) {
    let Some(machine) = fleet::borrow(kind) else {
        return;
    };
    let base = Status::of(&machine.guest).pinned_bytes;
    // Over copy every message is a handful of system calls, and an emulated guest is slow.
    let count = if kind.is_shared() { "100000" } else { "5000" };
    pair(&machine, "ring_pair", &["--count", count]);
    pair(&machine, "ring_pair", &["--count", count, "--batch", "64"]);
    pair(&machine, "shared_counter", &["--count", count]);
    pair(&machine, "request_reply", &["--count", "2000"]);
    pair(&machine, "latest", &["--seconds", "1"]);
    file_goes_there_and_back(&machine);
    one_that_is_refused_leaves_the_region_to_the_other(&machine, count);

    let left = vmshm(["region", "list", &machine.name, "--json"]).run();
    assert_eq!(left.json(), serde_json::json!([]), "regions are left");
    vmshm_vm_tests::agent::wait_for_pinned(&machine.guest, base);
}

/// Runs both sides of an example with the same options; the guest's comes first.
fn pair(machine: &Machine, example: &str, options: &[&str]) {
    let inside = machine.guest.start(&format!(
        "{} guest --timeout 60 {}",
        guest_example(example),
        options.join(" ")
    ));
    let outside = on_host(example, &machine.name, options).run_within(LATER);
    let said = String::from_utf8_lossy(&outside.success())
        .trim()
        .to_owned();
    outcome_in_guest(inside, example);
    report(&format_args!("{}: {said}", machine.kind.vmm()));
}

/// A file to the guest, and from there back under another name: the bytes are the same.
fn file_goes_there_and_back(machine: &Machine) {
    let space = tempfile::tempdir().expect("there is room");
    let (there, back) = (space.path().join("there"), space.path().join("back"));
    let contents = vmshm_vm_tests::bytes::RandomBytes::new(7).take(8 << 20);
    std::fs::write(&there, &contents).expect("there is room");
    let name = |path: &std::path::Path| path.to_str().expect("plain text").to_owned();

    let example = guest_example("file_copy");
    let guest = &machine.guest;
    let inside = guest.start(&format!("{example} guest --timeout 60 --to copied"));
    let outside = on_host("file_copy", &machine.name, &["--send", &name(&there)]);
    outside.run_within(LATER).success();
    outcome_in_guest(inside, "file_copy");

    let inside = guest.start(&format!("{example} guest --timeout 60 --send copied"));
    let outside = on_host("file_copy", &machine.name, &["--to", &name(&back)]);
    outside.run_within(LATER).success();
    outcome_in_guest(inside, "file_copy");
    let found = std::fs::read(&back).expect("it has come");
    assert!(found == contents, "the file has changed on its way");
    guest.check("rm copied");
}

/// Two of the same on the host: the second one is refused, and the first one goes on.
fn one_that_is_refused_leaves_the_region_to_the_other(machine: &Machine, count: &str) {
    for (example, words) in [
        ("ring_pair", ["ring_pair", "process"]),
        ("shared_counter", ["somebody", "counts here"]),
    ] {
        let options = ["--count", count];
        let first = on_host(example, &machine.name, &options).start();
        wait_for("the first one's region", LATER, || {
            is_in_use(machine, example)
        });
        let second = on_host(example, &machine.name, &options).run_within(LATER);
        second.refused(&words).hints(&[]);
        let inside = machine.guest.start(&format!(
            "{} guest --timeout 60 --count {count}",
            guest_example(example)
        ));
        first.wait(LATER).success();
        outcome_in_guest(inside, example);
    }
}

/// Whether a host's program has done its first step in an example's region.
fn is_in_use(machine: &Machine, example: &str) -> bool {
    if example == "shared_counter" {
        // The word by which it says how far it has come.
        let path = format!("{}/{example}", machine.name);
        let stage = vmshm(["region", "read", &path, "64", "8"]).run();
        return stage.output == 1_u64.to_le_bytes();
    }
    let list = vmshm(["region", "list", &machine.name, "--json"]).run();
    let list = list.json();
    let mut regions = list.as_array().expect("a list").iter();
    regions.any(|region| region["name"] == example)
}
