//! What goes wrong with links, and that it is said: a second writer, a region removed, damaged or remade under its
//! users, the agent killed and started again, names and sizes that cannot be.

use std::time::{Duration, Instant};

use vmshm_host::{End, LinkFailure, OpenError, Vm};
use vmshm_link::control::RefusalCode;
use vmshm_vm_tests::agent;
use vmshm_vm_tests::environment::{guest_program, report};
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::{LATER, SOON};
use vmshm_vm_tests::status::Status;

const WAIT: Duration = Duration::from_secs(30);

fn connect(machine: &Machine) -> Vm {
    Vm::connect(&machine.name).unwrap_or_else(|error| panic!("{error}: {:?}", error.hint()))
}

/// How the link has ended, once it has.
fn end_of(mut step: impl FnMut() -> Result<(), LinkFailure>) -> End {
    let deadline = Instant::now() + SOON;
    loop {
        match step() {
            Ok(()) | Err(LinkFailure::Timeout(_)) => {}
            Err(LinkFailure::Ended(end)) => return end,
            Err(other) => panic!("{other}"),
        }
        assert!(Instant::now() < deadline, "the link goes on");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_cannot_be_is_refused_at_open() {
    let Some(machine) = fleet::borrow(Kind::Uml) else {
        return;
    };
    let vm = connect(&machine);
    for name in ["", "../x", "a b", "ü", "x\0y", &"x".repeat(65)] {
        let refused = vm.region(name).size(1 << 16).ring::<u64>();
        assert!(matches!(refused, Err(OpenError::BadName(_))), "{name:?}");
    }
    let code = |result: Result<vmshm_host::Ring<u64>, OpenError>| match result {
        Err(OpenError::Refused { code, .. }) => code,
        other => panic!("{other:?}"),
    };
    let region = |name: &str, size: u64| {
        let brief = Duration::from_secs(3);
        vm.region(name).size(size).timeout(brief).ring::<u64>()
    };
    assert_eq!(code(region("huge", 1 << 40)), RefusalCode::OverBudget);
    assert!(matches!(region("tiny", 1), Err(OpenError::BadSize(_))));
    let large = vm.region("large").size(1 << 16).ring::<[u8; 1 << 16]>();
    assert!(matches!(large, Err(OpenError::BadSize(_))), "{large:?}");

    let first = region("taken", 1 << 16).expect("it is made");
    assert_eq!(code(region("taken", 1 << 16)), RefusalCode::Busy);
    let other = connect(&machine);
    let second = other
        .region("taken")
        .size(1 << 16)
        .timeout(Duration::from_secs(3));
    let refused = second.ring::<u64>().expect_err("one writer at a time");
    assert!(
        matches!(
            refused,
            OpenError::Refused {
                code: RefusalCode::Busy,
                ..
            }
        ),
        "{refused}"
    );
    assert!(refused.hint().is_some());
    let wrong = other
        .region("taken")
        .timeout(Duration::from_secs(3))
        .ring::<u32>();
    assert!(
        matches!(
            wrong,
            Err(OpenError::Refused {
                code: RefusalCode::WrongKind,
                ..
            })
        ),
        "{wrong:?}"
    );
    let wrong = other
        .region("taken")
        .timeout(Duration::from_secs(3))
        .latest::<u64>();
    assert!(
        matches!(
            wrong,
            Err(OpenError::Refused {
                code: RefusalCode::WrongKind,
                ..
            })
        ),
        "{wrong:?}"
    );
    first.close();
    other
        .region("taken")
        .size(1 << 16)
        .ring::<u64>()
        .expect("the end is free again");
    vm.remove("taken").expect("it is there");
}

#[test]
fn a_region_removed_while_open_ends_both_ends_with_the_reason() {
    for kind in [Kind::Uml, Kind::QemuPrivate(2)] {
        let Some(machine) = fleet::borrow(kind) else {
            return;
        };
        let vm = connect(&machine);
        let echo = start_echo(&machine, "removed");
        let mut ring = vm
            .region("removed")
            .size(1 << 16)
            .ring::<u64>()
            .expect("opens");
        ask(&mut ring, 1);
        vm.remove("removed").expect("it is there");
        let end = end_of(|| ring.receive_timeout(Duration::from_millis(50)).map(drop));
        assert_eq!(end, End::RegionRemoved);
        let ended = echo.wait(LATER);
        assert!(
            ended.output.contains("removed"),
            "{}{}",
            ended.output,
            ended.errors
        );
        // The name is free, and what is made now is another region.
        let mut again = vm
            .region("removed")
            .size(1 << 16)
            .ring::<u64>()
            .expect("opens");
        assert_eq!(again.try_receive(), Ok(None));
        drop(again);
        vm.remove("removed").expect("it is there");
    }
}

#[test]
fn an_agent_killed_under_a_link_is_named_and_reconnecting_goes_on() {
    let Some(machine) = fleet::borrow(Kind::Uml) else {
        return;
    };
    let vm = connect(&machine);
    let mut ring = vm
        .region("restarted")
        .size(1 << 16)
        .ring::<u64>()
        .expect("opens");
    ring.send(&17).expect("there is room");
    agent::kill(&machine.guest);
    let end = end_of(|| ring.receive_timeout(Duration::from_millis(50)).map(drop));
    assert!(matches!(end, End::AgentDied), "{end}");
    assert!(end.hint().is_some());
    agent::start(&machine.guest);
    let started = Instant::now();
    ring.reconnect(WAIT).expect("the new agent takes over");
    report(&format_args!(
        "reconnected after {:.2} s",
        started.elapsed().as_secs_f64()
    ));
    // What was sent before is still there, and the guest's program gets it first.
    ring.send(&18).expect("there is room");
    let echo = start_echo(&machine, "restarted");
    for expected in [17, 18] {
        assert_eq!(ring.receive_timeout(WAIT), Ok(expected));
    }
    ring.send(&u64::MAX).expect("there is room");
    assert_eq!(echo.wait(LATER).status, 0);
    drop(ring);
    vm.remove("restarted").expect("it is there");
}

#[test]
fn holes_in_a_regions_file_end_its_session_and_nothing_else() {
    let Some(machine) = fleet::borrow(Kind::Uml) else {
        return;
    };
    let vm = connect(&machine);
    let raw = vm.region("punched").size(1 << 20).raw().expect("opens");
    let mut ring = vm
        .region("healthy")
        .size(1 << 16)
        .ring::<u64>()
        .expect("opens");
    let echo = start_echo(&machine, "healthy");
    ask(&mut ring, 1);
    let punched = Instant::now();
    let attack = guest_program("attack-socket");
    let said = machine.guest.check(&format!("{attack} punch punched"));
    assert!(said.contains("ended: "), "{said}");
    let end = end_of(|| raw.load(0).map(drop));
    report(&format_args!(
        "a hole in a region was found after {:.2} s: {end}",
        punched.elapsed().as_secs_f64()
    ));
    assert!(matches!(end, End::RegionDamaged(_)), "{end}");
    ask(&mut ring, 2);
    ring.send(&u64::MAX).expect("there is room");
    assert_eq!(echo.wait(LATER).status, 0);
    drop((raw, ring));
    vm.remove("healthy").expect("it is there");
    let anew = vm
        .region("punched")
        .size(1 << 20)
        .raw()
        .expect("the name is free");
    drop(anew);
    vm.remove("punched").expect("it is there");
}

#[test]
fn a_removed_region_keeps_its_pages_until_the_last_of_its_handles_goes() {
    let Some(machine) = fleet::borrow(Kind::Uml) else {
        return;
    };
    let size = 1 << 20;
    let vm = connect(&machine);
    let other = connect(&machine);
    let open = || vm.region("twice").size(size).raw().expect("opens");
    let (raw, second) = (open(), open());
    raw.store(0, 7).expect("inside");
    assert_eq!(second.load(0), Ok(7));
    let pinned = || Status::of(&machine.guest).pinned_bytes;
    let before = pinned();
    second.close();
    assert_eq!(raw.load(0), Ok(7));
    other.remove("twice").expect("it is there");
    // What is made now must not get the pages that the first handle may still write.
    let anew = other.region("twice").size(size).raw().expect("opens");
    let _ = raw.store(8, 8);
    assert_eq!((anew.load(0), anew.load(8)), (Ok(0), Ok(0)));
    let end = end_of(|| raw.load(0).map(drop));
    assert_eq!(end, End::RegionRemoved);
    assert_eq!(pinned(), before + size, "what is held stays pinned");
    raw.close();
    assert_eq!(pinned(), before, "and goes with the last handle");
    drop(anew);
    other.remove("twice").expect("it is there");
}

#[test]
fn an_end_stays_taken_whatever_watchers_come_and_go() {
    let Some(machine) = fleet::borrow(Kind::Uml) else {
        return;
    };
    let vm = connect(&machine);
    let other = connect(&machine);
    let mut end = vm.region("state").latest::<u64>().expect("opens");
    let busy = |refused: OpenError| match refused {
        OpenError::Refused {
            code: RefusalCode::Busy,
            explanation,
            ..
        } => explanation,
        other => panic!("{other}"),
    };
    let own = vm.region("state").watch_latest::<u64>();
    let text = busy(own.expect_err("it has the end"));
    assert!(text.contains("a second `Vm`"), "{text}");
    for _ in 0..2 {
        let watches = [(), ()].map(|()| {
            let watch = other.region("state").watch_latest::<u64>();
            watch.expect("anybody may watch")
        });
        drop(watches);
        let taken = other.region("state").latest::<u64>();
        let text = busy(taken.expect_err("one writer at a time"));
        assert!(text.contains(&std::process::id().to_string()), "{text}");
    }
    end.publish(&5).expect("it has the end still");
    drop(end);
    let mut next = other.region("state").latest::<u64>().expect("it is free");
    next.publish(&6).expect("it has the end now");
    drop(next);
    vm.remove("state").expect("it is there");
}

/// A guest program that sends each number back, and ends after `u64::MAX`.
fn start_echo<'a>(machine: &'a Machine, name: &str) -> vmshm_vm_tests::guest::Job<'a> {
    machine
        .guest
        .start(&format!("{} guest {name} echo", guest_program("link-peer")))
}

fn ask(ring: &mut vmshm_host::Ring<u64>, number: u64) {
    ring.send(&number).expect("there is room");
    assert_eq!(ring.receive_timeout(WAIT), Ok(number));
}
