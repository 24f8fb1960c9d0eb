//! While both ends of a ring are awake, no message costs a system call: counted by strace at both ends.

use std::process::Command;

use vmshm_vm_tests::environment::{example, guest_example, report, skip};
use vmshm_vm_tests::example::outcome_in_guest;
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::machine::Kind;
use vmshm_vm_tests::patience::LATER;
use vmshm_vm_tests::program::Program;

/// Messages each way. What starting, watching and ending costs does not grow with them, and an end that lost its
/// processor for a while has slept once, not once a message.
const MESSAGES: u64 = 1_000_000;

#[test]
fn a_busy_ring_makes_no_system_call_per_message() {
    if Command::new("strace").arg("-V").output().is_err() {
        skip("there is no strace");
        return;
    }
    let Some(machine) = fleet::borrow(Kind::Uml) else {
        return;
    };
    let space = tempfile::tempdir().expect("there is room");
    let counts = space.path().join("calls");
    let options = format!("--timeout 60 --count {MESSAGES} --name strace");
    let inside = machine.guest.start(&format!(
        "strace -c -f -o calls {} guest {options}",
        guest_example("ring_pair")
    ));
    let mut command = Command::new("strace");
    command
        .args(["-c", "-f", "-o"])
        .arg(&counts)
        .arg(example("ring_pair"))
        .args(["host", &machine.name])
        .args(options.split(' '));
    Program::new(command).run_within(LATER).success();
    outcome_in_guest(inside, "ring_pair");
    let host = total(&std::fs::read_to_string(&counts).expect("strace has written it"));
    let guest = total(&machine.guest.check("cat calls"));
    report(&format_args!(
        "{MESSAGES} messages each way: {host} system calls on the host, {guest} in the guest, all in all"
    ));
    for calls in [host, guest] {
        assert!(calls > 20, "strace has counted something");
        assert!(
            calls < MESSAGES / 10,
            "{calls} calls for {MESSAGES} messages"
        );
    }
}

/// The last line of strace's table: `100.00 seconds usecs calls errors total`.
fn total(table: &str) -> u64 {
    let line = table
        .lines()
        .rfind(|line| line.trim_end().ends_with("total"));
    let line = line.unwrap_or_else(|| panic!("no total in {table}"));
    let numbers = line.split_whitespace().nth(3);
    numbers
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("no number of calls in {line}"))
}
