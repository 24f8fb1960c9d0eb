//! Another user's programs get a region through the broker although a program that has attached directly has the same
//! region mapped, or copies it where the VM's memory is private. That one makes way, and makes way again when the region is taken back,
//! and no word that it has stored is lost.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vmshm_host::{End, LinkFailure, Raw, Vm};
use vmshm_vm_tests::cell::{Backing, Board, Cell};
use vmshm_vm_tests::environment::report;
use vmshm_vm_tests::machine::Kind;
use vmshm_vm_tests::patience::{LATER, SOON, wait_for};
use vmshm_vm_tests::program::vmshm;
use vmshm_vm_tests::stopping::StopOnDrop;

use super::brokers::{self, Broker, FRIEND};

/// Stores rising numbers as long as it may, and finds the last one again in every new session.
struct Counting {
    raw: Raw,
    stored: u64,
    ends: Vec<End>,
}

impl Counting {
    fn step(&mut self, seen: &AtomicU64) {
        match self.raw.store(0, self.stored + 1) {
            Ok(()) => {
                self.stored += 1;
                seen.store(self.stored, Ordering::Relaxed);
            }
            Err(LinkFailure::Ended(end)) => {
                self.raw.reconnect(LATER).expect("a new session");
                match self.raw.load(0) {
                    // Who was too slow to make way is told that the last stores are lost.
                    Ok(found) if end != End::MadeWay => self.stored = found,
                    Ok(found) => assert_eq!(found, self.stored, "what was stored is lost"),
                    // The next graft has come already.
                    Err(LinkFailure::Ended(_)) => {}
                    Err(other) => panic!("{other}"),
                }
                self.ends.push(end);
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_direct_program_and_one_of_another_user_share_a_region_of_private_memory() {
    share(Kind::QemuPrivate(2), "private-partners");
}

#[test]
#[ignore = "long: a machine of its own"]
fn a_direct_program_and_one_of_another_user_share_a_region_of_a_memfd() {
    share(Kind::QemuMemfd(2), "partners");
}

#[test]
#[ignore = "long: a machine of its own"]
fn a_direct_program_and_one_of_another_user_share_a_region_of_a_file() {
    let cell = Cell::new(Board::Pc, Backing::File, 1);
    share(Kind::Qemu(cell), "file-partners");
}

#[test]
fn a_graft_that_is_undone_by_name_ends_the_session_of_its_holder() {
    let Some(machine) = brokers::machine("undone") else {
        return;
    };
    let broker = Broker::start(&machine, r#""held""#);
    let holder = brokers::hold(&broker, &machine, "hold");
    let region = machine.path("held");
    vmshm(["region", "graft", &region, "--undo"])
        .run()
        .success();
    wait_for("the holder to hear of it", SOON, || {
        holder.errors.so_far().contains("its graft was undone")
    });
    brokers::wait_for_no_graft(&machine);
    // The next one finds a file that is the guest's.
    patient(
        &broker,
        &["region", "write", &region, "0", "--hex", "c0ffee"],
    );
    let seen = vmshm(["region", "read", &region, "0", "3"]).run().success();
    assert_eq!(seen, [0xc0, 0xff, 0xee]);
    drop(holder);
}

fn share(kind: Kind, label: &str) {
    let Some(machine) = brokers::machine_of(kind, label, &[]) else {
        return;
    };
    let mut broker = Broker::start(&machine, r#""shared""#);
    let region = machine.path("shared");
    vmshm(["region", "create", &region, "--size", "64K"])
        .run()
        .success();
    let vm = Vm::connect(&machine.name).expect("a session");
    assert_eq!(vm.is_mapped(), kind.is_shared());
    let raw = vm.region("shared").raw().expect("the region");
    let mut counting = Counting {
        raw,
        stored: 0,
        ends: Vec::new(),
    };
    let (stop, seen) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                counting.step(&seen);
            }
        });
        for _ in 0..2 {
            let before = seen.load(Ordering::Relaxed);
            wait_for("numbers", SOON, || seen.load(Ordering::Relaxed) > before);
            let write = ["region", "write", &region, "0x1000", "--hex", "c0ffee"];
            patient(&broker, &write);
            let seen = patient(&broker, &["region", "read", &region, "0x1000", "3"]);
            assert_eq!(seen, [0xc0, 0xff, 0xee]);
            brokers::wait_for_no_graft(&machine);
        }
        let before = seen.load(Ordering::Relaxed);
        wait_for("numbers", SOON, || {
            seen.load(Ordering::Relaxed) > before + 1000
        });
    });
    let mut bytes = [0; 3];
    while let Err(failure) = counting.raw.read(0x1000, &mut bytes) {
        assert!(matches!(failure, LinkFailure::Ended(_)), "{failure}");
        counting.raw.reconnect(LATER).expect("a new session");
    }
    assert_eq!(bytes, [0xc0, 0xff, 0xee]);
    report(&format_args!(
        "{} stores of a direct program beside the broker: {:?}",
        counting.stored, counting.ends
    ));
    assert!(counting.ends.contains(&End::MadeWay));
    drop(counting);
    broker.end();
    vmshm(["region", "remove", &region]).run().success();
}

/// Runs a command of another user.
fn patient(broker: &Broker, arguments: &[&str]) -> Vec<u8> {
    brokers::patiently(|| broker.vmshm(FRIEND, arguments).run()).success()
}
