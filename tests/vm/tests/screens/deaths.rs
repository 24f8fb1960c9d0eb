//! Compositor, agent, VM and monitor die in turn: the others go on, say what happened, and the picture comes back by itself.

use rustix::process::Signal;
use vmshm_vm_tests::agent;
use vmshm_vm_tests::desktop::Desktop;
use vmshm_vm_tests::environment::{self, report};
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::{LATER, SOON, wait_for};
use vmshm_vm_tests::processes;
use vmshm_vm_tests::program::Running;

use crate::shown::{add, display, end, monitor_of};

const BUSY: &str = "sh -c 'while :; do date +%N; sleep 0.2; done'";

/// A display of the desktop's only screen, on which something moves.
fn watch(machine: &Machine, desktop: &Desktop<'_>) -> Running {
    let output = desktop.output_names()[0].clone();
    desktop.terminal(&output, "busy", BUSY);
    let shown = display(machine, &["--screen", "0", "--nowhere", "3600", "--stats"]).start();
    wait_for_frames(&shown, 0);
    shown
}

/// Waits until a line of statistics behind the first `from` bytes tells of frames.
fn wait_for_frames(shown: &Running, from: usize) {
    wait_for("frames", LATER, || {
        let said = shown.errors.so_far();
        let new = said.get(from..).unwrap_or_default();
        new.lines().any(|line| {
            let rate = line
                .split_once(" frames/s")
                .map(|(rate, _)| rate.parse::<f64>());
            rate.is_some_and(|rate| rate.is_ok_and(|rate| rate > 0.0))
        })
    });
}

fn wait_for_words(shown: &Running, from: usize, words: &[&str]) {
    wait_for(&format!("one of {words:?}"), LATER, || {
        let said = shown.errors.so_far();
        let new = said.get(from..).unwrap_or_default();
        words.iter().any(|word| new.contains(word))
    });
}

#[test]
fn of_the_compositor() {
    let Some(machine) = fleet::borrow(Kind::UmlDesktop) else {
        return;
    };
    let mut desktop = Desktop::start(&machine, "/run/user/1000");
    let mut shown = watch(&machine, &desktop);
    let before = shown.errors.so_far().len();
    machine.guest.check(&format!("kill -9 {}", desktop.pid()));
    wait_for_words(&shown, before, &["gone"]);
    assert!(shown.is_running());
    let before = shown.errors.so_far().len();
    desktop.start_again();
    let output = desktop.output_names()[0].clone();
    desktop.terminal(&output, "busy", BUSY);
    wait_for_frames(&shown, before);
    report(&format_args!(
        "{}: the picture is back after the compositor's death",
        machine.name
    ));
}

#[test]
fn of_the_agent() {
    let Some(machine) = fleet::borrow(Kind::UmlDesktop) else {
        return;
    };
    let desktop = Desktop::start(&machine, "/run/user/1000");
    let mut shown = watch(&machine, &desktop);
    let before = shown.errors.so_far().len();
    agent::kill(&machine.guest);
    wait_for_words(&shown, before, &["agent"]);
    assert!(shown.is_running());
    let before = shown.errors.so_far().len();
    agent::start(&machine.guest);
    wait_for_frames(&shown, before);
    report(&format_args!(
        "{}: the picture is back after the agent's death",
        machine.name
    ));
}

#[test]
fn of_the_monitor() {
    let Some(machine) = fleet::borrow(Kind::UmlDesktop) else {
        return;
    };
    let desktop = Desktop::start(&machine, "/run/user/1000");
    let before = desktop.output_names();
    let (shown, _) = add(&machine, &desktop, "800x600");
    processes::signal(monitor_of(&shown), Signal::KILL);
    let outcome = shown.wait(SOON);
    outcome.ended_with(&["the process that shows the screen has ended", "signal"]);
    wait_for("the output to be unplugged", SOON, || {
        desktop.output_names() == before
    });
    // And the command itself, which can unplug nothing any more.
    let (shown, _) = add(&machine, &desktop, "800x600");
    processes::signal(shown.pid(), Signal::KILL);
    drop(shown);
    wait_for("the output to be unplugged", LATER, || {
        desktop.output_names() == before
    });
    let (shown, _) = add(&machine, &desktop, "800x600");
    end(shown, &desktop, &before);
}

#[test]
fn of_the_machine() {
    if !environment::is_set_up() {
        return;
    }
    let first = Machine::boot_as(Kind::Uml, "dies", &[]);
    let mut shown = display(
        &first,
        &["--screen", "test-card", "--nowhere", "3600", "--stats"],
    )
    .start();
    wait_for_frames(&shown, 0);
    let paused = first.pause();
    let before = shown.errors.so_far().len();
    wait_for_words(&shown, before, &["paused"]);
    drop(paused);
    wait_for_frames(&shown, shown.errors.so_far().len());
    let before = shown.errors.so_far().len();
    first.kill();
    drop(first);
    wait_for_words(&shown, before, &["gone", "ended"]);
    assert!(shown.is_running());
    let before = shown.errors.so_far().len();
    let again = Machine::boot_as(Kind::Uml, "dies", &[]);
    wait_for_frames(&shown, before);
    report(&format_args!(
        "{}: the picture is back after the machine's death",
        again.name
    ));
    shown.signal(Signal::TERM);
    assert_eq!(shown.wait(SOON).code, Some(0));
}
