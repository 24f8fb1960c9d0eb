//! A program that has the region in use, mapped or by copying, makes way for the graft and for its undoing, makes a new
//! session and goes on with what it had, and one that does not is named.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vmshm_host::{End, LinkFailure, Ring, Vm};
use vmshm_vm_tests::environment::{guest_program, report};
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::grafted::{Bytes, graft_files};
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::{LATER, SOON, wait_for, wait_until};
use vmshm_vm_tests::program::vmshm;
use vmshm_vm_tests::stopping::StopOnDrop;

const NAME: &str = "partners";
/// Numbers under way at the same time.
const AHEAD: u64 = 100;

/// Numbers that a program in the guest sends back.
struct Talk {
    ring: Ring<u64>,
    sent: u64,
    back: u64,
    ends: Vec<End>,
}

impl Talk {
    fn start(machine: &Machine, mapped: bool) -> Self {
        let vm = Vm::connect(&machine.name).expect("a session");
        assert_eq!(vm.is_mapped(), mapped);
        let ring = vm.region(NAME).size(1 << 16).ring().expect("the ring");
        Self {
            ring,
            sent: 0,
            back: 0,
            ends: Vec::new(),
        }
    }

    /// Sends and receives; each number comes back once and in order, whatever ends meanwhile.
    fn step(&mut self) -> Result<(), LinkFailure> {
        while self.sent - self.back < AHEAD && self.ring.try_send(&self.sent)? {
            self.sent += 1;
        }
        let number = self.ring.receive_timeout(SOON)?;
        assert_eq!(number, self.back, "lost, doubled or out of order");
        self.back += 1;
        Ok(())
    }

    fn run(&mut self, stop: &AtomicBool, seen: &AtomicU64) {
        while !stop.load(Ordering::Relaxed) {
            match self.step() {
                Ok(()) => seen.store(self.back, Ordering::Relaxed),
                Err(LinkFailure::Ended(end)) => {
                    self.ends.push(end);
                    self.ring.reconnect(LATER).expect("a new session");
                }
                Err(other) => panic!("{other}: {} of {} are back", self.back, self.sent),
            }
        }
    }

    fn finish(mut self) {
        while self.back < self.sent {
            let number = self.ring.receive_timeout(SOON).expect("it comes back");
            assert_eq!(number, self.back);
            self.back += 1;
        }
        self.ring.send(&u64::MAX).expect("the ring lives");
    }
}

#[test]
fn a_program_that_maps_makes_way_and_goes_on() {
    makes_way(Kind::QemuMemfd(2), true, 3);
}

#[test]
fn a_program_that_copies_makes_way_and_goes_on() {
    makes_way(Kind::QemuPrivate(2), false, 10);
}

fn makes_way(kind: Kind, mapped: bool, times: usize) {
    let Some(machine) = fleet::borrow(kind) else {
        return;
    };
    let program = guest_program("link-peer");
    let inside = machine.guest.start(&format!("{program} guest {NAME} echo"));
    let mut talk = Talk::start(&machine, mapped);
    let (stop, seen) = (AtomicBool::new(false), AtomicU64::new(0));
    let path = machine.path(NAME);
    // On a busy machine the program may be too slow to make way, and is named then.
    let graft = |more: Option<&str>| {
        wait_until("graft", LATER, || {
            let mut command = vmshm(["region", "graft", &path, "--json"]);
            if let Some(more) = more {
                command = command.argument(more);
            }
            let outcome = command.run();
            let is_in_use = outcome.errors.contains("do not let go of it");
            (!is_in_use).then(|| outcome.json())
        })
    };
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        scope.spawn(|| talk.run(&stop, &seen));
        let goes_on = || {
            let before = seen.load(Ordering::Relaxed);
            wait_for("numbers to come back", SOON, || {
                seen.load(Ordering::Relaxed) > before + 10 * AHEAD
            });
        };
        for _ in 0..times {
            goes_on();
            let answer = graft(None);
            assert_eq!(
                (&answer["grafted"], &answer["new"]),
                (&true.into(), &true.into())
            );
            goes_on();
            // Who maps the file of the graft is in nobody's way.
            assert_eq!(graft(None)["new"], false);
            goes_on();
            assert_eq!(graft_files(machine.pid), 1);
            graft(Some("--undo"));
            assert_eq!(graft_files(machine.pid), 0);
        }
        goes_on();
    });
    assert!(talk.ends.iter().all(|end| *end == End::MadeWay));
    assert!(talk.ends.len() >= 2 * times, "{:?}", talk.ends);
    report(&format_args!(
        "{} numbers went there and back around {times} grafts",
        talk.back
    ));
    talk.finish();
    assert_eq!(inside.wait(LATER).status, 0);
    vmshm(["region", "remove", &path]).run().success();
}

#[test]
fn a_program_that_does_not_let_go_is_named_and_unharmed() {
    let Some(machine) = fleet::borrow(Kind::QemuMemfd(2)) else {
        return;
    };
    let bytes = Bytes::create(&machine, "kept", 1 << 16);
    let vm = Vm::connect(&machine.name).expect("a session");
    let mut raw = vm.region("kept").raw().expect("the region");
    let own = std::process::id().to_string();
    bytes
        .graft()
        .refused(&["do not let go of it", &own])
        .hints(&["start them again"]);
    assert_eq!(graft_files(machine.pid), 0);
    let ended = raw.load(0).expect_err("it was asked to leave");
    assert!(matches!(ended, LinkFailure::Ended(End::MadeWay)), "{ended}");
    raw.reconnect(SOON).expect("a new session");
    raw.load(0).expect("it goes on");
    bytes.check();
}
