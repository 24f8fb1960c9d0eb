//! `vmshm list --watch`: each thing that happens is told, on a line of its own, when it happens.

use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};
use vmshm_vm_tests::agent;
use vmshm_vm_tests::environment::{self, report};
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::lines::Lines;
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::{SOON, wait_for, wait_until};
use vmshm_vm_tests::program::{Running, vmshm};

/// A watch, and what it has told.
struct Watch {
    running: Running,
    lines: Lines,
}

impl Watch {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(more: &[&str]) -> Self {
        let words = [&["list", "--watch", "--json"], more].concat();
        let mut running = vmshm(words).start();
        let lines = Lines::collect(running.stdout.take().expect("it is piped"));
        Self { running, lines }
    }

    fn events(&self) -> Vec<Value> {
        let text = self.lines.so_far();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).expect("each line is JSON"))
            .collect()
    }

    /// What it has told of a process. On a busy machine a heart may seem to stand still for a moment: that it did,
    /// and that it beats again, is left out.
    fn events_of(&self, pid: u32) -> Vec<Value> {
        let mut events: Vec<Value> = Vec::new();
        for event in self.events() {
            if event["pid"] != pid {
                continue;
            }
            let state = &event["agent"]["state"];
            let before = events.last().map(|last| &last["agent"]["state"]);
            let tells_nothing = state == "silent" || (state == "seen" && before == Some(state));
            if event["event"] == "agent" && tells_nothing {
                continue;
            }
            events.push(event);
        }
        events
    }

    /// Waits for the next event of a process after its first `seen` events, and counts it.
    fn next(&self, pid: u32, seen: &mut usize) -> Value {
        wait_until("the next event", SOON, || {
            let event = self.events_of(pid).get(*seen).cloned()?;
            *seen += 1;
            Some(event)
        })
    }

    fn end(self) {
        self.running.signal(Signal::INT);
        let outcome = self.running.wait(SOON);
        assert_eq!(outcome.code, Some(0), "{}", outcome.errors);
        assert_eq!(outcome.errors, "");
    }
}

#[test]
fn everything_that_happens_to_an_agent_is_told() {
    for kind in [Kind::Uml, Kind::QemuPrivate(2)] {
        let Some(machine) = fleet::borrow(kind) else {
            return;
        };
        let watch = Watch::start();
        let mut seen = 0;
        let first = watch.next(machine.pid, &mut seen);
        assert_eq!(first["event"], "appeared", "{first}");
        assert_eq!(first["name"], machine.name.as_str());
        assert_eq!(first["ram_bytes"], kind.ram_bytes());
        assert_eq!(first["agent"]["state"], "seen", "{first}");
        let mut listed = vmshm(["list", "--json"]).run().json();
        let listed = listed.as_array_mut().expect("an array");
        let listed = listed.iter().find(|entry| entry["pid"] == machine.pid);
        for (field, value) in listed.expect("listed").as_object().expect("an object") {
            assert_eq!(&first[field], value, "the fields of `list --json`");
        }

        let path = machine.path("watched");
        vmshm(["region", "create", &path, "--size", "8K"])
            .run()
            .success();
        let event = watch.next(machine.pid, &mut seen);
        assert_eq!(event["event"], "changed");
        assert_eq!(event["changed"], json!(["regions"]));
        assert_eq!(event["regions"][0]["name"], "watched", "{event}");
        vmshm(["region", "remove", &path]).run().success();
        let event = watch.next(machine.pid, &mut seen);
        assert_eq!(event["regions"], json!([]), "{event}");

        let paused = machine.pause();
        assert_eq!(watch.next(machine.pid, &mut seen)["event"], "paused");
        drop(paused);
        assert_eq!(watch.next(machine.pid, &mut seen)["event"], "resumed");

        agent::kill(&machine.guest);
        let event = watch.next(machine.pid, &mut seen);
        assert_eq!(event["event"], "agent");
        assert_eq!(event["agent"]["state"], "dead", "{event}");
        agent::start(&machine.guest);
        let event = watch.next(machine.pid, &mut seen);
        assert_eq!(event["agent"]["state"], "seen", "{event}");

        agent::stop(&machine.guest);
        // It may be seen between its last breath and the removal of the brand.
        let gone = loop {
            let event = watch.next(machine.pid, &mut seen);
            if event["agent"] == Value::Null {
                break event;
            }
        };
        assert_eq!(gone["event"], "agent");
        agent::start(&machine.guest);
        let back = watch.next(machine.pid, &mut seen);
        assert_eq!(back["event"], "agent");
        assert_eq!(back["agent"]["state"], "seen", "{back}");
        watch.end();
    }
}

