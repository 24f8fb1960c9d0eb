//! Pinning where io_uring is not allowed: huge pages where there are some, else a refusal with the reason.

use vmshm_vm_tests::agent;
use vmshm_vm_tests::environment::report;
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::guest::Guest;
use vmshm_vm_tests::guest_pipe::GuestPipe;
use vmshm_vm_tests::host_pipe::HostPipe;
use vmshm_vm_tests::machine::Kind;
use vmshm_vm_tests::patience::{LATER, SOON};
use vmshm_vm_tests::status::Status;

#[test]
fn qemu_pins_by_huge_pages_where_io_uring_is_blocked() {
    let Some(machine) = fleet::borrow(Kind::QemuMemfd(1)) else {
        return;
    };
    let guest = &machine.guest;
    let limit = "cat /proc/sys/vm/nr_overcommit_hugepages";
    agent::stop(guest);
    let before = guest.check(limit);
    let options = block_io_uring(guest);
    agent::start_with(guest, options);
    assert_eq!(Status::of(guest).pinning, "hugetlb");
    let bytes = 8 << 20;
    let echo = GuestPipe::echo(guest, "huge");
    let host = HostPipe::start(&machine.path("huge"), bytes);
    host.wait_for_received(bytes);
    host.finish(LATER).came_back(bytes);
    assert_eq!(echo.wait(SOON).status, 0);
    agent::stop(guest);
    assert_eq!(guest.check(limit), before, "the limit of huge pages");
    allow_io_uring(guest);
    agent::start(guest);
    assert_eq!(Status::of(guest).pinning, "io_uring");
}

#[test]
fn uml_refuses_with_the_reason_where_io_uring_is_blocked() {
    let Some(machine) = fleet::borrow(Kind::Uml) else {
        return;
    };
    let guest = &machine.guest;
    agent::stop(guest);
    let options = block_io_uring(guest);
    let refused = guest.run(&format!("timeout 30 vmshm-agent run {options}"));
    assert_eq!(refused.status, 2, "{}", refused.text);
    assert!(refused.text.contains("error: "), "{}", refused.text);
    assert!(refused.text.contains("huge pages"), "{}", refused.text);
    assert!(refused.text.contains("\nhint: "), "{}", refused.text);
    assert_eq!(guest.run("vmshm-agent status").status, 2, "nothing is left");
    allow_io_uring(guest);
    agent::start(guest);
}

/// Blocks io_uring where the kernel can do that (6.6 and newer), else has the agent do without. Gives its options.
fn block_io_uring(guest: &Guest) -> &'static str {
    let switch = "echo 2 >/proc/sys/kernel/io_uring_disabled";
    if guest
        .run(&format!(
            "test -e /proc/sys/kernel/io_uring_disabled && {switch}"
        ))
        .status
        == 0
    {
        report(&"io_uring is disabled by the guest's kernel");
        ""
    } else {
        "--pin-by hugetlb"
    }
}

fn allow_io_uring(guest: &Guest) {
    let switch = "/proc/sys/kernel/io_uring_disabled";
    guest.check(&format!("test ! -e {switch} || echo 0 >{switch}"));
}
