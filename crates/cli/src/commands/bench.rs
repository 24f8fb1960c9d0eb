//! `vmshm bench`: latency and copy rate, each beside its floor in the same run.

use serde_json::json;
use vmshm_host::bench::{self, Percentiles, Report};
use vmshm_host::machines;
use vmshm_ram::Access;

use crate::arguments::{Bench, Global};
use crate::failure::Failure;
use crate::output;

/// Runs it.
pub(crate) fn run(bench: &Bench, global: &Global) -> Result<(), Failure> {
    let options = global.attach()?;
    // A broker finds the beacon itself.
    let find = match machines::find(&bench.vm) {
        Ok(vmm) if options.broker.is_none() && vmm.access() != Access::None => {
            bench::time_to_find(&vmm, &options)?
        }
        _ => None,
    };
    let find = find.map(|time| time.as_secs_f64() * 1e3);
    let (mut session, _reaper) = super::attach(&bench.vm, global)?;
    let bar = output::bar(bench::STEPS as u64, "measuring", global.quiet);
    let rounds = usize::try_from(bench.rounds).unwrap_or(usize::MAX);
    let result = bench::run(&mut session, global.patience(), rounds, &mut |step| {
        bar.set_position(step as u64);
    });
    bar.finish_and_clear();
    let report = result?;
    output::print(&if bench.json {
        format!("{:#}\n", as_json(&report, find))
    } else {
        as_text(&report, find)
    })
}

fn as_json(report: &Report, find_ms: Option<f64>) -> serde_json::Value {
    let latency =
        |p: &Percentiles| json!({"p50": p.p50, "p99": p.p99, "p99.9": p.p999, "rounds": p.rounds});
    json!({
        "method": report.method.to_string(),
        "find_beacon_ms": find_ms,
        "one_way_64b_ns": latency(&report.message),
        "floor_one_way_ns": latency(&report.floor),
        "record_one_way_64b_ns": latency(&report.record),
        "floor_one_way_64b_ns": latency(&report.line),
        "record_ratio_to_floor": report.record_to_line,
        "record_p99.9_ratio_to_floor": report.record.p999 / report.line.p999,
        "one_way_ratio_to_floor": report.message.p50 / report.floor.p50,
        "region_copy_gb_per_s": report.region_copy,
        "memcpy_gb_per_s": report.private_copy,
        "copy_ratio_to_memcpy": report.region_copy / report.private_copy,
        "copied_bytes": report.copied,
        "extents": report.extents,
    })
}

fn as_text(report: &Report, find_ms: Option<f64>) -> String {
    let row = |what: &str, p: &Percentiles| {
        vec![
            what.to_owned(),
            format!("{:.0} ns", p.p50),
            format!("{:.0} ns", p.p99),
            format!("{:.0} ns", p.p999),
        ]
    };
    let rows = [
        vec!["one way".into(), "p50".into(), "p99".into(), "p99.9".into()],
        row("64-byte message", &report.message),
        row("bare word (floor)", &report.floor),
        row("64-byte record", &report.record),
        row("64 bare bytes and a word (floor)", &report.line),
    ];
    let find = find_ms.map_or_else(
        || "not at a likely place".to_owned(),
        |time| format!("found in {time:.1} ms"),
    );
    format!(
        "{}ratio of p50 to the floor: message {:.2}, record {:.2}\n\
         copy of {} out of the region ({}, {}): {:.1} GB/s; memcpy {:.1} GB/s; ratio {:.2}\n\
         beacon: {find}\n",
        output::table(&rows),
        report.message.p50 / report.floor.p50,
        report.record_to_line,
        output::size(report.copied),
        output::count(report.extents, "extent"),
        report.method,
        report.region_copy,
        report.private_copy,
        report.region_copy / report.private_copy,
    )
}
