//! A guest that boots anew while a program of another user holds a region: the memory is the guest's own again within
//! a second, and what the program writes afterwards reaches nobody.

use std::time::{Duration, Instant};

use vmshm_vm_tests::environment::{own_program, report};
use vmshm_vm_tests::patience::{LATER, SOON, wait_for};
use vmshm_vm_tests::program::{Program, vmshm};
use vmshm_vm_tests::qmp::Qmp;

use super::brokers::{self, Broker, FRIEND};

/// The promise.
const PROMISED: Duration = Duration::from_secs(1);
/// What a machine with other things to do may add.
const SLACK: Duration = Duration::from_secs(4);

#[test]
fn a_guest_that_boots_anew_has_its_memory_back_within_a_second() {
    let Some(machine) = brokers::machine("reboots") else {
        return;
    };
    let broker = Broker::start(&machine, r#""held""#);
    let program = broker.program(FRIEND, &own_program("hold-brokered"));
    let holder = ["write", &machine.name, "held"]
        .iter()
        .fold(program, Program::argument)
        .start();
    wait_for("a region that is held", LATER, || {
        holder.errors.so_far().contains("held")
    });
    let before = brokers::grafts(machine.pid);
    assert!(!before.is_empty(), "nothing is grafted");
    let monitor = Qmp::of(&machine.name);
    let reset = Instant::now();
    monitor.execute("system_reset", &serde_json::json!({}));
    wait_for("all to be taken back", SOON, || {
        brokers::grafts(machine.pid).is_empty()
    });
    let took = reset.elapsed();
    report(&format_args!(
        "{} pieces were taken back {:.0} ms after the reset",
        before.len(),
        took.as_secs_f64() * 1000.0
    ));
    for line in broker.said().lines() {
        if line.contains("taken back") {
            report(&line);
        }
    }
    assert!(took < PROMISED + SLACK, "{took:?}");
    wait_for("the holder to hear of it", SOON, || {
        holder.errors.so_far().contains("ended: ")
    });
    // It goes on writing into its file. The new guest boots, and lives, as if nobody did.
    wait_for("the new guest's agent", LATER, || {
        let listed = vmshm(["list", "--json"]).run().json();
        let ours = listed.as_array().map(|list| {
            list.iter()
                .any(|one| one["name"] == machine.name.as_str() && one["agent"]["state"] == "seen")
        });
        ours == Some(true) && brokers::grafts(machine.pid).is_empty()
    });
    drop(holder);
}
