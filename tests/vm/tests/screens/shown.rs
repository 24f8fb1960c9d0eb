//! `vmshm display` as the tests use it: screens listed, pictures taken, monitors that stay.

use rustix::process::Signal;
use serde_json::Value;
use vmshm_vm_tests::desktop::Desktop;
use vmshm_vm_tests::environment::report;
use vmshm_vm_tests::machine::Machine;
use vmshm_vm_tests::patience::{LATER, SOON, wait_for};
use vmshm_vm_tests::png_file::Picture;
use vmshm_vm_tests::processes;
use vmshm_vm_tests::program::{Program, Running, vmshm};

/// `vmshm display` of this machine, with more arguments.
pub fn display(machine: &Machine, arguments: &[&str]) -> Program {
    let mut all = vec!["display", &machine.name, "--timeout", "60"];
    all.extend(arguments);
    vmshm(all)
}

/// The machine's screens as they are listed.
pub fn list(machine: &Machine) -> Vec<Value> {
    let listed = display(machine, &["--list", "--json"])
        .run_within(LATER)
        .json();
    listed.as_array().expect("an array").clone()
}

/// The number of the screen with this name, once it is listed.
pub fn number(machine: &Machine, name: &str) -> u64 {
    let mut number = None;
    wait_for(&format!("a screen {name} in the list"), LATER, || {
        let listed = list(machine);
        let found = listed.iter().find(|screen| screen["name"] == name);
        number = found.and_then(|screen| screen["number"].as_u64());
        number.is_some()
    });
    number.expect("it was found")
}

/// A monitor that is plugged in and stays: what is shown goes nowhere.
pub fn add(machine: &Machine, desktop: &Desktop<'_>, mode: &str) -> (Running, String) {
    let before = desktop.output_names();
    let running = display(machine, &["--add", mode, "--nowhere", "3600"]).start();
    let name = added(desktop, &before);
    report(&format_args!(
        "{}: {mode} is plugged in as {name}",
        machine.name
    ));
    (running, name)
}

/// The output that was not there before.
pub fn added(desktop: &Desktop<'_>, before: &[String]) -> String {
    let mut new = None;
    wait_for("a new output", LATER, || {
        let names = desktop.output_names();
        new = names.into_iter().find(|name| !before.contains(name));
        new.is_some()
    });
    new.expect("it was found")
}

/// Ends a display as a user does, and waits until the outputs are `before` again.
pub fn end(display: Running, desktop: &Desktop<'_>, before: &[String]) {
    display.signal(Signal::TERM);
    let outcome = display.wait(SOON);
    assert_eq!(outcome.code, Some(0), "{}", outcome.errors);
    wait_for("the output to be unplugged", SOON, || {
        desktop.output_names() == before
    });
}

/// The process that shows what `display` shows.
pub fn monitor_of(display: &Running) -> u32 {
    let is_monitor = |pid: &u32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .is_ok_and(|name| name.trim_end() == "vmshm-monitor")
    };
    let mut found = None;
    wait_for("a monitor", SOON, || {
        found = processes::descendants(display.pid())
            .into_iter()
            .find(is_monitor);
        found.is_some()
    });
    found.expect("it was found")
}

/// The picture of screen `number`.
pub fn picture(machine: &Machine, number: u64) -> Picture {
    let space = tempfile::tempdir().expect("there is room");
    let file = space.path().join("shot.png");
    let path = file.to_str().expect("it is text").to_owned();
    display(
        machine,
        &["--screen", &number.to_string(), "--screenshot", &path],
    )
    .run_within(LATER)
    .success();
    Picture::read(&file)
}

/// Checks that a picture taken from outside is what the guest's own tool sees. What still draws itself may take some tries.
pub fn check_same_as_inside(machine: &Machine, desktop: &Desktop<'_>, output: &str) {
    let number = number(machine, output);
    let mut tries = 0;
    wait_for(
        &format!("{output} to look the same inside and outside"),
        LATER,
        || {
            tries += 1;
            desktop.looks_like(output, &picture(machine, number))
        },
    );
    report(&format_args!(
        "{}: screen {number} ({output}) is pixel by pixel what grim sees, at try {tries}",
        machine.name
    ));
}
