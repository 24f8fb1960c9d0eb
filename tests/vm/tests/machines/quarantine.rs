//! Memory that a host may still write belongs to nobody else, whatever happens to the agent.

use rustix::process::Signal;
use vmshm_vm_tests::agent;
use vmshm_vm_tests::bytes::RandomBytes;
use vmshm_vm_tests::environment::{guest_program, report};
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::guest_pipe::GuestPipe;
use vmshm_vm_tests::host_pipe::{ENDLESS, HostPipe};
use vmshm_vm_tests::machine::Kind;
use vmshm_vm_tests::patience::{LATER, SOON, wait_for};
use vmshm_vm_tests::program::{Outcome, vmshm};
use vmshm_vm_tests::status::Status;

#[test]
fn uml_memory_stays_quarantined_under_load() {
    kill_agent_under_load(Kind::Uml);
}

#[test]
fn qemu_private_memory_stays_quarantined_under_load() {
    kill_agent_under_load(Kind::QemuPrivate(2));
}

#[test]
#[ignore = "long: fills a third machine"]
fn qemu_memfd_memory_stays_quarantined_under_load() {
    kill_agent_under_load(Kind::QemuMemfd(1));
}

/// Three hosts write when the agent dies: one pipe at full speed; another that is stopped at that moment, and writes on
/// when the guest has given all its free memory to somebody else; and one that writes a region again and again.
fn kill_agent_under_load(kind: Kind) {
    let Some(machine) = fleet::borrow(kind) else {
        return;
    };
    let base = Status::of(&machine.guest).pinned_bytes;
    let path = machine.path("load");
    vmshm(["region", "create", &path, "--size", "16M"])
        .run()
        .success();
    let guests = ["fast", "stopped"].map(|name| GuestPipe::echo(&machine.guest, name));
    let [fast, stopped] =
        ["fast", "stopped"].map(|name| HostPipe::start(&machine.path(name), ENDLESS));
    fast.wait_for_received(2 << 20);
    stopped.wait_for_received(2 << 20);
    let bytes = RandomBytes::new(RandomBytes::fresh_seed()).take(16 << 20);
    let writer = std::thread::spawn(move || write_until_refused(&path, &bytes));

    stopped.process().signal(Signal::STOP);
    let agent = Status::of(&machine.guest).agent_pid.expect("it runs");
    let filler = guest_program("fill-memory");
    // At once, so that what the dead agent had would be given away while the hosts still write.
    let checker = machine
        .guest
        .start(&format!("kill -9 {agent}; exec {filler} 5"));
    fast.end(SOON).outcome.ended_with(&["agent dead"]);
    writer
        .join()
        .expect("the writer does not panic")
        .refused(&["agent"]);
    wait_for("memory that is full", LATER, || {
        checker.output().contains("filled")
    });
    stopped.process().signal(Signal::CONT);
    stopped.end(SOON).outcome.ended_with(&["agent dead"]);
    let checked = checker.wait(LATER);
    report(&format_args!(
        "{}: {}",
        machine.name,
        checked.output.trim().replace('\n', ", ")
    ));
    assert_eq!(checked.status, 0, "{}", checked.errors);
    assert!(checked.output.contains("filled"), "{}", checked.output);
    assert!(
        checked.output.ends_with("\n0 foreign words"),
        "{}",
        checked.output
    );
    for guest in guests {
        assert_eq!(guest.wait(SOON).status, 2);
    }

    agent::start(&machine.guest);
    vmshm(["region", "remove", &machine.path("load")])
        .run()
        .success();
    agent::wait_for_pinned(&machine.guest, base);
}

fn write_until_refused(path: &str, bytes: &[u8]) -> Outcome {
    loop {
        let write = vmshm(["region", "write", path, "0", "-i", "-"]);
        let outcome = write.input(bytes.to_vec()).run();
        if outcome.code != Some(0) {
            return outcome;
        }
    }
}
