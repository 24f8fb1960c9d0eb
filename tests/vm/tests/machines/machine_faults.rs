//! The VM's process killed or stopped: told apart, and a stopped one is waited for.

use std::time::{Duration, Instant};

use vmshm_vm_tests::environment::report;
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::guest_pipe::GuestPipe;
use vmshm_vm_tests::host_pipe::{ENDLESS, HostPipe};
use vmshm_vm_tests::machine::Kind;
use vmshm_vm_tests::patience::{LATER, SOON, SURVIVORS};
use vmshm_vm_tests::program::vmshm;

#[test]
fn uml_killed_in_mid_transfer() {
    kill_in_mid_transfer(Kind::Uml);
}

#[test]
fn qemu_private_killed_in_mid_transfer() {
    kill_in_mid_transfer(Kind::QemuPrivate(2));
}

#[test]
#[ignore = "long: the next test boots another machine"]
fn qemu_memfd_killed_in_mid_transfer() {
    kill_in_mid_transfer(Kind::QemuMemfd(1));
}

fn kill_in_mid_transfer(kind: Kind) {
    let Some(machine) = fleet::borrow(kind) else {
        return;
    };
    let guest = GuestPipe::echo(&machine.guest, "killed");
    let host = HostPipe::start(&machine.path("killed"), ENDLESS);
    host.wait_for_received(4 << 20);

    let killed = Instant::now();
    machine.kill();
    let transfer = host.end(SOON);
    let told = killed.elapsed();
    report(&format_args!(
        "{}: the host's end says that the VM is gone {:.2} s after its death",
        machine.name,
        told.as_secs_f64()
    ));
    let gone = format!("VM gone: process {}", machine.pid);
    transfer.outcome.ended_with(&[&gone]);
    assert!(told < SURVIVORS, "the host's end took {told:?}");
    transfer.is_right_so_far();
    // Nobody can be asked any more.
    std::mem::forget(guest);

    let name = machine.name.clone();
    vmshm(["region", "list", &name])
        .run()
        .refused(&["no VM is called", &name])
        .within(SOON);
    drop(machine);
    it_goes_on(kind);
}

fn it_goes_on(kind: Kind) {
    let machine = fleet::borrow(kind).expect("it was there before");
    let bytes = 3_000_001;
    let guest = GuestPipe::echo(&machine.guest, "again");
    let host = HostPipe::start(&machine.path("again"), bytes);
    host.wait_for_received(bytes);
    host.finish(LATER).came_back(bytes);
    assert_eq!(guest.wait(SOON).status, 0);
}

#[test]
fn a_paused_vm_is_waited_for() {
    for kind in [Kind::Uml, Kind::QemuPrivate(2), Kind::QemuMemfd(1)] {
        let Some(machine) = fleet::borrow(kind) else {
            return;
        };
        let guest = GuestPipe::echo(&machine.guest, "paused");
        let mut host = HostPipe::start(&machine.path("paused"), ENDLESS);
        host.wait_for_received(1 << 20);

        let paused = machine.pause();
        let since = Instant::now();
        host.process().errors.wait_for("VM paused", SOON);
        let told = since.elapsed();
        let stuck = host.received();
        // Who is not there cannot answer, and that is said in bounded time, too.
        let path = machine.path("x");
        let create = ["region", "create", &path, "--size", "4K", "--timeout", "5"];
        let create = vmshm(create).run();
        create
            .refused(&["silent", "paused"])
            .hints(&["kill -CONT"])
            .within(SOON);
        // Longer than after what a guest would be called silent.
        std::thread::sleep(Duration::from_secs(3).saturating_sub(since.elapsed()));
        assert!(host.is_running(), "a stopped VM is no reason to give up");
        drop(paused);

        host.wait_for_received(stuck + (8 << 20));
        assert!(told < SURVIVORS, "the host's end took {told:?}");
        report(&format_args!(
            "{}: the host's end says that the VM is paused after {:.2} s",
            machine.name,
            told.as_secs_f64()
        ));
        let transfer = host.finish(LATER);
        transfer.came_back(transfer.sent);
        let errors = &transfer.outcome.errors;
        assert!(errors.contains("the guest runs again"), "{errors}");
        assert_eq!(guest.wait(SOON).status, 0);
    }
}
