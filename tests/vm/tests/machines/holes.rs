//! Whoever holds a region's file may punch holes into it: that is noticed, the keeper stays, and the pages that a host
//! still sees are given to nobody else.

use std::time::{Duration, Instant};

use vmshm_vm_tests::agent;
use vmshm_vm_tests::environment::{guest_program, report};
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::guest::Guest;
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::{LATER, SOON, wait_for};
use vmshm_vm_tests::program::vmshm;
use vmshm_vm_tests::status::{Region, Status};

/// What stands in the page that is punched out, and in one of another region.
const WORD: &str = "600df00d";
/// Where.
const OFFSET: u64 = 0x5000;

#[test]
fn uml_keeps_the_pages_of_a_hole() {
    keep_pages(Kind::Uml, "io_uring");
}

#[test]
#[ignore = "long: boots another machine"]
fn qemu_keeps_the_pages_of_a_hole_by_io_uring() {
    keep_pages(Kind::QemuMemfd(1), "io_uring");
}

#[test]
fn qemu_keeps_the_pages_of_a_hole_by_af_xdp() {
    keep_pages(Kind::QemuMemfd(1), "af_xdp");
}

#[test]
fn uml_notices_a_hole() {
    notice("");
}

#[test]
fn uml_notices_a_hole_that_is_filled_again() {
    let seek = OFFSET / 4096;
    notice(&format!(
        "&& dd if=/dev/zero of=$memory bs=4096 seek={seek} count=1 conv=notrunc 2>/dev/null"
    ));
}

/// Punches a page out while no agent runs, and gives all that is free to somebody else. The next agent is told.
fn keep_pages(kind: Kind, method: &str) {
    let Some(machine) = fleet::borrow(kind) else {
        return;
    };
    let guest = &machine.guest;
    let before = prepare(&machine, method);
    let places = ["whole", "punched"].map(|name| place(before.region(name)));
    agent::kill(guest);
    punch(guest, before.region("punched"), "");

    let filler = guest.start(&format!("exec {} 1", guest_program("fill-memory")));
    let filled = filler.wait(LATER);
    assert!(filled.output.contains("filled"), "{}", filled.errors);
    assert!(
        filled.output.ends_with("\n0 foreign words"),
        "{}",
        filled.output
    );
    for gpa in places {
        let read = vmshm(["read", &machine.name, &gpa.to_string(), "4"]).run();
        assert_eq!(read.success(), [0x60, 0x0d, 0xf0, 0x0d], "at {gpa:#x}");
    }
    assert_eq!(Status::of(guest).keeper_pid, before.keeper_pid);

    guest.check("setsid vmshm-agent run >agent.log 2>&1 </dev/null &");
    wait_for("word of the hole", SOON, || is_told(guest));
    start_anew(guest, before.keeper_pid);
}

/// Punches a page out while the agent runs; the command `then` may fill it again.
fn notice(then: &str) {
    let Some(machine) = fleet::borrow(Kind::Uml) else {
        return;
    };
    let guest = &machine.guest;
    let before = prepare(&machine, "io_uring");
    // Checks with nothing to tell have passed by then.
    std::thread::sleep(Duration::from_secs(2));
    assert!(!is_told(guest), "nothing has happened yet");
    punch(guest, before.region("punched"), then);
    let punched = Instant::now();
    wait_for("word of the hole", SOON, || is_told(guest));
    report(&format_args!(
        "{}: a hole is told after {:.2} s: {}",
        machine.name,
        punched.elapsed().as_secs_f64(),
        guest.check("grep -m 1 'memory of `punched`' agent.log")
    ));
    start_anew(guest, before.keeper_pid);
}

/// An agent that pins by `method`, and two regions with a word in each.
fn prepare(machine: &Machine, method: &str) -> Status {
    let guest = &machine.guest;
    agent::stop(guest);
    agent::start_with(guest, &format!("--pin-by {method}"));
    for (name, size) in [("whole", "2M"), ("punched", "64M")] {
        let path = machine.path(name);
        vmshm(["region", "create", &path, "--size", size])
            .run()
            .success();
        vmshm(["region", "write", &path, &OFFSET.to_string(), "--hex", WORD])
            .run()
            .success();
    }
    let status = Status::of(guest);
    assert_eq!(status.pinning, method);
    status
}

fn punch(guest: &Guest, region: &Region, then: &str) {
    let memory = &region.memory.memory;
    // The agent may notice, and close its descriptor, before the next command opens the file.
    guest.check(&format!(
        "exec 7<>{memory}; memory=/proc/self/fd/7; fallocate --punch-hole --offset {OFFSET} --length 4096 $memory {then}"
    ));
}

fn is_told(guest: &Guest) -> bool {
    guest.run("grep -q 'memory of `punched`' agent.log").status == 0
}

/// The guest-physical address of the word in a region.
fn place(region: &Region) -> u64 {
    let mut before = 0;
    for extent in &region.memory.extents {
        if OFFSET < before + extent.length {
            return extent.gpa + OFFSET - before;
        }
        before += extent.length;
    }
    panic!("{} is shorter than expected", region.name);
}

/// Ends keeper and agent with all regions, and starts an agent.
fn start_anew(guest: &Guest, keeper: u32) {
    // It may have gone with the agent.
    guest.run(&format!("kill {keeper}"));
    wait_for("end of the keeper", LATER, || {
        guest.run("vmshm-agent status").status == 2
    });
    agent::start(guest);
}
