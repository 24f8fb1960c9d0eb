//! Pipes and screens over grafts: memory that is private to the VMM is used without copying. What was grafted for them
//! stays so until its place is wanted again.

use vmshm_vm_tests::environment::report;
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::grafted::{graft_files, grafted_bytes};
use vmshm_vm_tests::guest_pipe::GuestPipe;
use vmshm_vm_tests::host_pipe::HostPipe;
use vmshm_vm_tests::machine::Kind;
use vmshm_vm_tests::patience::{LATER, SOON, wait_until};
use vmshm_vm_tests::program::vmshm;

const MIB: u64 = 1 << 20;

#[test]
fn a_pipe_runs_over_a_graft_both_ways() {
    let Some(machine) = fleet::borrow(Kind::QemuPrivate(2)) else {
        return;
    };
    for round in 0..3 {
        let bytes = 8 * MIB;
        let guest = GuestPipe::echo(&machine.guest, "grafted");
        let start = std::time::Instant::now();
        let host = HostPipe::start_over("graft", &machine.path("grafted"), bytes);
        host.wait_for_received(bytes);
        let took = start.elapsed();
        assert!(grafted_bytes(machine.pid) > 0, "the pipe is not grafted");
        host.finish(LATER).came_back(bytes);
        let ended = guest.wait(SOON);
        assert_eq!(ended.status, 0, "{}", ended.errors);
        report(&format_args!(
            "{}: {} MiB there and back over a graft in {:.1} s (round {round})",
            machine.name,
            bytes / MIB,
            took.as_secs_f64()
        ));
        let left = vmshm(["region", "list", &machine.name, "--json"]).run();
        assert_eq!(left.json(), serde_json::json!([]), "regions are left");
    }
    report(&format_args!(
        "{} bytes in {} files are still grafted",
        grafted_bytes(machine.pid),
        graft_files(machine.pid)
    ));
    machine.guest.check("sha256sum /bin/true");
}

#[test]
fn frames_come_over_a_graft_whole() {
    let Some(machine) = fleet::borrow(Kind::QemuPrivate(2)) else {
        return;
    };
    let card = ["display", &machine.name, "--screen", "test-card"];
    let more = ["--method", "graft", "--nowhere", "5", "--verify"];
    // A busy machine may show none in that time.
    let stats = wait_until("frames over a graft", LATER, || {
        let stats = vmshm(card.into_iter().chain(more)).run_within(LATER).json();
        assert_eq!(stats["wrong"], 0, "{stats}");
        stats["frames"]
            .as_u64()
            .is_some_and(|frames| frames > 0)
            .then_some(stats)
    });
    // More than any pipe leaves behind.
    let grafted = grafted_bytes(machine.pid);
    assert!(grafted > 8 * MIB, "the frames are not grafted: {grafted}");
    report(&format_args!("frames over a graft: {stats}"));
}
