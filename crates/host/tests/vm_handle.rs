//! `Vm`, an application's handle, against a process that plays a guest with its agent:
//! opening and closing, ends that are told, and going on afterwards.
#![cfg(target_os = "linux")]
#![allow(
    clippy::expect_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod played;

use std::time::{Duration, Instant};

use played::{Player, ROLE, agent};
use vmshm_endpoint::{Connection, Held, OpenError, RegionKind, Right, Tether, Wish};
use vmshm_host::{End, Role, Vm, VmOptions};
use vmshm_link::LinkError;
use vmshm_link::control::RefusalCode;
use vmshm_ram::Method;
use vmshm_shm::SharedMemory;

/// As long as a slow machine may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Not a test of its own: what the other processes do.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("guest") => agent::play(),
        Ok(role) => {
            if let Some(name) = role.strip_prefix("prover ") {
                let vm = connect(name).expect("connects");
                println!("ready");
                drop(vm.open(&wish("x", Role::End)));
                return;
            }
            let name = role.strip_prefix("host ").expect("a known role");
            let vm = connect(name).expect("connects");
            let held = vm.open(&wish("x", Role::End)).expect("opens");
            println!("ready");
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            drop(held);
        }
        Err(_) => {}
    }
}

fn connect(name: &str) -> Result<Vm, OpenError> {
    let options = VmOptions {
        timeout: PATIENCE,
        ..VmOptions::default()
    };
    Vm::connect_with(name, options)
}

fn wish(name: &str, role: Role) -> Wish {
    Wish {
        name: name.to_owned(),
        kind: RegionKind::Ring,
        size: 1 << 16,
        record: 8,
        role,
        timeout: PATIENCE,
    }
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "it never came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn wait_for_end(tether: &Tether) -> End {
    let mut found = None;
    wait_until(|| {
        tether.sleep(Duration::from_millis(20));
        found = tether.check().err();
        found.is_some()
    });
    found.expect("just found")
}

fn code(result: Result<Held<Vm>, OpenError>) -> RefusalCode {
    match result {
        Err(OpenError::Refused { code, .. }) => code,
        other => panic!("not a refusal: {other:?}"),
    }
}

/// Why a wish is refused, which a guest may take longer to say than the wish waits.
fn refusal(vm: &Vm, wish: &Wish) -> RefusalCode {
    let mut result = vm.open(wish);
    let start = Instant::now();
    while matches!(result, Err(OpenError::Timeout { .. })) {
        assert!(start.elapsed() < PATIENCE, "no answer");
        result = vm.open(wish);
    }
    code(result)
}

/// How often hosts have beaten in their slots.
fn pulses(guest: &mut Player) -> Option<u64> {
    let state = guest.tell("state");
    let words = state.split_whitespace();
    let mut numbers = words.filter_map(|word| word.strip_prefix("pulses="));
    numbers.next().and_then(|number| number.parse().ok())
}

/// Waits until the only session has looked after all that it holds, with each look a beat.
fn wait_for_a_look(guest: &mut Player) {
    let before = pulses(guest).expect("told");
    wait_until(|| pulses(guest).is_some_and(|now| now >= before + 3));
}

#[test]
fn a_region_is_one_memory_whatever_its_extents_by_either_method() {
    for method in [Method::Map, Method::Copy] {
        let mut guest = Player::start("guest");
        let options = VmOptions {
            method,
            timeout: PATIENCE,
            ..VmOptions::default()
        };
        let vm = Vm::connect_with(&guest.name(), options).expect("connects");
        assert_eq!(vm.is_mapped(), method == Method::Map);
        let held = vm.open(&wish("x", Role::End)).expect("opens");
        assert_eq!(held.memory.size(), 1 << 16);
        let bytes: Vec<u8> = (0..1 << 16).map(|index| (index % 251) as u8).collect();
        held.memory.write(0, &bytes).expect("written");
        let mut back = vec![0; bytes.len()];
        held.memory.read(0, &mut back).expect("read");
        assert_eq!(back, bytes);
        assert_eq!(held.right.verify(), Ok(()));
        let listed = vm.regions().expect("listed");
        assert_eq!((listed.len(), listed[0].name.as_str()), (1, "x"));
        // It stays, and is proved by now.
        vm.close(held.region);
        assert_eq!(held.tether.check(), Err(End::Closed));
        let again = vm.open(&wish("x", Role::End)).expect("opens again");
        again.memory.read(0, &mut back).expect("read");
        assert_eq!(back, bytes);
        drop(vm);
        assert_eq!(again.tether.check(), Err(End::Closed));
        wait_until(|| guest.tell("state").starts_with("slots=0"));
        wait_until(|| again.right.verify().is_err());
    }
}

