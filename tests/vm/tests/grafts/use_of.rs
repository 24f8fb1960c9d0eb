//! Pipes and screens over grafts: memory that is private to the VMM is used without copying, and is private again when
//! they have ended.

use vmshm_host::Vm;
use vmshm_vm_tests::environment::report;
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::grafted::{graft_files, grafted_bytes};
use vmshm_vm_tests::guest_pipe::GuestPipe;
use vmshm_vm_tests::host_pipe::HostPipe;
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::{LATER, SOON, wait_for, wait_until};
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
        nothing_is_left(&machine);
    }
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
        let mut display = vmshm(card.into_iter().chain(more)).start();
        wait_for("frames that are grafted", LATER, || {
            grafted_bytes(machine.pid) > 8 * MIB || !display.is_running()
        });
        let grafted = grafted_bytes(machine.pid);
        assert!(grafted > 8 * MIB, "the frames are not grafted: {grafted}");
        let stats = display.wait(LATER).json();
        assert_eq!(stats["wrong"], 0, "{stats}");
        nothing_is_left(&machine);
        stats["frames"]
            .as_u64()
            .is_some_and(|frames| frames > 0)
            .then_some(stats)
    });
    report(&format_args!("frames over a graft: {stats}"));
}

#[test]
fn the_benchmark_keeps_its_graft_when_its_name_is_gone() {
    let Some(machine) = fleet::borrow(Kind::QemuPrivate(2)) else {
        return;
    };
    // Its region is removed at once, and lives as long as its session.
    let bench = ["bench", &machine.name, "--json", "--method", "graft"];
    let answer = vmshm(bench).run_within(LATER).json();
    assert_eq!(answer["method"], "graft", "{answer}");
    nothing_is_left(&machine);
}

#[test]
fn a_graft_by_name_stays_until_its_region_is_removed() {
    let Some(machine) = fleet::borrow(Kind::QemuPrivate(2)) else {
        return;
    };
    let path = machine.path("removed");
    vmshm(["region", "create", &path, "--size", "256K"])
        .run()
        .success();
    // A session that grafts all that it opens, and its graft with it.
    let read = ["region", "read", &path, "0", "16", "--method", "graft"];
    vmshm(read).run().success();
    nothing_is_left(&machine);
    // One that was made by name outlives those that use it.
    vmshm(["region", "graft", &path]).run().success();
    vmshm(read).run().success();
    assert_eq!(graft_files(machine.pid), 1);
    let listed = vmshm(["region", "list", &machine.name, "--json"])
        .run()
        .json();
    assert_eq!(listed[0]["grafted"], true, "{listed}");
    vmshm(["region", "remove", &path]).run().success();
    nothing_is_left(&machine);
    // The library's removal does the same.
    vmshm(["region", "create", &path, "--size", "256K"])
        .run()
        .success();
    vmshm(["region", "graft", &path]).run().success();
    let vm = Vm::connect(&machine.name).unwrap();
    vm.remove("removed").unwrap();
    nothing_is_left(&machine);
}

fn nothing_is_left(machine: &Machine) {
    assert_eq!(
        (grafted_bytes(machine.pid), graft_files(machine.pid)),
        (0, 0)
    );
}
