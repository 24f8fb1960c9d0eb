//! Under load: a loop in the guest runs on and stays right, and both sides see the right bytes in the region before
//! and after it is grafted, and after that is undone.

use vmshm_vm_tests::cell::{Backing, Board, Cell};
use vmshm_vm_tests::environment::report;
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::grafted::{Bytes, Work, graft_files, grafted_bytes, milliseconds};
use vmshm_vm_tests::machine::Kind;

const SIZE: u64 = 8 << 20;

#[test]
fn qemu_with_one_processor_is_grafted_and_undone_some_times() {
    again_and_again(Kind::QemuPrivate(1), 1, 6);
}

#[test]
fn qemu_with_two_processors_is_grafted_and_undone_some_times() {
    again_and_again(Kind::QemuPrivate(2), 2, 5);
}

#[test]
fn shared_memory_goes_back_to_where_others_map_it() {
    again_and_again(Kind::QemuMemfd(2), 2, 3);
}

#[test]
fn memory_that_is_private_over_a_file_is_grafted_too() {
    let cell = Cell::new(Board::Pc, Backing::PrivateFile, 1);
    again_and_again(Kind::Qemu(cell), 1, 3);
}

#[test]
#[ignore = "long: a hundred times"]
fn qemu_with_one_processor_is_grafted_and_undone_a_hundred_times() {
    again_and_again(Kind::QemuPrivate(1), 1, 100);
}

#[test]
#[ignore = "long: a hundred times"]
fn qemu_with_four_processors_is_grafted_and_undone_a_hundred_times() {
    again_and_again(Kind::QemuPrivate(4), 4, 100);
}

fn again_and_again(kind: Kind, processors: u32, times: u32) {
    let Some(machine) = fleet::borrow(kind) else {
        return;
    };
    let mut bytes = Bytes::create(&machine, "grafted", SIZE);
    let mut work = Work::start(&machine, processors);
    let mut pauses = Vec::new();
    for _ in 0..times {
        bytes.check();
        let answer = bytes.graft().json();
        pauses.push([
            milliseconds(&answer, "pause_ms"),
            milliseconds(&answer, "stopping_ms"),
        ]);
        assert_eq!(answer["grafted"], true, "{answer}");
        assert_eq!(answer["proof"], "mappings", "{answer}");
        assert_eq!(grafted_bytes(machine.pid), SIZE);
        bytes.check();
        bytes.change();
        bytes.check();
        work.goes_on();
        let again = bytes.graft().json();
        assert_eq!(again["new"], false, "{again}");
        assert_eq!(again["id"], answer["id"]);
        let undone = bytes.undo().json();
        assert_eq!(undone["grafted"], false, "{undone}");
        assert_eq!(
            (grafted_bytes(machine.pid), graft_files(machine.pid)),
            (0, 0)
        );
        bytes.check();
        bytes.change();
        work.goes_on();
    }
    let refused = bytes.undo();
    refused.refused(&["not grafted"]);
    pauses.sort();
    let median = pauses[pauses.len() / 2];
    report(&format_args!(
        "{}: grafted and undone {times} times; {} MiB in use: pause {:.2?}, and {:.2?} for stopping (median)",
        machine.name,
        SIZE >> 20,
        median[0],
        median[1]
    ));
}
