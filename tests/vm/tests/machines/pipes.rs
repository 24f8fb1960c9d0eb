//! Pipes: bytes both ways and either way, with others at work on the same machine, and nothing left afterwards.

use std::sync::atomic::{AtomicBool, Ordering};

use vmshm_vm_tests::bytes::{RandomBytes, sha256};
use vmshm_vm_tests::environment::{is_root, report};
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::guest_pipe::GuestPipe;
use vmshm_vm_tests::host_pipe::HostPipe;
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::{LATER, SOON};
use vmshm_vm_tests::processes;
use vmshm_vm_tests::program::vmshm;
use vmshm_vm_tests::status::Status;

const MIB: u64 = 1 << 20;

/// More memory than either end of a pipe may ever have, and less than what goes through it.
const BOUND: u64 = 32 * MIB;

#[test]
fn uml_sends_back_100_mib() {
    send_there_and_back(Kind::Uml, 100 * MIB);
}

#[test]
fn qemu_with_private_ram_and_two_processors_sends_back_100_mib() {
    send_there_and_back(Kind::QemuPrivate(2), 100 * MIB);
}

#[test]
fn qemu_with_a_memfd_and_one_processor_sends_back_100_mib() {
    send_there_and_back(Kind::QemuMemfd(1), 100 * MIB);
}

#[test]
#[ignore = "long: boots another machine"]
fn qemu_with_private_ram_and_one_processor_sends_back_100_mib() {
    send_there_and_back(Kind::QemuPrivate(1), 100 * MIB);
}

#[test]
#[ignore = "long: boots another machine"]
fn qemu_with_a_memfd_and_two_processors_sends_back_100_mib() {
    send_there_and_back(Kind::QemuMemfd(2), 100 * MIB);
}

#[test]
#[ignore = "long: boots another machine"]
fn qemu_with_huge_pages_sends_back_100_mib() {
    if !is_root() {
        return;
    }
    send_there_and_back(Kind::QemuHugetlb, 100 * MIB);
    let Some(machine) = fleet::borrow(Kind::QemuHugetlb) else {
        return;
    };
    let path = machine.path("huge");
    vmshm(["region", "create", &path, "--size", "64K"])
        .run()
        .success();
    // At once, and nobody is asked to leave for it.
    vmshm(["region", "graft", &path])
        .run()
        .refused(&["huge pages"])
        .hints(&["--method map"]);
    let text = vmshm(["doctor", &machine.name]).run().text();
    assert!(text.contains("  graft: no: the memory at"), "{text}");
    vmshm(["region", "remove", &path]).run().success();
}

/// Random bytes go to the guest and come back, while two other host processes list and read all the time.
fn send_there_and_back(kind: Kind, bytes: u64) {
    let Some(machine) = fleet::borrow(kind) else {
        return;
    };
    let base = Status::of(&machine.guest).pinned_bytes;
    let watched = vmshm([
        "region",
        "create",
        &machine.path("watched"),
        "--size",
        "256K",
    ])
    .run();
    watched.success();
    let contents = RandomBytes::new(RandomBytes::fresh_seed()).take(256 << 10);
    let write = vmshm(["region", "write", &machine.path("watched"), "0", "-i", "-"]);
    write.input(contents.clone()).run().success();

    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let lister = scope.spawn(|| {
            let mut rounds = 0;
            while rounds == 0 || !done.load(Ordering::Relaxed) {
                let listed = vmshm(["list", "--json"]).run().json();
                let ours = entry_of(&listed, &machine.name);
                assert_eq!(ours["agent"]["state"], "seen", "{ours}");
                rounds += 1;
            }
            rounds
        });
        let reader = scope.spawn(|| {
            let mut rounds = 0;
            while rounds == 0 || !done.load(Ordering::Relaxed) {
                let read = vmshm(["region", "read", &machine.path("watched"), "0", "256K"]).run();
                assert_eq!(
                    read.success(),
                    contents,
                    "what another process reads meanwhile"
                );
                rounds += 1;
            }
            rounds
        });
        let transfer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            echo_and_measure(&machine, bytes);
        }));
        done.store(true, Ordering::Relaxed);
        let (lists, reads) = (lister.join(), reader.join());
        if let Err(panic) = transfer {
            std::panic::resume_unwind(panic);
        }
        let lists = lists.expect("the lister is content");
        let reads = reads.expect("the reader is content");
        report(&format_args!(
            "meanwhile {lists} lists and {reads} reads of a region"
        ));
    });

    vmshm(["region", "remove", &machine.path("watched")])
        .run()
        .success();
    let left = vmshm(["region", "list", &machine.name, "--json"]).run();
    assert_eq!(left.json(), serde_json::json!([]), "regions are left");
    vmshm_vm_tests::agent::wait_for_pinned(&machine.guest, base);
}

