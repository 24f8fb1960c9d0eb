//! The rows: each boots the guest that it needs once, and measures the same content with ours, the floor and the peer.

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use vmshm_vm_tests::desktop::Desktop;
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::{LATER, wait_for};
use vmshm_vm_tests::processes;
use vmshm_vm_tests::program::{Program, vmshm};
use vmshm_vm_tests::qmp::Qmp;

/// For a program that watches for some seconds.
const PATIENCE: Duration = LATER;

/// Measures the rows of these names, all without one.
pub fn measure(names: &[&str], quick: bool) -> Value {
    let wanted = |name: &str| names.is_empty() || names.contains(&name);
    let mut rows = Vec::new();
    let card = [
        "display-latency",
        "display-torn",
        "display-bytes",
        "display-still",
    ];
    if card.iter().any(|name| wanted(name)) {
        let machine = Machine::boot(Kind::UmlDesktop);
        if wanted("display-latency") {
            rows.push(latency(&machine, quick));
        }
        if wanted("display-torn") {
            rows.push(torn(&machine, quick));
        }
        let desktop = Desktop::start(&machine, "/run/user/1000");
        if wanted("display-bytes") {
            rows.push(bytes(&machine, &desktop, quick));
        }
        if wanted("display-still") {
            rows.push(still(&machine, quick));
        }
    }
    if wanted("display-vnc") {
        rows.push(beside_vnc(quick));
    }
    Value::Array(rows)
}

fn row(
    name: &str,
    unit: &str,
    peer: Option<&str>,
    rounds: Vec<Value>,
    more: Map<String, Value>,
) -> Value {
    json!({
        "name": name,
        "unit": unit,
        "better": "lower",
        "peer_name": peer,
        "rounds": rounds,
        "additional": more,
    })
}

/// Shows a screen nowhere for so many seconds; the sums of its statistics.
fn watch(machine: &Machine, seconds: u64, arguments: &[&str]) -> Value {
    let seconds = seconds.to_string();
    let mut all = vec!["display", &machine.name, "--nowhere", &seconds];
    all.extend(arguments);
    timed(vmshm(all))
}

/// Runs a program that prints an object; its processor time, and that of its children, goes into `cpu_seconds`.
fn timed(program: Program) -> Value {
    let before = processes::time_of_children();
    let mut seen = program.run_within(PATIENCE).json();
    let used = processes::time_of_children().saturating_sub(before);
    seen["cpu_seconds"] = used.as_secs_f64().into();
    seen
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("no number: {value}"))
}

/// From seeing a frame announced to its being ready for presenting, in the monitor's clock, beside copying its damage. The
/// way to being seen, which crosses two clocks, is not in it.
fn latency(machine: &Machine, quick: bool) -> Value {
    let rounds = (0..if quick { 5 } else { 10 }).map(|_| {
        let seen = watch(machine, 3, &["--screen", "test-card"]);
        let damage = number(&seen["damage_bytes"]) / number(&seen["frames"]).max(1.0);
        json!({
            "ours": number(&seen["copy_ns"]["p50"]) / 1e3,
            "floor": copying(damage) * 1e6,
            "waited": 0.0,
        })
    });
    let more =
        fields(json!({"measured": "from seen to ready; how soon a frame is seen is not in it"}));
    row("display-latency", "us", None, rounds.collect(), more)
}

