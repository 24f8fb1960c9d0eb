//! The guest's kernel moves pages about while bytes flow; those that are shared stay where they are.

use vmshm_vm_tests::agent;
use vmshm_vm_tests::environment::{guest_program, is_set_up, report};
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::guest::Guest;
use vmshm_vm_tests::guest_pipe::GuestPipe;
use vmshm_vm_tests::host_pipe::{ENDLESS, HostPipe};
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::{LATER, wait_for, wait_for_growth};
use vmshm_vm_tests::program::vmshm;
use vmshm_vm_tests::status::Status;

#[test]
fn uml_compacts_during_a_transfer() {
    compact_during_a_transfer(Kind::Uml);
}

#[test]
fn qemu_private_compacts_during_a_transfer() {
    compact_during_a_transfer(Kind::QemuPrivate(2));
}

#[test]
#[ignore = "long: fills a third machine"]
fn qemu_memfd_compacts_during_a_transfer() {
    compact_during_a_transfer(Kind::QemuMemfd(1));
}

/// Debian 13's kernel has a switch for io_uring, which many turn off.
#[test]
#[ignore = "long: fetches and boots another kernel"]
fn qemu_compacts_during_a_transfer_where_io_uring_is_switched_off() {
    if !is_set_up() {
        return;
    }
    let machine = Machine::boot_as(
        Kind::QemuPrivate(1),
        "switched-off",
        &["--kernel", "debian13"],
    );
    let guest = &machine.guest;
    agent::stop(guest);
    guest.check("echo 2 >/proc/sys/kernel/io_uring_disabled");
    agent::start(guest);
    assert_eq!(Status::of(guest).pinning, "af_xdp");
    let log = guest.check("cat agent.log");
    assert!(
        log.contains("note: io_uring is disabled (kernel.io_uring_disabled=2)"),
        "{log}"
    );
    compact(&machine);
}

fn compact_during_a_transfer(kind: Kind) {
    if let Some(machine) = fleet::borrow(kind) {
        compact(&machine);
    }
}

fn compact(machine: &Machine) {
    let guest = &machine.guest;
    let fragmenter = guest_program("fragment-memory");
    let fragments = guest.start(&format!("exec {fragmenter} /dev/shm/fragments"));
    wait_for("memory in fragments", LATER, || {
        fragments.output().contains("fragmented")
    });
    // Starting programs and loading their languages is dear in an emulated guest, and would slow the transfer most.
    let compactor = guest
        .start("export LC_ALL=C; while :; do echo 1 >/proc/sys/vm/compact_memory; sleep 0.2; done");
    let path = machine.path("still");
    vmshm(["region", "create", &path, "--size", "2M"])
        .run()
        .success();
    vmshm(["region", "write", &path, "0x1ffffc", "--hex", "600df00d"])
        .run()
        .success();
    let before = (extents(guest), moved_pages(guest));

    let echo = GuestPipe::echo(guest, "moving");
    let host = HostPipe::start(&machine.path("moving"), ENDLESS);
    host.wait_for_received(16 << 20);
    wait_for_growth("pages moved", LATER, before.1 + 1001, || moved_pages(guest));
    let transfer = host.finish(LATER);
    transfer.came_back(transfer.sent);
    assert_eq!(echo.wait(LATER).status, 0);

    report(&format_args!(
        "{}: {} pages moved, {} extents did not",
        machine.name,
        moved_pages(guest) - before.1,
        before.0.len()
    ));
    assert_eq!(extents(guest), before.0, "where the region lies");
    let read = vmshm(["region", "read", &path, "0x1ffffc", "4"]).run();
    assert_eq!(read.success(), [0x60, 0x0d, 0xf0, 0x0d]);
    drop(compactor);
    drop(fragments);
    guest.check("rm /dev/shm/fragments");
    vmshm(["region", "remove", &path]).run().success();
}

fn extents(guest: &Guest) -> Vec<(u64, u64)> {
    let status = Status::of(guest);
    let extents = &status.region("still").memory.extents;
    extents
        .iter()
        .map(|extent| (extent.gpa, extent.length))
        .collect()
}

/// How many pages the guest's kernel has moved so far.
fn moved_pages(guest: &Guest) -> u64 {
    let line = guest.check("grep '^pgmigrate_success ' /proc/vmstat");
    let number = line.split(' ').nth(1).expect("a name and a number");
    number.parse().expect("a number")
}
