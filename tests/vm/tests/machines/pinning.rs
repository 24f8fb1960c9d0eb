//! Pinning where io_uring is not allowed: by AF_XDP where there is that, else by huge pages, else a refusal with the
//! reasons.

use vmshm_vm_tests::agent;
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::guest::Guest;
use vmshm_vm_tests::guest_pipe::GuestPipe;
use vmshm_vm_tests::host_pipe::HostPipe;
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::{LATER, SOON};
use vmshm_vm_tests::status::Status;

/// What flows through memory that is pinned in another way.
const BYTES: u64 = 8 << 20;

#[test]
fn qemu_pins_by_af_xdp() {
    let Some(machine) = fleet::borrow(Kind::QemuMemfd(1)) else {
        return;
    };
    let guest = &machine.guest;
    agent::stop(guest);
    agent::start_with(guest, "--pin-by af_xdp");
    assert_eq!(Status::of(guest).pinning, "af_xdp");
    let log = guest.check("cat agent.log");
    assert!(!log.contains("note: "), "it was asked for: {log}");
    transfer(&machine);
    start_anew(guest);
}

#[test]
fn qemu_pins_by_huge_pages_where_nothing_else_is_allowed() {
    let Some(machine) = fleet::borrow(Kind::QemuMemfd(1)) else {
        return;
    };
    let guest = &machine.guest;
    let limit = "cat /proc/sys/vm/nr_overcommit_hugepages";
    agent::stop(guest);
    let before = guest.check(limit);
    agent::start_with(guest, "--pin-by hugetlb");
    assert_eq!(Status::of(guest).pinning, "hugetlb");
    transfer(&machine);
    start_anew(guest);
    assert_eq!(guest.check(limit), before, "the limit of huge pages");
}

/// Each way alone: user-mode Linux has neither AF_XDP nor huge pages.
#[test]
fn uml_refuses_with_the_reasons() {
    let Some(machine) = fleet::borrow(Kind::Uml) else {
        return;
    };
    let guest = &machine.guest;
    agent::stop(guest);
    for (way, reason) in [
        ("af_xdp", "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)"),
        ("hugetlb", "this kernel has no 2 MiB huge pages"),
    ] {
        let refused = guest.run(&format!("timeout 30 vmshm-agent run --pin-by {way}"));
        assert_eq!(refused.status, 2, "{}", refused.text);
        for part in [
            "error: this guest cannot pin memory: ",
            reason,
            "io_uring is not wanted",
            "\nhint: ",
        ] {
            assert!(refused.text.contains(part), "{part}: {}", refused.text);
        }
        assert_eq!(guest.run("vmshm-agent status").status, 2, "nothing is left");
    }
    agent::start(guest);
}

fn transfer(machine: &Machine) {
    let echo = GuestPipe::echo(&machine.guest, "pinned");
    let host = HostPipe::start(&machine.path("pinned"), BYTES);
    host.wait_for_received(BYTES);
    host.finish(LATER).came_back(BYTES);
    assert_eq!(echo.wait(SOON).status, 0);
}

/// Ends the agent and starts one that chooses by itself.
fn start_anew(guest: &Guest) {
    agent::stop(guest);
    agent::start(guest);
    assert_eq!(Status::of(guest).pinning, "io_uring");
}
