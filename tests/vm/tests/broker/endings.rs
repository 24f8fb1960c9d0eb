//! What a program was given before its graft ends is right, however it ends; and a graft that was made by name is there
//! again when a broker has lent it.

use std::time::Duration;

use vmshm_vm_tests::environment::{self, guest_example, report};
use vmshm_vm_tests::grafted::{graft_files, grafted_bytes};
use vmshm_vm_tests::patience::{LATER, SOON, wait_for};
use vmshm_vm_tests::program::{Outcome, Program, vmshm};

use super::brokers::{self, Broker, FRIEND};

/// How long records go there and back before the end: longer than the ring is.
const A_WHILE: Duration = Duration::from_millis(300);

#[test]
fn no_record_is_wrong_when_the_broker_ends_or_the_graft_is_undone() {
    let Some(machine) = brokers::machine("endings") else {
        return;
    };
    let mut broker = Broker::start(&machine, r#""ring_pair""#);
    let (name, region) = (machine.name.as_str(), machine.path("ring_pair"));
    let count = ["--timeout", "60", "--count", "900000000"];
    let mut ends = 0;
    for round in 0..6 {
        let guest = machine.guest.start(&format!(
            "{} guest {}",
            guest_example("ring_pair"),
            count.join(" ")
        ));
        let start = || {
            let host = broker.program(FRIEND, &environment::example("ring_pair"));
            let words = ["host", name];
            let words = words.iter().chain(&count);
            words.fold(host, Program::argument).start()
        };
        let mut host = start();
        wait_for("a ring that is lent", LATER, || {
            if !host.is_running() {
                // The broker takes a slow guest for one that is silent.
                let ended = std::mem::replace(&mut host, start()).wait(SOON);
                is_slow(&ended);
            }
            grafted_bytes(machine.pid) >= 1 << 20
        });
        std::thread::sleep(A_WHILE);
        let by_name = round % 2 == 0;
        if by_name {
            let undo = ["region", "graft", &region, "--undo"];
            let undone = vmshm(undo).run_within(LATER);
            // It is taken back already where the guest was too slow.
            let is_back = undone.code != Some(0) && grafted_bytes(machine.pid) == 0;
            if !is_back {
                undone.success();
            }
        } else {
            broker.end();
        }
        let ended = host.wait(LATER);
        let cause = if by_name {
            "its graft was undone"
        } else {
            "broker"
        };
        if ended.errors.contains(cause) {
            ends += 1;
        } else {
            is_slow(&ended);
        }
        assert!(!ended.errors.contains("record "), "{}", ended.errors);
        drop(guest);
        if !by_name {
            broker.run();
        }
        brokers::wait_for_no_graft(&machine);
        // The guest's program may have been its last holder.
        let _ = vmshm(["region", "remove", &region]).run();
    }
    report(&format_args!(
        "{name}: every record until {ends} ends was right"
    ));
    assert!(ends > 0, "the guest was too slow each time");
}

/// A program behind a broker that has ended since a busy machine left its guest no time.
fn is_slow(ended: &Outcome) {
    ended.ended_with(&["guest "]);
}

#[test]
fn a_graft_that_was_made_by_name_is_there_again_when_it_was_lent() {
    let Some(machine) = brokers::machine("by-name") else {
        return;
    };
    let mut broker = Broker::start(&machine, r#""held""#);
    let region = machine.path("held");
    vmshm(["region", "create", &region, "--size", "256K"])
        .run()
        .success();
    let write = ["region", "write", &region, "0", "--hex", "c0ffee"];
    vmshm(write).run().success();
    let made = vmshm(["region", "graft", &region, "--json"]).run().json();
    let file =
        || std::fs::read_to_string(format!("/proc/{}/maps", machine.pid)).unwrap_or_default();
    let inode = || {
        let maps = file();
        let mut lines = maps.lines().filter(|line| line.contains("/memfd:vmshm-"));
        lines
            .next()
            .and_then(|line| line.split_whitespace().nth(4))
            .map(str::to_owned)
    };
    let first = inode();
    assert!(first.is_some(), "{made}");
    let read = ["region", "read", &region, "0", "3"];
    for _ in 0..2 {
        let before = inode();
        let seen = brokers::patiently(|| broker.vmshm(FRIEND, &read).run_within(LATER));
        let seen = seen.success();
        assert_eq!(seen, [0xc0, 0xff, 0xee]);
        wait_for("a graft that is another one", SOON, || {
            let now = inode();
            now.is_some() && now != before
        });
        assert_eq!(
            (grafted_bytes(machine.pid), graft_files(machine.pid)),
            (256 << 10, 1)
        );
        assert_eq!(vmshm(read).run().success(), [0xc0, 0xff, 0xee]);
    }
    // Neither the broker's end nor another's use takes it away.
    broker.end();
    assert_eq!(graft_files(machine.pid), 1);
    vmshm(["region", "graft", &region, "--undo"])
        .run()
        .success();
    brokers::wait_for_no_graft(&machine);
    assert_eq!(vmshm(read).run().success(), [0xc0, 0xff, 0xee]);
}
