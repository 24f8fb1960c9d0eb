//! A guest that boots anew, or goes back to a snapshot, while a program of another user holds a region: the memory is
//! the guest's own again within a second, and what the program writes afterwards reaches nobody.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use vmshm_vm_tests::environment::report;
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::{LATER, SOON, wait_for};
use vmshm_vm_tests::program::{Running, vmshm};
use vmshm_vm_tests::qmp::Qmp;

use super::brokers::{self, Broker};

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
    // What it writes before the memory is taken back may be the new guest's.
    let mut holder = brokers::hold(&broker, &machine, "write-late");
    resets(&broker, &machine, &holder);
    let told = holder
        .stdin
        .as_mut()
        .expect("it is ours")
        .write_all(b"write\n");
    told.expect("it reads");
    wait_for("the holder to write", SOON, || {
        holder.errors.so_far().contains("written")
    });
    is_there_again(&machine, 2);
}

#[test]
#[ignore = "long: fifty resets"]
fn a_guest_boots_anew_again_and_again_while_somebody_writes() {
    let Some(machine) = brokers::machine("resets") else {
        return;
    };
    let broker = Broker::start(&machine, r#""held""#);
    for reset in 1..=50 {
        let holder = brokers::hold(&broker, &machine, "write");
        resets(&broker, &machine, &holder);
        is_there_again(&machine, reset + 1);
        drop(holder);
    }
}

fn resets(broker: &Broker, machine: &Machine, holder: &Running) {
    taken_back(broker, machine, holder, "reset", || {
        Qmp::of(&machine.name).execute("system_reset", &json!({}));
    });
}

/// Waits for the agent of the guest that has booted so often: it lives as if nobody wrote into the file that was lent.
fn is_there_again(machine: &Machine, boots: usize) {
    wait_for("the new guest's agent", LATER, || {
        // What the old one left in memory looks alive for a moment.
        machine.console.so_far().matches("ready: ").count() == boots
    });
    wait_for("the new guest's agent to be seen", SOON, || {
        let listed = vmshm(["list", "--json"]).run().json();
        let ours = listed.as_array().map(|list| {
            list.iter()
                .any(|one| one["name"] == machine.name.as_str() && one["agent"]["state"] == "seen")
        });
        ours == Some(true) && brokers::grafts(machine.pid).is_empty()
    });
}

#[test]
fn a_guest_that_goes_back_to_a_snapshot_has_its_memory_back_within_a_second() {
    // QEMU saves no guest that has the host's files mounted.
    let options = ["--system", "busybox"];
    let Some(machine) = brokers::machine_of(Kind::QemuPrivate(2), "snapshot", &options) else {
        return;
    };
    let broker = Broker::start(&machine, r#""held""#);
    let snapshots = Snapshots::create(&machine, broker.open_directory().join("snapshots"));
    let guest = &machine.guest;
    guest.check("dd if=/dev/urandom of=bytes bs=1M count=32 2>/dev/null; md5sum bytes >sum");
    snapshots.save("before");
    // These do not write: what a program writes between the guest's return and the end of its
    // loan may be anybody's there.
    let first = brokers::hold(&broker, &machine, "hold");
    snapshots.save("held");
    taken_back(&broker, &machine, &first, "return to before it", || {
        snapshots.load("before");
    });
    guest.check("md5sum -c sum");
    drop(first);
    let second = brokers::hold(&broker, &machine, "hold");
    // In this snapshot the program that is no more holds a region, and the second one none.
    taken_back(&broker, &machine, &second, "return to within it", || {
        snapshots.load("held");
    });
    guest.check("md5sum -c sum");
    drop(second);
    drop(brokers::hold(&broker, &machine, "hold"));
    guest.check("md5sum -c sum");
}

/// Does what ends the guest as it was, and waits until all that was lent is back.
fn taken_back(
    broker: &Broker,
    machine: &Machine,
    holder: &Running,
    after: &str,
    end: impl FnOnce(),
) {
    let before = brokers::grafts(machine.pid);
    let ended = Instant::now();
    end();
    wait_for("all to be taken back", SOON, || {
        brokers::grafts(machine.pid).is_empty()
    });
    let took = ended.elapsed();
    report(&format_args!(
        "{} pieces were taken back {:.0} ms after the {after}",
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
}

/// Snapshots of a running machine, in a file of their own.
struct Snapshots {
    monitor: Qmp,
}

impl Snapshots {
    fn create(machine: &Machine, file: PathBuf) -> Self {
        std::fs::write(&file, []).expect("there is room");
        let everybody = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(&file, everybody).expect("it is ours");
        let monitor = Qmp::of(&machine.name);
        let node = json!({"driver": "file", "filename": file, "node-name": "file"});
        monitor.execute("blockdev-add", &node);
        let snapshots = Self { monitor };
        let options = json!({"driver": "qcow2", "file": "file", "size": 1 << 20});
        snapshots.job("blockdev-create", json!({"options": options}));
        let node = json!({"driver": "qcow2", "file": "file", "node-name": "snapshots"});
        snapshots.monitor.execute("blockdev-add", &node);
        snapshots
    }

    fn save(&self, name: &str) {
        let arguments = json!({"tag": name, "vmstate": "snapshots", "devices": ["snapshots"]});
        self.job("snapshot-save", arguments);
    }

    fn load(&self, name: &str) {
        let arguments = json!({"tag": name, "vmstate": "snapshots", "devices": ["snapshots"]});
        self.job("snapshot-load", arguments);
    }

    /// Runs a command that goes on in the background, to its end.
    fn job(&self, command: &str, mut arguments: serde_json::Value) {
        arguments["job-id"] = json!(command);
        self.monitor.execute(command, &arguments);
        wait_for(command, SOON, || {
            let jobs = self.monitor.execute("query-jobs", &json!({}));
            let jobs = jobs.as_array().expect("a list");
            let job = jobs.iter().find(|job| job["id"] == command);
            let job = job.expect("it stays until it is dismissed");
            assert!(job["error"].is_null(), "{job}");
            job["status"] == "concluded"
        });
        self.monitor.execute("job-dismiss", &json!({"id": command}));
    }
}
