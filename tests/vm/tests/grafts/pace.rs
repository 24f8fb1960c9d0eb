//! How fast grafts are: the pause of a VM with 64 MiB in use, and links over a graft beside links over map.

use serde_json::Value;

use vmshm_vm_tests::environment::report;
use vmshm_vm_tests::fleet::{self, Borrowed};
use vmshm_vm_tests::grafted::{Bytes, Work, milliseconds};
use vmshm_vm_tests::machine::Kind;
use vmshm_vm_tests::patience::LATER;
use vmshm_vm_tests::program::vmshm;

#[test]
#[ignore = "long: measures"]
fn a_vm_pauses_for_64_mib() {
    const SIZE: u64 = 64 << 20;
    const TIMES: usize = 21;
    let Some(machine) = fleet::borrow(Kind::QemuPrivate(2)) else {
        return;
    };
    let bytes = Bytes::create(&machine, "pause", SIZE);
    let mut work = Work::start(&machine, 2);
    let mut pauses = Vec::new();
    for _ in 0..TIMES {
        let answer = bytes.graft().json();
        pauses.push(["pause_ms", "stopping_ms"].map(|name| milliseconds(&answer, name)));
        bytes.check();
        let undone = bytes.undo().json();
        assert_eq!(undone["grafted"], false, "{undone}");
        work.goes_on();
    }
    let median = |of: usize| {
        let mut all: Vec<_> = pauses.iter().map(|pause| pause[of]).collect();
        all.sort();
        all[TIMES / 2]
    };
    report(&format_args!(
        "{}: {} MiB in use: pause {:.2?}, and {:.2?} for stopping (medians of {TIMES}); load {}",
        machine.name,
        SIZE >> 20,
        median(0),
        median(1),
        load()
    ));
}

#[test]
#[ignore = "long: measures"]
fn links_over_a_graft_are_as_fast_as_over_map() {
    const TIMES: usize = 5;
    // Two machines: what was grafted stays so, and would be mapped in the other's place.
    let kinds = [(Kind::QemuMemfd(1), "map"), (Kind::QemuPrivate(1), "graft")];
    // In turns, so that a slow moment hits all alike.
    let mut figures = vec![Vec::new(); kinds.len()];
    let mut copies = figures.clone();
    for _ in 0..TIMES {
        for (index, (kind, method)) in kinds.into_iter().enumerate() {
            let Some(machine) = fleet::borrow(kind) else {
                return;
            };
            let report = bench(&machine, method);
            let number = |value: &Value| value.as_f64().expect("a figure");
            figures[index].push(number(&report["record_one_way_64b_ns"]["p50"]));
            copies[index].push(number(&report["region_copy_gb_per_s"]));
        }
    }
    let figures = figures.into_iter().map(median).collect::<Vec<_>>();
    let copies = copies.into_iter().map(median).collect::<Vec<_>>();
    for (index, (kind, method)) in kinds.into_iter().enumerate() {
        report(&format_args!(
            "{kind:?} by {method}: a record in {:.0} ns, {:.2} of that over map; {:.1} GB/s, {:.2} of that; load {}",
            figures[index],
            figures[index] / figures[0],
            copies[index],
            copies[index] / copies[0],
            load()
        ));
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn bench(machine: &Borrowed, method: &str) -> Value {
    let answer = vmshm(["bench", &machine.name, "--json", "--method", method])
        .run_within(LATER)
        .json();
    assert_eq!(answer["method"], method, "{answer}");
    answer
}

fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