#[test]
fn an_end_is_one_process_s_and_any_number_watch() {
    let mut guest = Player::start("guest");
    let vm = connect(&guest.name()).expect("connects");
    let other = connect(&guest.name()).expect("connects");
    let end = vm.open(&wish("x", Role::End)).expect("opens");
    let watches = [(), ()].map(|()| other.open(&wish("x", Role::Watch)).expect("opens"));
    let third = connect(&guest.name()).expect("connects");
    for (vm, role) in [(&vm, Role::End), (&vm, Role::Watch), (&third, Role::End)] {
        assert_eq!(code(vm.open(&wish("x", role))), RefusalCode::Busy);
    }
    end.memory.store_relaxed(4096, 77).expect("inside");
    for watch in &watches {
        assert_eq!(watch.memory.load_relaxed(4096), Ok(77));
        assert!(
            watch.memory.store_relaxed(4096, 1).is_err(),
            "it only reads"
        );
    }
    vm.close(end.region);
    vm.close(end.region);
    assert!(guest.tell("state").ends_with("x=2"));
    third.open(&wish("x", Role::End)).expect("it is free");
    other.close(watches[0].region);
    assert_eq!(watches[0].tether.check(), Err(End::Closed));
    assert_eq!(watches[1].tether.check(), Ok(()));
    assert!(guest.tell("state").ends_with("x=2"), "the end and a watch");
}

#[test]
fn raw_memory_may_be_open_more_than_once() {
    let mut guest = Player::start("guest");
    let vm = connect(&guest.name()).expect("connects");
    let raw = Wish {
        kind: RegionKind::Raw,
        record: 0,
        ..wish("table", Role::End)
    };
    let first = vm.open(&raw).expect("opens");
    let second = vm.open(&raw).expect("opens again");
    first.memory.store_relaxed(0, 5).expect("inside");
    vm.close(first.region);
    assert_eq!(second.memory.load_relaxed(0), Ok(5));
    assert_eq!(second.tether.check(), Ok(()));
    assert!(guest.tell("state").ends_with("table=1"));
}

#[test]
fn a_region_that_is_over_is_told_and_the_session_goes_on() {
    let mut guest = Player::start("guest");
    let vm = connect(&guest.name()).expect("connects");
    let [removed, damaged, dropped, left] = ["removed", "damaged", "dropped", "left"].map(|name| {
        let held = vm.open(&wish(name, Role::End)).expect("opens");
        assert_eq!(held.tether.check(), Ok(()));
        held
    });
    // Each has been seen in the table once.
    wait_for_a_look(&mut guest);
    vm.remove("removed").expect("removed");
    guest.tell("damage damaged");
    guest.tell("drop dropped");
    assert_eq!(wait_for_end(&removed.tether), End::RegionRemoved);
    assert!(matches!(
        wait_for_end(&damaged.tether),
        End::RegionDamaged(_)
    ));
    assert_eq!(wait_for_end(&dropped.tether), End::RegionRemoved);
    assert_eq!((left.tether.check(), vm.end()), (Ok(()), None));
    let listed = vm.regions().expect("listed");
    let names: Vec<_> = listed.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["left"], "what is over is not to be opened");
    vm.reconnect(PATIENCE).expect("nothing to do");
    for held in [&removed, &damaged, &dropped] {
        vm.close(held.region);
    }
    wait_until(|| guest.tell("state").ends_with("left=1"));
    let again = vm.open(&wish("removed", Role::End)).expect("a new one");
    assert_eq!(again.tether.check(), Ok(()));
}

#[test]
fn the_end_of_a_session_is_told_with_its_reason() {
    for (order, expected) in [
        ("die", End::AgentDied),
        ("restart", End::AgentRestarted),
        ("leave", End::AgentLeft),
        ("make-way", End::MadeWay),
        ("reboot", End::GuestRestarted),
    ] {
        let mut guest = Player::start("guest");
        let vm = connect(&guest.name()).expect("connects");
        let held = vm.open(&wish("x", Role::End)).expect("opens");
        guest.tell(order);
        assert_eq!(wait_for_end(&held.tether), expected, "{order}");
        assert_eq!(vm.end(), Some(expected.clone()));
        match vm.open(&wish("x", Role::End)) {
            Err(OpenError::Ended(end)) => assert_eq!(end, expected),
            other => panic!("{other:?}"),
        }
    }
    let mut guest = Player::start("guest");
    let vm = connect(&guest.name()).expect("connects");
    let held = vm.open(&wish("x", Role::End)).expect("opens");
    guest.tell("ahead");
    // That it was so far has been seen.
    wait_for_a_look(&mut guest);
    guest.tell("back");
    let end = wait_for_end(&held.tether);
    assert!(
        matches!(end, End::Link(LinkError::RolledBack { .. })),
        "{end}"
    );
}

