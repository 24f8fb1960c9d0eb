//! A guest inside the guest: user-mode Linux with an agent of its own inside an emulated machine. Its beacon lies in the
//! machine's memory, too, and must not be taken for the machine's own.

use serde_json::Value;
use vmshm_vm_tests::agent;
use vmshm_vm_tests::environment;
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::guest::Job;
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::{LATER, SOON, wait_until};
use vmshm_vm_tests::program::vmshm;
use vmshm_vm_tests::status::Status;

/// The inner guest's first program.
const INIT: &str = "#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
vmshm-agent run
";

#[test]
fn the_agent_of_a_guest_inside_the_guest_is_told_from_the_guests_own() {
    if !environment::is_set_up() {
        return;
    }
    // Any user-mode Linux of the fleet tells where the program lies.
    let uml = fleet::borrow(Kind::Uml).expect("it is set up");
    let program = std::fs::read_link(format!("/proc/{}/exe", uml.pid)).expect("it runs");
    let machine = Machine::boot_as(Kind::QemuPrivate(1), "outer", &[]);
    let own = Status::of(&machine.guest).boot_id;
    assert_eq!(agent_of(&machine)["boot_id"], own.as_str());

    let inner = start_inner(&machine, &program.display().to_string());
    assert_nested(&machine);

    // The machine's own agent leaves: the inner one's must not take its place.
    agent::stop(&machine.guest);
    assert_nested(&machine);

    drop(inner);
    machine.guest.run("pkill -9 linux.uml; pkill -9 linux");
    wait_until("end of the inner guest's beacon", LATER, || {
        agent_of(&machine).is_null().then_some(())
    });
    agent::start(&machine.guest);
    assert_eq!(agent_of(&machine)["state"], "seen");
    vmshm(["region", "list", &machine.name]).run().success();
}

/// Starts the inner guest and waits until its agent is ready.
fn start_inner<'a>(machine: &'a Machine, program: &str) -> Job<'a> {
    machine.guest.check(&format!(
        "cat >/root/init <<'END'\n{INIT}END\nchmod +x /root/init"
    ));
    let job = machine.guest.start(&format!(
        "exec '{program}' mem=96M root=/dev/root rootfstype=hostfs rootflags=/ ro \
         init=/root/init con=null con0=fd:0,fd:1 quiet"
    ));
    wait_until("the inner guest's agent", LATER, || {
        job.output().contains("ready: beacon").then_some(())
    });
    job
}

fn assert_nested(machine: &Machine) {
    // On a busy host its memory is searched in parts.
    let agent = wait_until("a nested guest", SOON, || {
        let agent = agent_of(machine);
        (agent["state"] == "nested").then_some(agent)
    });
    assert_eq!(agent["boot_id"], Value::Null, "nothing is derived from it");
    assert_eq!(agent["version"], Value::Null, "nothing is derived from it");
    vmshm(["region", "create", &machine.path("none"), "--size", "4K"])
        .run()
        .refused(&["is nested", "a VM runs inside"])
        .hints(&["inside the outer guest"]);
    // Reading works as without an agent.
    let read = vmshm(["read", &machine.name, "0x100000", "16"]).run();
    assert!(read.errors.contains("layout: "), "{}", read.errors);
    assert!(!read.errors.contains("proved by"), "{}", read.errors);
    read.success();
    vmshm(["write", &machine.name, "0x100000", "--hex", "00"])
        .run()
        .refused(&["cannot be proved", "nested"]);
}

fn agent_of(machine: &Machine) -> Value {
    let listed = vmshm(["list", "--json"]).run().json();
    let entries = listed.as_array().expect("an array");
    let ours = entries.iter().find(|entry| entry["pid"] == machine.pid);
    ours.expect("it is listed")["agent"].clone()
}
