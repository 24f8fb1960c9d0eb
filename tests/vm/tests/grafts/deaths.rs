//! Whoever grafts may be killed at any moment, and after every single step: the guest runs on and is right, and the
//! next graft completes or undoes what was half done.

use std::process::Command;
use std::time::{Duration, Instant};

use vmshm_vm_tests::bytes::RandomBytes;
use vmshm_vm_tests::environment::{own_program, report};
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::grafted::{Bytes, Work, graft_files, grafted_bytes};
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::SOON;
use vmshm_vm_tests::program::{Outcome, Program, vmshm};

const SIZE: u64 = 1 << 20;

/// Who dies after a step says so by the signal.
const KILLED: Option<i32> = Some(9);

#[test]
fn killed_at_some_moments_and_after_some_steps() {
    at_random_moments(12);
    after_steps(&[1, 2, 3, 5, 8, 13, 21, 34, 55]);
}

#[test]
#[ignore = "long: 200 deaths"]
fn killed_at_two_hundred_random_moments() {
    at_random_moments(200);
}

#[test]
#[ignore = "long: as many deaths as there are steps"]
fn killed_after_every_step() {
    let steps: Vec<u64> = (1..1000).collect();
    after_steps(&steps);
}

fn at_random_moments(times: u64) {
    let Some(machine) = fleet::borrow(Kind::QemuPrivate(2)) else {
        return;
    };
    let bytes = Bytes::create(&machine, "moments", SIZE);
    let mut work = Work::start(&machine, 2);
    let began = Instant::now();
    bytes.graft().success();
    bytes.undo().success();
    let length = began.elapsed() / 2;
    for round in 0..times {
        let mut arguments = vec!["region", "graft"];
        let path = bytes.path();
        arguments.push(&path);
        let graft = round % 2 == 0;
        if !graft {
            arguments.push("--undo");
        }
        let part = RandomBytes::fresh_seed() % 1000;
        let dying = vmshm(&arguments).start();
        std::thread::sleep(length.mul_f64(f64::from(u32::try_from(part).unwrap()) / 900.0));
        drop(dying);
        work.goes_on();
        bytes.check();
        complete(&machine, &bytes, graft);
        bytes.check();
    }
    complete(&machine, &bytes, false);
    work.goes_on();
    report(&format_args!(
        "{}: survived {times} deaths at random moments",
        machine.name
    ));
}

fn after_steps(steps: &[u64]) {
    let Some(machine) = fleet::borrow(Kind::QemuPrivate(2)) else {
        return;
    };
    let bytes = Bytes::create(&machine, "steps", SIZE);
    let mut work = Work::start(&machine, 2);
    let mut deaths = 0;
    for graft in [true, false] {
        let what = if graft { "graft" } else { "undo" };
        for step in steps {
            complete(&machine, &bytes, !graft);
            let outcome = die(&machine, what, *step);
            work.goes_on();
            bytes.check();
            complete(&machine, &bytes, graft);
            if outcome.signal != KILLED {
                outcome.success();
                break;
            }
            deaths += 1;
        }
    }
    complete(&machine, &bytes, false);
    report(&format_args!(
        "{}: survived {deaths} deaths after a step",
        machine.name
    ));
}

fn die(machine: &Machine, what: &str, step: u64) -> Outcome {
    let mut command = Command::new(own_program("die-grafting"));
    command.args([&machine.name, "steps", what, &step.to_string()]);
    Program::new(command).run()
}

/// Grafts or undoes for good, whatever there is.
#[track_caller]
fn complete(machine: &Machine, bytes: &Bytes<'_>, graft: bool) {
    let deadline = Instant::now() + SOON;
    loop {
        let outcome = if graft { bytes.graft() } else { bytes.undo() };
        let is_there = outcome.code == Some(0) || outcome.errors.contains("not grafted");
        if is_there {
            break;
        }
        // A busy machine may need another try, and says so.
        assert!(
            outcome.errors.contains("try again") && Instant::now() < deadline,
            "{}",
            outcome.errors
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    let right = if graft { (SIZE, 1) } else { (0, 0) };
    assert_eq!(
        (grafted_bytes(machine.pid), graft_files(machine.pid)),
        right
    );
}
