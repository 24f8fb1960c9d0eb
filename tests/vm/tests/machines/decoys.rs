//! A guest full of false beacons: the true one is found none the less, and not much later.

use std::time::{Duration, Instant};

use serde_json::json;
use vmshm_vm_tests::environment::{guest_program, report};
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::{SOON, wait_for};
use vmshm_vm_tests::program::vmshm;
use vmshm_vm_tests::status::Status;

const DECOYS: u32 = 10_000;

#[test]
fn ten_thousand_false_beacons_neither_mislead_nor_delay() {
    for kind in [Kind::Uml, Kind::QemuPrivate(2), Kind::QemuMemfd(1)] {
        let Some(machine) = fleet::borrow(kind) else {
            return;
        };
        let status = Status::of(&machine.guest);
        let alone = found(&machine);
        let decoys = machine.guest.start(&format!(
            "exec {} {DECOYS} {} {}",
            guest_program("false-beacons"),
            status.beacon,
            status.boot_id
        ));
        let ready = format!("ready {DECOYS}");
        wait_for("the false beacons", SOON, || {
            decoys.output().contains(&ready)
        });
        let among = found(&machine);
        report(&format_args!(
            "{}: attached in {:.3} s, among {DECOYS} false beacons in {:.3} s",
            machine.name,
            alone.as_secs_f64(),
            among.as_secs_f64()
        ));
        assert!(among < 3 * alone + Duration::from_secs(1), "{among:?}");
        let listed = vmshm(["list", "--json"]).run().json();
        let entries = listed.as_array().expect("an array");
        let ours = entries.iter().find(|entry| entry["pid"] == machine.pid);
        let ours = ours.expect("it is listed");
        assert_eq!(ours["agent"]["state"], "seen", "{ours}");
        assert_eq!(ours["agent"]["boot_id"], status.boot_id.as_str());
        drop(decoys);
    }
}

/// The best of several times that attaching takes.
fn found(machine: &Machine) -> Duration {
    let times = (0..5).map(|_| {
        let started = Instant::now();
        let regions = vmshm(["region", "list", &machine.name, "--json"]).run();
        assert_eq!(regions.json(), json!([]));
        started.elapsed()
    });
    times.min().expect("there are some")
}