#[test]
fn a_vm_that_is_gone_is_told_by_either_method() {
    for method in [Method::Map, Method::Copy] {
        let mut guest = Player::start("guest");
        let options = VmOptions {
            method,
            timeout: PATIENCE,
            ..VmOptions::default()
        };
        let vm = Vm::connect_with(&guest.name(), options).expect("connects");
        let held = vm.open(&wish("x", Role::End)).expect("opens");
        guest.kill();
        assert!(matches!(wait_for_end(&held.tether), End::VmGone { .. }));
        // A process number does not come back: this is not waited for.
        let start = Instant::now();
        let error = vm.reconnect(PATIENCE).expect_err("it is gone");
        assert!(matches!(error, OpenError::Unreachable { .. }), "{error:?}");
        assert!(start.elapsed() < PATIENCE / 2);
    }
}

#[test]
fn after_a_restart_each_link_goes_on_in_one_new_session() {
    for order in ["restart", "reboot"] {
        let mut guest = Player::start("guest");
        let vm = connect(&guest.name()).expect("connects");
        let second = vm.clone();
        let old = vm.open(&wish("x", Role::End)).expect("opens");
        let other = second.open(&wish("y", Role::End)).expect("opens");
        guest.tell(order);
        // Whoever meets the end first need not wait until the thread has.
        vm.reconnect(PATIENCE).expect("reconnects");
        assert!(old.tether.check().is_err() && other.tether.check().is_err());
        let new = vm.open(&wish("x", Role::End)).expect("opens again");
        second.reconnect(PATIENCE).expect("nothing to do");
        wait_until(|| guest.tell("state").starts_with("slots=1"));
        let other_new = second.open(&wish("y", Role::End)).expect("opens again");
        // Same regions, older handles: closing those changes nothing for the new ones.
        vm.close(old.region);
        vm.close(other.region);
        assert!(guest.tell("state").contains("x=1 y=1"));
        assert_eq!(
            (new.tether.check(), other_new.tether.check()),
            (Ok(()), Ok(()))
        );
        assert_eq!(new.right.verify(), Ok(()));
        assert!(old.tether.check().is_err());
    }
}

#[test]
fn who_makes_way_has_nothing_mapped_of_the_old_session_and_goes_on_in_the_same_memory() {
    let mut guest = Player::start("guest");
    let vm = Vm::connect(&guest.name()).expect("connects");
    let old = ["x", "y"].map(|name| vm.open(&wish(name, Role::End)).expect("opens"));
    for held in &old {
        held.memory.store_relaxed(4096, 77).expect("inside");
    }
    guest.tell("make-way");
    assert_eq!(wait_for_end(&old[0].tether), End::MadeWay);
    assert_eq!(wait_for_end(&old[1].tether), End::MadeWay);
    assert_eq!(old[0].right.verify(), Ok(()), "its slot is its own yet");
    // One that is let go of is gone at once; the others with the session.
    vm.close(old[0].region);
    assert_eq!(old[0].memory.load_relaxed(4096), Ok(0));
    assert_eq!(old[1].memory.load_relaxed(4096), Ok(77));
    vm.reconnect(PATIENCE).expect("reconnects");
    assert_eq!(old[1].memory.load_relaxed(4096), Ok(0));
    old[1].memory.store_relaxed(4096, 78).expect("nobody's");
    for name in ["x", "y"] {
        let new = vm.open(&wish(name, Role::End)).expect("opens again");
        assert_eq!(new.memory.load_relaxed(4096), Ok(77));
        assert_eq!(new.tether.check(), Ok(()));
    }
    wait_until(|| guest.tell("state").starts_with("slots=1"));
}

#[test]
fn a_reconnect_waits_for_an_agent_that_is_started_again() {
    let mut guest = Player::start("guest");
    let vm = connect(&guest.name()).expect("connects");
    guest.tell("die");
    let error = vm.reconnect(Duration::ZERO).expect_err("it is dead");
    assert!(error.hint().is_some(), "{error:?}");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| vm.reconnect(PATIENCE));
        std::thread::sleep(Duration::from_millis(300));
        guest.tell("restart");
        waiting.join().expect("ends").expect("reconnects");
    });
    assert_eq!(vm.end(), None);
    vm.open(&wish("x", Role::End)).expect("opens");
}

