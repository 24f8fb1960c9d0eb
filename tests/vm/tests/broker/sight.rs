//! A program that holds a region by the broker cannot read one byte of the guest outside of it: not by any descriptor
//! that it holds, nor by any path that leads from one.

use vmshm_vm_tests::environment::{own_program, report};
use vmshm_vm_tests::patience::{LATER, SOON, wait_for};
use vmshm_vm_tests::program::Program;

use super::brokers::{self, Broker, FRIEND};

#[test]
fn a_holder_reads_nothing_outside_its_region() {
    let Some(machine) = brokers::machine("sight") else {
        return;
    };
    let mut broker = Broker::start(&machine, r#""held""#);
    // What must not be found: it lies all over the guest's memory, and in no command line of the host.
    let secret = "yes guest-only-the-$(echo secret) | head -n 2000 >many; wc -c <many";
    machine.guest.check(secret);
    let holder = broker.program(FRIEND, &own_program("hold-brokered"));
    let holder = [
        "look".to_owned(),
        machine.name.clone(),
        machine.pid.to_string(),
        broker.pid().to_string(),
        "guest-only-the".to_owned(),
        "secret".to_owned(),
    ]
    .iter()
    .fold(holder, Program::argument);
    let seen = holder.run_within(LATER).json();
    report(&format_args!("what a holder can reach: {seen}"));
    assert_eq!(seen["found_secret"], serde_json::json!([]), "{seen}");
    assert_eq!(seen["opened"], serde_json::json!([]), "{seen}");
    assert_eq!(seen["memory_files"], 1, "{seen}");
    assert_eq!(
        seen["longer_than_the_region"],
        serde_json::json!([]),
        "{seen}"
    );
    assert_eq!(seen["region_is_its_own"], true, "{seen}");
    // Root finds it, so that there is something to be found.
    let found = vmshm_vm_tests::program::vmshm([
        "search",
        &machine.name,
        "guest-only-the-secret",
        "--limit",
        "1",
    ]);
    found.run_within(LATER).success();
    broker.end();
}

#[test]
fn a_holder_that_punches_holes_hurts_only_itself() {
    let Some(machine) = brokers::machine("holes") else {
        return;
    };
    let mut broker = Broker::start(&machine, r#""held", "other""#);
    let other = holder(&broker, &["hold", &machine.name, "other"]);
    let puncher = holder(&broker, &["punch", &machine.name, "held"]);
    wait_for("the end of the one that punched", SOON, || {
        puncher
            .errors
            .so_far()
            .contains("ended: the region is damaged")
    });
    wait_for("what was lent to be taken back", SOON, || {
        brokers::grafted_regions(machine.pid) == 1
    });
    // The guest goes on, and so does who holds another region.
    machine.guest.check("sha256sum /bin/true");
    assert!(
        !other.errors.so_far().contains("ended"),
        "{}",
        other.errors.so_far()
    );
    drop((puncher, other));
    broker.end();
    assert_eq!(brokers::grafts(machine.pid), [] as [String; 0]);
}

fn holder(broker: &Broker, arguments: &[&str]) -> vmshm_vm_tests::program::Running {
    let program = broker.program(FRIEND, &own_program("hold-brokered"));
    let running = arguments.iter().fold(program, Program::argument).start();
    wait_for("a region that is held", LATER, || {
        running.errors.so_far().contains("held")
    });
    running
}
