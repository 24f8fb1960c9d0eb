//! The agent killed, shut down and started again: who is told, what is kept, and that it goes on afterwards.

use std::time::Instant;

use serde_json::{Value, json};
use vmshm_vm_tests::agent;
use vmshm_vm_tests::environment::report;
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::guest_pipe::GuestPipe;
use vmshm_vm_tests::host_pipe::{ENDLESS, HostPipe};
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::{LATER, SOON, SURVIVORS};
use vmshm_vm_tests::program::vmshm;
use vmshm_vm_tests::status::Status;

#[test]
fn uml_agent_killed_in_mid_transfer() {
    kill_in_mid_transfer(Kind::Uml);
}

#[test]
fn qemu_private_agent_killed_in_mid_transfer() {
    kill_in_mid_transfer(Kind::QemuPrivate(2));
}

#[test]
fn qemu_memfd_agent_killed_in_mid_transfer() {
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

    let agent = Status::of(&machine.guest).agent_pid.expect("it runs");
    let killed = Instant::now();
    machine.guest.check(&format!("kill -9 {agent}"));
    let transfer = host.end(SOON);
    let told = killed.elapsed();
    report(&format_args!(
        "{}: the host's end says that the agent is dead {:.2} s after its death",
        machine.name,
        told.as_secs_f64()
    ));
    transfer
        .outcome
        .ended_with(&["agent dead"])
        .hints(&["vmshm-agent run"]);
    assert!(told < SURVIVORS, "the host's end took {told:?}");
    transfer.is_right_so_far();
    let ended = guest.wait(SOON);
    let told = killed.elapsed();
    assert_eq!(ended.status, 2, "{}", ended.errors);
    assert!(
        ended.errors.contains("error: vmshm-agent has died"),
        "{}",
        ended.errors
    );
    assert!(told < SURVIVORS, "the guest's end took {told:?}");

    what_a_dead_agent_leaves_is_shown(&machine);
    agent::start(&machine.guest);
    it_goes_on(&machine);
    agent::wait_for_pinned(&machine.guest, base);
}

fn what_a_dead_agent_leaves_is_shown(machine: &Machine) {
    assert_eq!(listed_agent(machine)["state"], "dead");
    assert_eq!(Status::of(&machine.guest).state, "dead");
    let create = vmshm(["region", "create", &machine.path("none"), "--size", "4K"]).run();
    create
        .refused(&["agent dead"])
        .hints(&["vmshm-agent run"])
        .within(SOON);
    let guest = machine.guest.run("vmshm-agent pipe none </dev/null");
    assert_eq!(guest.status, 2, "{}", guest.text);
    assert!(guest.text.contains("error: no agent is running"));
    assert!(guest.text.contains("hint: start it with `vmshm-agent run`"));
}

fn it_goes_on(machine: &Machine) {
    assert_eq!(listed_agent(machine)["state"], "seen");
    let bytes = 3_000_001;
    let guest = GuestPipe::echo(&machine.guest, "again");
    let host = HostPipe::start(&machine.path("again"), bytes);
    host.wait_for_received(bytes);
    host.finish(LATER).came_back(bytes);
    assert_eq!(guest.wait(SOON).status, 0);
}

fn listed_agent(machine: &Machine) -> Value {
    let listed = vmshm(["list", "--json"]).run().json();
    let entries = listed.as_array().expect("a list is an array");
    let ours = entries.iter().find(|entry| entry["pid"] == machine.pid);
    ours.expect("it is listed")["agent"].clone()
}

#[test]
fn a_region_survives_its_agent() {
    let Some(machine) = fleet::borrow(Kind::QemuMemfd(1)) else {
        return;
    };
    let path = machine.path("survivor");
    vmshm(["region", "create", &path, "--size", "8K"])
        .run()
        .success();
    vmshm(["region", "write", &path, "0x1000", "--hex", "5a5b5c5d"])
        .run()
        .success();
    agent::kill(&machine.guest);
    agent::start(&machine.guest);
    let read = vmshm(["region", "read", &path, "0xfff", "6"]).run();
    assert_eq!(read.success(), [0, 0x5a, 0x5b, 0x5c, 0x5d, 0]);
    let again = vmshm(["region", "create", &path, "--size", "8K"]).run();
    again.refused(&["already"]);
    vmshm(["region", "remove", &path]).run().success();
}

#[test]
fn a_clean_exit_takes_the_brand_away() {
    for kind in [Kind::Uml, Kind::QemuPrivate(2)] {
        let Some(machine) = fleet::borrow(kind) else {
            return;
        };
        let beacon = format!("{:#x}", Status::of(&machine.guest).beacon);
        let look = || {
            vmshm(["read", &machine.name, &beacon, "16"])
                .run()
                .success()
        };
        let branded = look();
        let guest = GuestPipe::echo(&machine.guest, "left");
        let host = HostPipe::start(&machine.path("left"), ENDLESS);
        host.wait_for_received(1 << 20);

        agent::stop(&machine.guest);
        let transfer = host.end(SOON);
        transfer.outcome.ended_with(&["agent stopped"]);
        assert_eq!(guest.wait(SOON).status, 2);
        assert_eq!(listed_agent(&machine), json!(null));
        assert_ne!(look(), branded, "the brand is still there");
        let status = machine.guest.run("vmshm-agent status");
        assert_eq!(status.status, 2, "{}", status.text);
        assert!(status.text.contains("error: no agent is running"));

        agent::start(&machine.guest);
        it_goes_on(&machine);
    }
}
