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
    at_random_moments(6);
    after_steps(&[1, 2, 5, 13, 34]);
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

#[test]
fn an_undo_whose_program_died_is_ended_by_who_opens_the_region() {
    let Some(machine) = fleet::borrow(Kind::QemuPrivate(2)) else {
        return;
    };
    let bytes = Bytes::create(&machine, "steps", SIZE);
    withdraw(&machine, &bytes);
    bytes.check();
    let left = (grafted_bytes(machine.pid), graft_files(machine.pid));
    assert_eq!(left, (0, 0));
    // Whoever had the file keeps nothing of the guest when the region is grafted again.
    let file = withdraw(&machine, &bytes);
    complete(&machine, &bytes, true);
    assert!(files(&machine, &["-inum", &file]).is_empty());
    bytes.check();
    complete(&machine, &bytes, false);
}

/// Grafts, and undoes it as one who dies between the file's mark as nobody's and the change. The
/// file's number.
fn withdraw(machine: &Machine, bytes: &Bytes<'_>) -> String {
    // How many steps it takes until then depends on the number of threads.
    let found = (1..8).map(|double| 1_u64 << double).find_map(|step| {
        complete(machine, bytes, true);
        assert_eq!(die(machine, "undo", step).signal, KILLED);
        let marked = files(machine, &["-perm", "0000"]);
        (grafted_bytes(machine.pid) > 0 && !marked.is_empty()).then_some(marked)
    });
    found.expect("somebody died between the mark and the change")
}

/// The numbers of those files of a process that `find` finds so.
fn files(machine: &Machine, which: &[&str]) -> String {
    let listed = Command::new("find")
        .args(["-L", &format!("/proc/{}/fd", machine.pid)])
        .args(["-maxdepth", "1", "-type", "f"])
        .args(which)
        .args(["-printf", "%i"])
        .output()
        .expect("find is there");
    String::from_utf8(listed.stdout).expect("numbers")
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
