//! Without an agent: RAM is read on the layout that the machine's rule gives for the largest section that holds the
//! address, the rule is named, and nothing is written.

use vmshm_windows_tests::configuration::Configuration;
use vmshm_windows_tests::stand_in::{StandIn, VMWARE};
use vmshm_windows_tests::wine::Wine;

const GIB: u64 = 1 << 30;

#[test]
fn ram_is_read_on_both_sides_of_the_hole_and_the_rule_is_named() {
    let Some(wine) = Wine::set_up() else { return };
    let file = Configuration::write("silent", 3328);
    let options = [
        "--no-agent",
        "--size",
        "3328",
        "--decoys",
        "0",
        &file.path(),
    ];
    let mut vmm = StandIn::start(&wine, VMWARE, &options);
    for place in [0x3000, 3 * GIB - 4, 4 * GIB + 0x1000] {
        vmm.tell(&format!("poke {place} 01020304"));
        let read = wine.run(&["read", &vmm.pid, &place.to_string(), "4"]);
        assert_eq!(read.code, Some(0), "{}", read.errors);
        assert_eq!(read.output, [1, 2, 3, 4]);
        assert!(read.errors.contains("rule"), "no source: {}", read.errors);
    }
    let inspected = wine.run(&["inspect", &vmm.pid, "--json"]).json();
    let layout = inspected["layout"].as_array().expect("an array");
    assert!(
        layout
            .iter()
            .any(|range| range["gpa"] == 4 * GIB && range["offset"] == 3 * GIB),
        "{inspected}"
    );
    let written = wine.run(&["write", &vmm.pid, "0x3000", "--hex", "00"]);
    written.refused(&[]).hints(&["--unverified"]);
    assert_eq!(vmm.tell("peek 0x3000 4"), "01020304");
    let pipe = wine.run(&["region", "list", &vmm.pid, "--timeout", "1"]);
    pipe.refused(&[]);
}

#[test]
fn without_a_configuration_the_largest_section_is_taken() {
    let Some(wine) = Wine::set_up() else { return };
    let mut vmm = StandIn::start(&wine, VMWARE, &["--no-agent", "--size", "128"]);
    vmm.tell("poke 0x3000 0badcafe");
    let read = wine.run(&["read", &vmm.pid, "0x3000", "4"]);
    assert_eq!(read.code, Some(0), "{}", read.errors);
    assert_eq!(read.output, [0x0b, 0xad, 0xca, 0xfe]);
    let beyond = wine.run(&["read", &vmm.pid, &(1 << 30).to_string(), "4"]);
    beyond.refused(&[]);
}

#[test]
fn an_agent_that_comes_later_is_waited_for() {
    let Some(wine) = Wine::set_up() else { return };
    let file = Configuration::write("late", 128);
    let options = ["--no-agent", "--size", "128", &file.path()];
    let mut vmm = StandIn::start(&wine, VMWARE, &options);
    let waiting = wine.vmshm(["wait", &vmm.pid, "--agent"]).start();
    vmm.tell("reboot");
    let waited = waiting.wait(vmshm_windows_tests::wine::START);
    let _ = waited.success();
}
