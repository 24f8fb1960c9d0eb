//! The host's end killed or silent: the guest is told, nothing stays pinned, and the next transfer works.

use std::time::Instant;

use rustix::process::Signal;
use vmshm_vm_tests::agent;
use vmshm_vm_tests::environment::report;
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::guest_pipe::GuestPipe;
use vmshm_vm_tests::host_pipe::{ENDLESS, HostPipe};
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::{LATER, SOON, SURVIVORS, wait_for, wait_until};
use vmshm_vm_tests::processes;
use vmshm_vm_tests::program::vmshm;
use vmshm_vm_tests::status::Status;

#[test]
fn uml_host_killed_in_mid_transfer() {
    kill_in_mid_transfer(Kind::Uml);
}

#[test]
fn qemu_private_host_killed_in_mid_transfer() {
    kill_in_mid_transfer(Kind::QemuPrivate(2));
}

#[test]
fn qemu_memfd_host_killed_in_mid_transfer() {
    kill_in_mid_transfer(Kind::QemuMemfd(1));
}

fn kill_in_mid_transfer(kind: Kind) {
    let Some(machine) = fleet::borrow(kind) else {
        return;
    };
    let base = Status::of(&machine.guest).pinned_bytes;
    let guest = GuestPipe::echo(&machine.guest, "killed");
    let host = HostPipe::start(&machine.path("killed"), ENDLESS);
    host.wait_for_received(4 << 20);
    let process = u64::from(host.process().pid());
    let status = Status::of(&machine.guest);
    assert!(status.pinned_bytes > base, "a pipe is pinned");
    assert!(!status.region("killed").held_by.is_empty());
    assert!(
        status
            .sessions
            .iter()
            .any(|one| one.host_pid == Some(process)),
        "{status:?}"
    );

    let killed = Instant::now();
    host.process().signal(Signal::KILL);
    guest_hears_of_it(&machine, guest, killed);
    drop(host);
    agent::wait_for_pinned(&machine.guest, base);
    it_goes_on(&machine);
}

fn guest_hears_of_it(machine: &Machine, guest: GuestPipe<'_>, killed: Instant) {
    let ended = guest.wait(SOON);
    let told = killed.elapsed();
    report(&format_args!(
        "{}: the guest's end says that the host's end is dead {:.2} s after its death",
        machine.name,
        told.as_secs_f64()
    ));
    assert_eq!(ended.status, 2, "{}", ended.errors);
    assert!(
        ended
            .errors
            .contains("error: the other end of the pipe has died"),
        "{}",
        ended.errors
    );
    assert!(told < SURVIVORS, "the guest's end took {told:?}");
}

fn it_goes_on(machine: &Machine) {
    let bytes = 3_000_001;
    let guest = GuestPipe::echo(&machine.guest, "killed");
    let host = HostPipe::start(&machine.path("killed"), bytes);
    host.wait_for_received(bytes);
    host.finish(LATER).came_back(bytes);
    assert_eq!(guest.wait(SOON).status, 0);
}

#[test]
fn the_next_command_frees_what_a_dead_host_holds() {
    let Some(machine) = fleet::borrow(Kind::Uml) else {
        return;
    };
    let base = Status::of(&machine.guest).pinned_bytes;
    let guest = GuestPipe::echo(&machine.guest, "orphan");
    let host = HostPipe::start(&machine.path("orphan"), ENDLESS);
    host.wait_for_received(1 << 20);
    // Whoever watches over the process dies first.
    for watcher in processes::descendants(host.process().pid()) {
        processes::signal(watcher, Signal::KILL);
    }
    host.process().signal(Signal::KILL);
    drop(host);
    wait_until("word that the host's end is silent", SOON, || {
        guest
            .errors()
            .contains("the host's end is silent")
            .then_some(())
    });
    assert!(Status::of(&machine.guest).pinned_bytes > base, "it is kept");

    let path = machine.path("other");
    let next = Instant::now();
    vmshm(["region", "create", &path, "--size", "4K"])
        .run()
        .success();
    guest_hears_of_it(&machine, guest, next);
    vmshm(["region", "remove", &path]).run().success();
    agent::wait_for_pinned(&machine.guest, base);
}

#[test]
fn what_a_silent_host_holds_is_freed_by_force_only() {
    for kind in [Kind::Uml, Kind::QemuPrivate(2)] {
        let Some(machine) = fleet::borrow(kind) else {
            return;
        };
        let base = Status::of(&machine.guest).pinned_bytes;
        let guest = GuestPipe::echo(&machine.guest, "silent");
        let bytes = 1 << 20;
        let host = HostPipe::start(&machine.path("silent"), bytes);
        // All has come back, so that it is not stopped in the middle of a copy: that one copy it would finish when it
        // goes on, into pages that are other programs' by then. Nothing can prevent this, and the hint says so.
        host.wait_for_received(bytes);
        let process = u64::from(host.process().pid());
        host.process().signal(Signal::STOP);

        wait_for("host that the status calls silent", SOON, || {
            let status = Status::of(&machine.guest);
            let session = status
                .sessions
                .iter()
                .find(|one| one.host_pid == Some(process));
            session.is_some_and(|one| one.silent_seconds >= Some(6))
        });
        let shown = machine.guest.check("vmshm-agent status");
        let line = shown
            .lines()
            .find(|line| line.contains(&process.to_string()));
        assert!(
            line.is_some_and(|line| line.contains("silent for")),
            "{shown}"
        );
        let held = Status::of(&machine.guest);
        assert!(!held.region("silent").held_by.is_empty());

        let gentle = machine.guest.check("vmshm-agent release");
        assert!(gentle.contains("0 slots freed"), "{gentle}");
        assert!(gentle.contains("1 held by silent hosts"), "{gentle}");
        assert!(gentle.contains("only stopped"), "{gentle}");
        assert!(Status::of(&machine.guest).pinned_bytes > base, "it is kept");
        let forced = machine.guest.check("vmshm-agent release --force");
        assert!(forced.contains("1 slot freed"), "{forced}");
        agent::wait_for_pinned(&machine.guest, base);
        let ended = guest.wait(SOON);
        assert_eq!(ended.status, 2, "{}", ended.errors);
        assert_eq!(Status::of(&machine.guest).sessions.len(), 0);

        host.process().signal(Signal::CONT);
        let transfer = host.end(SOON);
        transfer.outcome.ended_with(&["session ended"]);
        transfer.is_right_so_far();
        it_goes_on(&machine);
    }
}