fn entry_of(listed: &serde_json::Value, name: &str) -> serde_json::Value {
    let entries = listed.as_array().expect("a list is an array");
    let ours = entries.iter().find(|entry| entry["name"] == name);
    ours.unwrap_or_else(|| panic!("{name} is not in {listed}"))
        .clone()
}

fn echo_and_measure(machine: &Machine, bytes: u64) {
    let guest = GuestPipe::echo(&machine.guest, "echo");
    let start = std::time::Instant::now();
    let host = HostPipe::start(&machine.path("echo"), bytes);
    host.wait_for_received(bytes);
    let took = start.elapsed();
    // All bytes are through, and both ends still live.
    let (here, there) = (
        processes::peak_memory(host.process().pid()),
        guest.peak_memory(),
    );
    assert!(here < BOUND, "the host's end has had {here} bytes");
    assert!(there < BOUND, "the guest's end has had {there} bytes");
    host.finish(LATER).came_back(bytes);
    let ended = guest.wait(SOON);
    assert_eq!(ended.status, 0, "{}", ended.errors);
    report(&format_args!(
        "{}: {} MiB there and back in {:.1} s; peaks of {} and {} KiB",
        machine.name,
        bytes / MIB,
        took.as_secs_f64(),
        here >> 10,
        there >> 10
    ));
}

#[test]
fn either_direction_may_end_before_the_other_begins() {
    for kind in [Kind::Uml, Kind::QemuPrivate(2)] {
        let Some(machine) = fleet::borrow(kind) else {
            return;
        };
        only_to_the_guest(&machine, 5 * MIB + 3);
        only_to_the_guest(&machine, 0);
        only_to_the_host(&machine, 5 * MIB + 3);
        only_to_the_host(&machine, 1);
        let left = vmshm(["region", "list", &machine.name, "--json"]).run();
        assert_eq!(left.json(), serde_json::json!([]), "regions are left");
    }
}

fn only_to_the_guest(machine: &Machine, bytes: u64) {
    let guest = GuestPipe::receive(&machine.guest, "inward");
    let transfer = HostPipe::start(&machine.path("inward"), bytes).finish(LATER);
    assert_eq!(
        transfer.outcome.code,
        Some(0),
        "{}",
        transfer.outcome.errors
    );
    assert_eq!((transfer.sent, transfer.received), (bytes, 0));
    let ended = guest.wait(SOON);
    assert_eq!(ended.status, 0, "{}", ended.errors);
    assert_eq!(ended.output.split(' ').next(), Some(&*transfer.sent_hash));
}

fn only_to_the_host(machine: &Machine, bytes: u64) {
    let guest = GuestPipe::send(&machine.guest, "outward", bytes);
    let outcome = vmshm(["pipe", &machine.path("outward")]).run();
    let received = outcome.success();
    let ended = guest.wait(SOON);
    assert_eq!(ended.status, 0, "{}", ended.errors);
    assert_eq!(received.len() as u64, bytes);
    assert_eq!(ended.output.split(' ').next(), Some(&*sha256(&received)));
}

#[test]
fn two_pipes_run_at_once_and_one_name_serves_one_pair() {
    let Some(machine) = fleet::borrow(Kind::Uml) else {
        return;
    };
    let bytes = 8 * MIB;
    let guests = ["one", "two"].map(|name| GuestPipe::echo(&machine.guest, name));
    let hosts = ["one", "two"].map(|name| HostPipe::start(&machine.path(name), bytes));
    for host in &hosts {
        host.wait_for_received(bytes);
    }
    // Both run; a second host's end of either name has to say why it cannot have it.
    let second = vmshm(["pipe", &machine.path("one")]).run();
    second
        .refused(&["another host process", "`one`"])
        .hints(&["another name"])
        .within(SOON);
    for host in hosts {
        host.finish(LATER).came_back(bytes);
    }
    for guest in guests {
        let ended = guest.wait(SOON);
        assert_eq!(ended.status, 0, "{}", ended.errors);
    }
}

#[test]
fn the_host_may_come_first_and_says_what_it_waits_for() {
    let Some(machine) = fleet::borrow(Kind::QemuMemfd(1)) else {
        return;
    };
    let bytes = 100_000;
    let host = HostPipe::start(&machine.path("early"), bytes);
    host.process()
        .errors
        .wait_for("waiting for `vmshm-agent pipe early`", SOON);
    let guest = GuestPipe::echo(&machine.guest, "early");
    host.wait_for_received(bytes);
    host.finish(LATER).came_back(bytes);
    assert_eq!(guest.wait(SOON).status, 0);
}