#[test]
fn what_must_exist_is_waited_for_as_long_as_the_wish_says() {
    let mut guest = Player::start("guest");
    let vm = connect(&guest.name()).expect("connects");
    let wish = Wish {
        size: 0,
        timeout: Duration::from_millis(100),
        ..wish("x", Role::End)
    };
    assert_eq!(refusal(&vm, &wish), RefusalCode::NotFound);
    std::thread::scope(|scope| {
        let patient = Wish {
            timeout: PATIENCE,
            ..wish.clone()
        };
        let vm = &vm;
        let waiting = scope.spawn(move || vm.open(&patient));
        std::thread::sleep(Duration::from_millis(200));
        guest.tell("make x");
        waiting.join().expect("ends").expect("opens");
    });
    let other = Wish {
        kind: RegionKind::Latest,
        ..wish
    };
    assert_eq!(refusal(&vm, &other), RefusalCode::WrongKind);
    assert!(matches!(
        vm.open(&Wish {
            name: "-odd\n".to_owned(),
            ..other
        }),
        Err(OpenError::BadName(_))
    ));
}

#[test]
fn an_agent_that_does_not_answer_delays_neither_the_heartbeat_nor_a_later_close() {
    let mut guest = Player::start("guest");
    let vm = connect(&guest.name()).expect("connects");
    let held = vm.open(&wish("x", Role::End)).expect("opens");
    guest.tell("silent on");
    let before = pulses(&mut guest).expect("told");
    std::thread::scope(|scope| {
        let late = Wish {
            timeout: Duration::from_millis(1500),
            ..wish("late", Role::End)
        };
        let vm = &vm;
        let waiting = scope.spawn(move || vm.open(&late));
        wait_until(|| pulses(&mut guest).is_some_and(|now| now >= before + 5));
        vm.close(held.region);
        let error = waiting.join().expect("ends").expect_err("no answer");
        assert!(matches!(error, OpenError::Timeout { .. }), "{error:?}");
    });
    guest.tell("silent off");
    // What is granted now, nobody waits for; what was closed then is closed.
    wait_until(|| guest.tell("state").ends_with("x=0 late=0"));
    assert_eq!(vm.end(), None);
}

#[test]
fn whoever_proves_a_region_is_waited_for_and_its_death_noticed() {
    let mut guest = Player::start("guest");
    let vm = connect(&guest.name()).expect("connects");
    guest.tell("deaf x");
    let mut prover = Player::start(&format!("prover {}", guest.name()));
    wait_until(|| guest.tell("state").ends_with("x=1"));
    let brief = Wish {
        timeout: Duration::from_millis(300),
        ..wish("x", Role::Watch)
    };
    assert_eq!(refusal(&vm, &brief), RefusalCode::Proving);
    guest.tell("deaf -");
    std::thread::scope(|scope| {
        let vm = &vm;
        let waiting = scope.spawn(move || vm.open(&wish("x", Role::Watch)));
        // The session is not held up meanwhile, and this is longer than it waits for an end
        // that is taken.
        vm.open(&wish("y", Role::End)).expect("opens");
        std::thread::sleep(Duration::from_millis(2500));
        assert!(!waiting.is_finished(), "it waits as long as its wish says");
        prover.kill();
        waiting.join().expect("ends").expect("its slot is freed");
    });
    assert!(guest.tell("state").contains("x=1"));
}

#[test]
fn the_end_of_a_host_process_that_was_killed_is_had_at_once() {
    let guest = Player::start("guest");
    let vm = connect(&guest.name()).expect("connects");
    let mut before = Player::start(&format!("host {}", guest.name()));
    assert_eq!(code(vm.open(&wish("x", Role::End))), RefusalCode::Busy);
    before.kill();
    vm.open(&wish("x", Role::End)).expect("its slot is freed");
}

#[test]
fn a_timeout_that_never_comes_is_no_overflow() {
    let mut guest = Player::start("guest");
    let options = VmOptions {
        timeout: Duration::MAX,
        ..VmOptions::default()
    };
    let vm = Vm::connect_with(&guest.name(), options).expect("connects");
    let endless = Wish {
        timeout: Duration::MAX,
        ..wish("x", Role::End)
    };
    let held = vm.open(&endless).expect("opens");
    assert_eq!(held.tether.check(), Ok(()));
    let again = vm.open(&endless);
    assert_eq!(code(again), RefusalCode::Busy, "this is not waited for");
    vm.reconnect(Duration::MAX).expect("nothing to do");
    vm.remove("x").expect("removed");
    // What is over is made anew, and what is waited for without end comes.
    guest.tell("restart");
    vm.reconnect(Duration::MAX).expect("reconnects");
    std::thread::scope(|scope| {
        let patient = Wish {
            size: 0,
            ..endless.clone()
        };
        let vm = &vm;
        let waiting = scope.spawn(move || vm.open(&patient).map(drop));
        std::thread::sleep(Duration::from_millis(200));
        guest.tell("make x");
        waiting.join().expect("ends").expect("opens");
    });
}