#[test]
fn a_watch_that_may_not_scan_looks_only_where_it_is_told() {
    let Some(machine) = fleet::borrow(Kind::Uml) else {
        return;
    };
    let status = machine.guest.check("vmshm-agent status");
    let address = status.lines().find_map(|line| line.strip_prefix("beacon "));
    let address = address.expect("a beacon").trim();
    let appearance = |more: &[&str]| {
        let watch = Watch::start_with(&[&["--verbose"], more].concat());
        let mut seen = 0;
        let first = watch.next(machine.pid, &mut seen);
        assert_eq!(first["event"], "appeared", "{first}");
        (watch, seen, first)
    };
    let (blind, blind_seen, first) = appearance(&["--no-scan"]);
    assert_eq!(first["agent"], Value::Null, "{first}");
    let (told, mut seen, first) = appearance(&["--beacon", address]);
    assert_eq!(first["agent"]["state"], "seen", "{first}");
    agent::kill(&machine.guest);
    let event = told.next(machine.pid, &mut seen);
    assert_eq!(event["agent"]["state"], "dead", "{event}");
    agent::start(&machine.guest);
    let event = told.next(machine.pid, &mut seen);
    assert_eq!(event["agent"]["state"], "seen", "{event}");
    // By now a watch that scans would have found it.
    let events = blind.events_of(machine.pid);
    assert_eq!(events.len(), blind_seen, "{events:?}");
    for watch in [blind, told] {
        watch.running.signal(Signal::INT);
        let outcome = watch.running.wait(SOON);
        assert_eq!(outcome.code, Some(0), "{}", outcome.errors);
        assert!(
            !outcome.errors.contains("scanning guest RAM"),
            "{}",
            outcome.errors
        );
    }
}

#[test]
fn a_guest_of_another_boot_has_been_rebooted() {
    let Some(machine) = fleet::borrow(Kind::Uml) else {
        return;
    };
    let watch = Watch::start();
    let mut seen = 0;
    let before = watch.next(machine.pid, &mut seen);
    agent::stop(&machine.guest);
    let other = "11111111-2222-4333-8444-555555555555";
    machine.guest.check(&format!(
        "echo {other} >boot-id; mount --bind boot-id /proc/sys/kernel/random/boot_id"
    ));
    agent::start(&machine.guest);
    // What comes before it tells of the agent's end. Its page may be there before its heart beats.
    let event = loop {
        let event = watch.next(machine.pid, &mut seen);
        if event["event"] == "rebooted" {
            break event;
        }
        assert_ne!(event["agent"]["boot_id"], other, "{event}");
    };
    assert_eq!(event["agent"]["boot_id"], other);
    assert_ne!(before["agent"]["boot_id"], other);
    watch.end();
    agent::stop(&machine.guest);
    machine
        .guest
        .check("umount /proc/sys/kernel/random/boot_id");
    agent::start(&machine.guest);
}

#[test]
fn a_machine_that_comes_and_goes_is_told() {
    if !environment::is_set_up() {
        return;
    }
    let watch = Watch::start();
    let machine = Machine::boot_as(Kind::Uml, "watched", &[]);
    let mut seen = 0;
    let event = watch.next(machine.pid, &mut seen);
    assert_eq!(event["event"], "appeared", "{event}");
    assert_eq!(event["name"], machine.name.as_str());
    let agent = loop {
        let event = watch.next(machine.pid, &mut seen);
        if event["agent"] != Value::Null {
            break event;
        }
    };
    assert_eq!(agent["event"], "agent");
    assert_eq!(agent["agent"]["state"], "seen", "{agent}");
    let killed = Instant::now();
    machine.kill();
    let event = watch.next(machine.pid, &mut seen);
    assert_eq!(event["event"], "disappeared", "{event}");
    report(&format_args!(
        "list --watch tells of a VM's end {:.2} s after it",
        killed.elapsed().as_secs_f64()
    ));
    watch.end();
}

#[test]
fn a_watch_ends_when_nobody_reads_when_time_is_up_and_when_told() {
    let Some(machine) = fleet::borrow(Kind::Uml) else {
        return;
    };
    // Nobody reads, and nothing happens: it must notice without writing.
    let mut running = vmshm(["list", "--watch"]).start();
    drop(running.stdout.take());
    assert_eq!(running.wait(SOON).code, Some(0));

    let outcome = vmshm(["list", "--watch", "--timeout", "0.5"]).run();
    let text = outcome.text();
    assert!(text.contains(&machine.name), "{text}");
    assert!(!text.contains('\x1b'), "no colours but on a terminal");

    let mut running = vmshm(["list", "--watch"]).start();
    let lines = Lines::collect(running.stdout.take().expect("it is piped"));
    wait_for("the first line", SOON, || lines.so_far().contains('\n'));
    running.signal(Signal::TERM);
    assert_eq!(running.wait(SOON).code, Some(0));
}