/// Seconds for copying so many bytes between two large pieces of memory.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a size of a picture"
)]
fn copying(bytes: f64) -> f64 {
    let length = (bytes as usize).max(1);
    let from = vec![1_u8; length];
    let mut to = vec![0_u8; length];
    let mut times: Vec<f64> = (0..50)
        .map(|_| {
            let start = Instant::now();
            to.copy_from_slice(std::hint::black_box(&from));
            std::hint::black_box(&mut to);
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Test cards with a wrong checksum, of ten thousand.
fn torn(machine: &Machine, quick: bool) -> Value {
    let wanted = if quick { 1000.0 } else { 10_000.0 };
    let (mut frames, mut wrong, mut retaken, mut over) = (0.0, 0.0, 0.0, 0.0);
    while frames < wanted {
        let seen = watch(machine, 20, &["--screen", "test-card", "--verify"]);
        frames += number(&seen["frames"]);
        wrong += number(&seen["wrong"]);
        retaken += number(&seen["retaken"]);
        over += number(&seen["over_ns"]) / 1e9;
        assert!(number(&seen["frames"]) > 0.0, "no frames: {seen}");
    }
    let more = json!({"frames": frames, "taken again": retaken, "frames a second": frames / over});
    let round = json!({"ours": wrong, "waited": 0.0});
    row("display-torn", "frames", None, vec![round], fields(more))
}

fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        other => panic!("no object: {other}"),
    }
}

/// Bytes that agent and host touched for each byte of damage, on a desktop whose terminal writes.
fn bytes(machine: &Machine, desktop: &Desktop<'_>, quick: bool) -> Value {
    let output = desktop.output_names()[0].clone();
    desktop.terminal(
        &output,
        "busy",
        "sh -c 'while :; do date +%N; sleep 0.1; done'",
    );
    let rounds = (0..if quick { 3 } else { 6 }).map(|_| {
        let seen = watch(machine, 5, &["--screen", "0"]);
        let touched = number(&seen["copied_bytes"]) + number(&seen["source_bytes"]);
        json!({"ours": touched / number(&seen["damage_bytes"]).max(1.0), "waited": 0.0})
    });
    let row = row(
        "display-bytes",
        "of damage",
        None,
        rounds.collect(),
        Map::new(),
    );
    desktop.command("[app_id=busy] kill");
    row
}

/// A desktop on which nothing changes: what showing it for longer costs, on the host, and in the VM beyond its own.
fn still(machine: &Machine, quick: bool) -> Value {
    let seconds = if quick { 6 } else { 12 };
    let shortly = 3;
    let mut touched = 0.0;
    let rounds = (0..if quick { 3 } else { 6 }).map(|_| {
        let alone = processor_time(machine, || {
            std::thread::sleep(Duration::from_secs(seconds));
        });
        // Attaching and the first picture cost the same in both.
        let mut first = Value::Null;
        let begin = processor_time(machine, || {
            first = watch(machine, shortly, &["--screen", "0"])
        });
        let mut seen = Value::Null;
        let all = processor_time(machine, || {
            seen = watch(machine, shortly + seconds, &["--screen", "0"]);
        });
        let more = |name: &str| number(&seen[name]) - number(&first[name]);
        touched += more("copied_bytes").abs() + more("source_bytes").abs();
        let percent = |time: f64| time / Duration::from_secs(seconds).as_secs_f64() * 100.0;
        let guest = percent(all - begin - alone);
        let host = percent(number(&seen["cpu_seconds"]) - number(&first["cpu_seconds"]));
        json!({"ours": host.max(guest), "waited": 0.0})
    });
    let rounds = rounds.collect();
    let more = fields(json!({"bytes touched": touched}));
    row("display-still", "% of a core", None, rounds, more)
}

/// Seconds of processor time that the machine takes while `work` is done.
fn processor_time(machine: &Machine, work: impl FnOnce()) -> f64 {
    let all = || -> Duration {
        let mut processes = processes::descendants(machine.pid);
        processes.push(machine.pid);
        processes.into_iter().map(processes::processor_time).sum()
    };
    let before = all();
    work();
    all().saturating_sub(before).as_secs_f64()
}

/// Processor time of the host for each frame: the VM's beyond its own desktop's, and the viewer's.
fn beside_vnc(quick: bool) -> Value {
    let machine = Machine::boot_as(Kind::QemuDesktop, "bench-vnc", &["--network"]);
    let desktop = Desktop::start(&machine, "/run/user/1000");
    let output = desktop.output_names()[0].clone();
    desktop.terminal(
        &output,
        "busy",
        "sh -c 'while :; do date +%N; sleep 0.2; done'",
    );
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("a port is free")
        .port();
    Qmp::of(&machine.name).execute(
        "human-monitor-command",
        &json!({"command-line": format!("hostfwd_add network tcp:127.0.0.1:{port}-:5900")}),
    );
    let seconds = if quick { 8 } else { 15 };
    let rounds = (0..if quick { 3 } else { 5 }).map(|_| {
        let alone = processor_time(&machine, || {
            std::thread::sleep(Duration::from_secs(seconds));
        });
        let mut ours = Value::Null;
        let with_ours = processor_time(&machine, || {
            ours = watch(&machine, seconds, &["--screen", "0"]);
        });
        let server = desktop.client("wayvnc 0.0.0.0 5900");
        wait_for("wayvnc", PATIENCE, || {
            // QEMU takes the connection whether or not anybody listens in the guest.
            let greeting =
                TcpStream::connect((Ipv4Addr::LOCALHOST, port)).and_then(|mut server| {
                    server.set_read_timeout(Some(Duration::from_secs(2)))?;
                    server.read_exact(&mut [0; 12])
                });
            greeting.is_ok()
        });
        let mut theirs = Value::Null;
        let with_theirs = processor_time(&machine, || theirs = client(port, seconds));
        drop(server);
        let per_frame = |with: f64, seen: &Value| {
            let used = (with - alone).max(0.0) + number(&seen["cpu_seconds"]);
            used / number(&seen["frames"]).max(1.0) * 1e3
        };
        json!({
            "ours": per_frame(with_ours, &ours),
            "peer": per_frame(with_theirs, &theirs),
            "waited": 0.0,
        })
    });
    let rounds = rounds.collect();
    let peer = Some("wayvnc and a VNC client that takes raw pixels and shows nothing");
    row("display-vnc", "ms a frame", peer, rounds, Map::new())
}

/// Runs the VNC client as a process of its own, whose time can be told.
fn client(port: u16, seconds: u64) -> Value {
    let own = std::env::current_exe().expect("a program knows its path");
    let mut command = std::process::Command::new(own);
    command.args(["vnc-client", &port.to_string(), &seconds.to_string()]);
    timed(Program::new(command))
}
