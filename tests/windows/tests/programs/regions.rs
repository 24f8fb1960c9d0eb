//! Regions are made, listed, read, written and removed, and `bench` measures in one.

use serde_json::json;
use vmshm_windows_tests::configuration::Configuration;
use vmshm_windows_tests::stand_in::{QEMU, StandIn, VMWARE};
use vmshm_windows_tests::wine::Wine;

#[test]
fn regions_are_made_and_used_and_removed() {
    let Some(wine) = Wine::set_up() else { return };
    let file = Configuration::with_hole("regions", 256, Some(128));
    let vmware = StandIn::start(&wine, VMWARE, &["--hole", "128", &file.path()]);
    let qemu = StandIn::start(&wine, QEMU, &["--private", "--", "-m", "256M"]);
    for vmm in [&vmware, &qemu] {
        let region = format!("{}/shared", vmm.pid);
        let created = wine.run(&["region", "create", &region, "--size", "1M"]);
        let _ = created.success();
        let listed = wine.run(&["region", "list", &vmm.pid, "--json"]).json();
        let first = &listed[0];
        assert_eq!(first["name"], "shared", "{listed}");
        assert_eq!(first["size"], 1 << 20, "{listed}");
        // Over the border between its extents, which lie far apart.
        let text = b"what both sides see".to_vec();
        let written = wine.vmshm(["region", "write", &region, "0x7fff8", "-i", "-"]);
        let _ = written.input(text.clone()).run().success();
        let read = wine.run(&["region", "read", &region, "0x7fff8", "19"]);
        assert_eq!(read.success(), text);
        let removed = wine.run(&["region", "remove", &region]);
        let _ = removed.success();
        let listed = wine.run(&["region", "list", &vmm.pid, "--json"]).json();
        assert_eq!(listed, json!([]));
    }
}

#[test]
fn a_bench_gives_its_figures() {
    let Some(wine) = Wine::set_up() else { return };
    let file = Configuration::write("bench", 256);
    let vmm = StandIn::start(&wine, VMWARE, &[&file.path()]);
    let bench = wine.vmshm(["bench", &vmm.pid, "--json", "--rounds", "1000"]);
    let report = bench.run_within(vmshm_vm_tests::patience::LATER).json();
    assert_eq!(report["method"], "map", "{report}");
    assert!(
        report["one_way_64b_ns"]["p50"]
            .as_f64()
            .is_some_and(|nanos| nanos > 0.0)
    );
}
