//! Ring and latest stay right while the process at one end is killed and started again, two hundred times at random
//! moments: on either side of the border.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use vmshm_vm_tests::environment::{guest_program, own_program, report};
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::LATER;
use vmshm_vm_tests::program::{Program, vmshm};

const KILLS: &str = "200";
/// The killer gives each longer where the machine is slow.
const KILLING: Duration = LATER.saturating_mul(5);

#[test]
fn a_guest_program_is_killed_200_times() {
    kill_in_the_guest(Kind::Uml, "150");
}

#[test]
#[ignore = "long: an emulated guest starts programs slowly"]
fn a_guest_program_is_killed_200_times_over_copy() {
    kill_in_the_guest(Kind::QemuPrivate(2), "600");
}

#[test]
fn a_host_program_is_killed_200_times() {
    kill_on_the_host(Kind::Uml, "250");
}

#[test]
#[ignore = "long: every attempt to attach searches private memory"]
fn a_host_program_is_killed_200_times_over_copy() {
    kill_on_the_host(Kind::QemuPrivate(2), "600");
}

fn kill_in_the_guest(kind: Kind, shortest: &str) {
    let Some(machine) = fleet::borrow(kind) else {
        return;
    };
    let space = tempfile::tempdir().expect("there is room");
    let stop = space.path().join("stop");
    let mut command = Command::new(own_program("link-peer"));
    command
        .args(["host", &machine.name, "killed", "steady"])
        .arg(&stop);
    let steady = Program::new(command).start();
    let peer = guest_program("link-peer");
    let killer = machine.guest.start(&format!(
        "rm -f state; {peer} kill {KILLS} {shortest} -- {peer} guest killed victim state"
    ));
    let killed = killer.wait(KILLING);
    std::fs::write(&stop, "").expect("there is room");
    let outcome = steady.wait(LATER);
    assert_eq!(killed.status, 0, "{}{}", killed.output, killed.errors);
    judge(&machine, &outcome.json());
}

fn kill_on_the_host(kind: Kind, shortest: &str) {
    let Some(machine) = fleet::borrow(kind) else {
        return;
    };
    let space = tempfile::tempdir().expect("there is room");
    let state = space.path().join("state");
    let peer = guest_program("link-peer");
    machine.guest.check("rm -f stop");
    let steady = machine
        .guest
        .start(&format!("{peer} guest killed steady stop"));
    let peer = own_program("link-peer");
    let mut command = Command::new(&peer);
    command.args(["kill", KILLS, shortest, "--"]).arg(&peer);
    command
        .args(["host", &machine.name, "killed", "victim"])
        .arg(&state);
    Program::new(command).run_within(KILLING).success();
    machine.guest.check("touch stop");
    let outcome = steady.wait(LATER);
    assert_eq!(outcome.status, 0, "{}{}", outcome.output, outcome.errors);
    judge(
        &machine,
        &serde_json::from_str(&outcome.output).expect("it is JSON"),
    );
}

fn judge(machine: &Machine, seen: &Value) {
    report(&format_args!(
        "{}: {KILLS} deaths at the other end: {seen}",
        machine.name
    ));
    let count = |name: &str| seen[name].as_u64().expect("a number");
    // Some of the killed came so far as to send something: the killer gives them longer until they do.
    assert!(count("senders") > 2, "{seen}");
    assert!(count("received") > count("senders"), "{seen}");
    assert!(count("values") > 2, "{seen}");
    for kind in ["ring", "latest"] {
        let region = machine.path(&format!("killed-{kind}"));
        vmshm(["region", "remove", &region]).run().success();
    }
}
