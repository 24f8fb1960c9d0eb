//! Clients and brokers that are killed: what was lent is taken back, by the broker or by the next one.

use rustix::process::Signal;
use vmshm_vm_tests::environment::own_program;
use vmshm_vm_tests::patience::{LATER, SOON, wait_for};
use vmshm_vm_tests::program::{Program, Running};
use vmshm_vm_tests::status::Status;

use super::brokers::{self, Broker, FRIEND};

fn holder(broker: &Broker, machine: &str) -> Running {
    let program = broker.program(FRIEND, &own_program("hold-brokered"));
    let running = ["hold", machine, "held"]
        .iter()
        .fold(program, Program::argument)
        .start();
    wait_for("a region that is held", LATER, || {
        running.errors.so_far().contains("held")
    });
    running
}

#[test]
fn whoever_is_killed_nothing_stays_lent() {
    let Some(machine) = brokers::machine("deaths") else {
        return;
    };
    let mut broker = Broker::start(&machine, r#""held""#);

    // A client of two: the region is lent on.
    let first = holder(&broker, &machine.name);
    let second = holder(&broker, &machine.name);
    first.signal(Signal::KILL);
    let _ = first.wait(SOON);
    wait_for("the slot to be free", SOON, || {
        Status::of(&machine.guest).sessions.len() == 1
    });
    assert!(!brokers::grafts(machine.pid).is_empty(), "it is still lent");
    second.signal(Signal::KILL);
    let _ = second.wait(SOON);
    brokers::wait_for_no_graft(&machine);
    wait_for("the slots to be free", SOON, || {
        Status::of(&machine.guest).sessions.is_empty()
    });

    // The broker.
    let third = holder(&broker, &machine.name);
    broker.kill();
    wait_for("the client to hear of it", SOON, || {
        third.errors.so_far().contains("ended: ")
    });
    assert!(
        !brokers::grafts(machine.pid).is_empty(),
        "nobody takes it back"
    );
    broker.run();
    assert_eq!(
        brokers::grafts(machine.pid),
        [] as [String; 0],
        "before it serves anybody"
    );
    drop(third);

    // Somebody who breaks every rule of the talk.
    let fourth = holder(&broker, &machine.name);
    let attack = broker.program(FRIEND, &own_program("hold-brokered"));
    let attack = attack.argument("attack").argument(broker.socket());
    attack.run_within(LATER).success();
    assert!(
        !fourth.errors.so_far().contains("ended"),
        "{}",
        fourth.errors.so_far()
    );
    machine.guest.check("true");
    drop(fourth);
    broker.end();
    assert_eq!(brokers::grafts(machine.pid), [] as [String; 0]);
}
