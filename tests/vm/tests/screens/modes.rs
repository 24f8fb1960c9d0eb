//! Modes change while somebody looks: every frame that is shown stays right, and nothing is left mapped.

use std::time::Duration;

use rustix::process::Signal;
use vmshm_host::{AttachOptions, Session};
use vmshm_link::control::{Reply, Request};
use vmshm_link::frames::Mode;
use vmshm_link::screens::{ScreenRequest, TEST_CARD};
use vmshm_vm_tests::desktop::Desktop;
use vmshm_vm_tests::environment::report;
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::LATER;
use vmshm_vm_tests::status::Status;

use crate::shown::{add, check_same_as_inside, display, end, monitor_of};

/// Mappings that a process may have more than before without that being a leak: its allocator's own.
const SLACK: usize = 12;
/// Bytes of the largest picture that is asked for.
const LARGEST: u64 = 1920 * 1080 * 4;

#[test]
fn two_hundred_modes_of_the_test_card() {
    let Some(machine) = fleet::borrow(Kind::UmlDesktop) else {
        return;
    };
    let watcher = display(
        &machine,
        &[
            "--screen",
            "test-card",
            "--nowhere",
            "3600",
            "--verify",
            "--stats",
        ],
    )
    .start();
    let mut session = attach(&machine);
    let describe = Request::Screen(ScreenRequest::Describe { number: TEST_CARD });
    session.request(&describe, LATER).expect("it is started");
    // So many that all memory that is ever needed was there.
    change(&mut session, TEST_CARD, 20, Duration::from_millis(100));
    let monitor = monitor_of(&watcher);
    let agent = Status::of(&machine.guest).agent_pid.expect("it runs");
    let mappings = || {
        let in_guest = |processes: &str| -> usize {
            let counted = machine.guest.check(&format!("cat {processes} | wc -l"));
            counted.trim().parse().expect("a number")
        };
        [
            lines(watcher.pid()),
            in_guest(&format!("/proc/{agent}/maps")),
            in_guest("/proc/$(pgrep -f 'exe source' | head -n 1)/maps"),
        ]
    };
    let before = mappings();
    change(&mut session, TEST_CARD, 200, Duration::from_millis(40));
    std::thread::sleep(Duration::from_secs(1));
    let after = mappings();
    for (before, after) in before.iter().zip(after) {
        assert!(after <= before + SLACK, "{before} mappings became {after}");
    }
    // The monitor has one mapping for each run of pages; what counts is how much it maps: two regions at most.
    let mapped = mapped_of_guest(monitor);
    assert!(
        mapped <= 2 * 3 * LARGEST + (64 << 10),
        "{mapped} bytes are mapped"
    );
    drop(session);
    watcher.signal(Signal::TERM);
    let seen = watcher.wait(LATER).json();
    report(&format_args!(
        "{}: 200 modes: {seen}; mappings {before:?}, then {after:?}",
        machine.name
    ));
    assert_eq!(seen["wrong"], 0, "{seen}");
    assert!(seen["frames"].as_u64().expect("a number") > 200, "{seen}");
}

fn lines(pid: u32) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("it runs");
    maps.lines().count()
}

/// Bytes of the guest's RAM that a process maps.
fn mapped_of_guest(pid: u32) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("it runs");
    let of_guest = maps.lines().filter(|line| line.contains(" /dev/shm/"));
    of_guest
        .filter_map(|line| {
            let (start, end) = line.split(' ').next()?.split_once('-')?;
            let number = |text: &str| u64::from_str_radix(text, 16).ok();
            Some(number(end)? - number(start)?)
        })
        .sum()
}

#[test]
fn modes_of_an_added_output() {
    let Some(machine) = fleet::borrow(Kind::UmlDesktop) else {
        return;
    };
    let desktop = Desktop::start(&machine, "/run/user/1000");
    let before = desktop.output_names();
    let (holder, name) = add(&machine, &desktop, "1024x768");
    let sway = desktop.pid();
    let mappings = || -> usize {
        let lines = machine.guest.check(&format!("wc -l </proc/{sway}/maps"));
        lines.trim().parse().expect("a number")
    };
    let mut session = attach(&machine);
    let screen = screen_of(&mut session, &name);
    change(&mut session, screen, 10, Duration::from_millis(200));
    let early = mappings();
    change(&mut session, screen, 40, Duration::from_millis(100));
    let late = mappings();
    assert!(
        late <= early + SLACK,
        "{early} mappings of the compositor became {late}"
    );
    drop(session);
    check_same_as_inside(&machine, &desktop, &name);
    report(&format_args!(
        "{}: 50 modes of {name}: {early} mappings, then {late}",
        machine.name
    ));
    end(holder, &desktop, &before);
}

fn attach(machine: &Machine) -> Session {
    let vmm = vmshm_ram::find_by_pid(machine.pid).expect("it runs");
    vmshm_host::attach(
        &vmm,
        &AttachOptions {
            timeout: LATER,
            ..AttachOptions::default()
        },
    )
    .expect("its agent answers")
}

fn screen_of(session: &mut Session, name: &str) -> u64 {
    for number in 0.. {
        let request = Request::Screen(ScreenRequest::Describe { number });
        match session.request(&request, LATER).expect("it is listed") {
            Reply::Screen(screen) if screen.name.as_str() == name => return screen.screen,
            Reply::Screen(_) => {}
            other => panic!("{other:?}"),
        }
    }
    unreachable!("the list has an end")
}

/// Sets so many modes, chosen at random; what is refused is an error.
fn change(session: &mut Session, screen: u64, count: usize, pause: Duration) {
    for _ in 0..count {
        let mut random = [0_u8; 4];
        getrandom::fill(&mut random).expect("there is randomness");
        let side = |at: usize, least: u32, most: u32| {
            let number = u32::from(u16::from_le_bytes([random[at], random[at + 1]]));
            least + number % (most - least)
        };
        let mode = Mode {
            width: side(0, 64, 1920),
            height: side(2, 64, 1080),
            refresh_millihertz: 60_000,
        };
        let request = Request::Screen(ScreenRequest::SetMode { screen, mode });
        match session.request(&request, LATER) {
            Ok(Reply::Screen(now)) => {
                assert_eq!((now.mode.width, now.mode.height), (mode.width, mode.height));
            }
            other => panic!("{mode:?}: {other:?}"),
        }
        std::thread::sleep(pause);
    }
}
