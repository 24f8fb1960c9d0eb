//! Bad input: every command refuses it in bounded time, with one clear line, a hint where there is something to do, and
//! exit code 2; and the next command works.

use std::process::Command;

use vmshm_vm_tests::environment::{self, is_root};
use vmshm_vm_tests::fleet::{self, Borrowed};
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::{SOON, wait_for};
use vmshm_vm_tests::program::{Program, Running, vmshm};
use vmshm_vm_tests::status::Status;

#[test]
fn an_unknown_vm_is_refused_by_every_command() {
    if !environment::is_set_up() {
        return;
    }
    let commands: [&[&str]; 8] = [
        &["region", "list", "nobody"],
        &["region", "create", "nobody/x", "--size", "4K"],
        &["region", "read", "nobody/x", "0", "1"],
        &["read", "nobody", "0", "1"],
        &["write", "nobody", "0", "--hex", "00"],
        &["pipe", "nobody/x"],
        &["bench", "nobody"],
        &["wait", "nobody", "--timeout", "0.2"],
    ];
    for command in commands {
        vmshm(command)
            .run()
            .refused(&["no VM is called \"nobody\""])
            .hints(&["vmshm list"])
            .within(SOON);
    }
    let gone = i32::MAX.to_string();
    vmshm(["read", &gone, "0", "1"])
        .run()
        .refused(&[&gone])
        .within(SOON);
}

#[test]
fn a_process_that_is_no_vm_is_refused() {
    if !environment::is_set_up() {
        return;
    }
    let ourselves = std::process::id().to_string();
    let create = vmshm([
        "region",
        "create",
        &format!("{ourselves}/x"),
        "--size",
        "4K",
    ])
    .run();
    create.refused(&[]).within(SOON);
}

#[test]
fn a_name_of_two_vms_is_refused_and_a_number_is_not() {
    if !environment::is_set_up() {
        return;
    }
    let name = format!("vm-tests-{}-twins", std::process::id());
    let twins = [idle_qemu(&name), idle_qemu(&name)];
    let pids = twins.each_ref().map(|twin| twin.pid().to_string());
    wait_for("twins in the list", SOON, || {
        let listed = vmshm(["list", "--json"]).run().json();
        let entries = listed.as_array().expect("a list is an array");
        entries
            .iter()
            .filter(|entry| entry["name"] == name.as_str())
            .count()
            == 2
    });
    for selector in [name.clone(), format!("qemu:{name}")] {
        vmshm(["read", &selector, "0", "1"])
            .run()
            .refused(&["several", &pids[0], &pids[1]])
            .hints(&["process number"])
            .within(SOON);
    }
    vmshm(["region", "list", &pids[0]])
        .run()
        .refused(&["no vmshm-agent is running"])
        .within(SOON);
}

/// A machine that never starts to run: enough to be found.
fn idle_qemu(name: &str) -> Running {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-S", "-m", "64M", "-nodefaults", "-display", "none"])
        .args(["-accel", "tcg", "-name", name]);
    Program::new(command).start()
}

#[test]
fn addresses_that_are_no_ram_are_refused() {
    for kind in [Kind::Uml, Kind::QemuPrivate(2), Kind::QemuMemfd(1)] {
        let Some(machine) = fleet::borrow(kind) else {
            return;
        };
        let (first, end) = some_ram(&machine);
        let hex = |address: u64| format!("{address:#x}");
        let (inside, last, past) = (hex(first), hex(end - 1), hex(end));
        let (far, none) = ("0xfffffffffffff000", hex(hole(kind, first)));
        let name = machine.name.as_str();
        for (address, length) in [
            (past.as_str(), "16"),
            (&last, "2"),
            (&none, "16"),
            (far, "16"),
            (far, "0x1000"),
            (far, "0x2000"),
            (&inside, "0xffffffffffffffff"),
            (&inside, "0x7fffffffffffffff"),
            (&inside, "0"),
        ] {
            vmshm(["read", name, address, length])
                .run()
                .refused(&[])
                .within(SOON);
        }
        for address in [past.as_str(), &none, far] {
            vmshm(["write", name, address, "--hex", "00"])
                .run()
                .refused(&[])
                .within(SOON);
        }
        let fine = vmshm(["read", name, &inside, "16"]).run();
        assert_eq!(fine.success().len(), 16);
    }
}

/// The start and the end of a range of the guest's RAM with nothing behind it.
fn some_ram(machine: &Machine) -> (u64, u64) {
    let bytes = machine.kind.ram_bytes();
    if machine.kind != Kind::Uml {
        return (1 << 20, bytes);
    }
    // User-mode Linux puts its RAM at an address that differs each time, and its kernel counts what lies below, too.
    let zones = machine.guest.check("grep spanned /proc/zoneinfo");
    let pages = zones.lines().next().and_then(|line| {
        let number = line.split_whitespace().last()?;
        number.parse::<u64>().ok()
    });
    let end = pages.expect("a number of pages") * 4096;
    // The kernel itself comes first, and is no RAM to anybody else.
    (end - bytes + (32 << 20), end)
}

/// An address below the end of RAM, or between RAM and firmware, where there is none.
fn hole(kind: Kind, first: u64) -> u64 {
    if kind == Kind::Uml {
        first - (32 << 20) - 4096
    } else {
        0xd000_0000
    }
}

#[test]
fn words_that_are_no_numbers_are_refused() {
    let Some(machine) = fleet::borrow(Kind::Uml) else {
        return;
    };
    let name = machine.name.as_str();
    let path = machine.path("x");
    let commands: [&[&str]; 9] = [
        &["read", name, "zero", "1"],
        &["read", name, "0x", "1"],
        &["read", name, "-1", "1"],
        &["read", name, "0x10000000000000000", "1"],
        &["write", name, "0", "--hex", "abc"],
        &["write", name, "0", "--hex", "xy"],
        &["write", name, "0"],
        &["region", "create", &path, "--size", "much"],
        &["region", "create", name, "--size", "4K"],
    ];
    for command in commands {
        let outcome = vmshm(command).run();
        assert_eq!(outcome.code, Some(2), "{}", outcome.line);
        assert!(outcome.errors.starts_with("error: "), "{}", outcome.errors);
        assert!(outcome.output.is_empty(), "{}", outcome.line);
        outcome.within(SOON);
    }
}

#[test]
fn regions_that_cannot_be_are_refused() {
    for kind in [Kind::Uml, Kind::QemuPrivate(2)] {
        let Some(machine) = fleet::borrow(kind) else {
            return;
        };
        let base = Status::of(&machine.guest).pinned_bytes;
        regions_that_cannot_be(&machine);
        vmshm_vm_tests::agent::wait_for_pinned(&machine.guest, base);
    }
}

fn regions_that_cannot_be(machine: &Borrowed) {
    let (there, missing) = (machine.path("there"), machine.path("missing"));
    let create = |path: &str, size: &str| vmshm(["region", "create", path, "--size", size]).run();
    create(&there, "4K").success();
    create(&there, "4K")
        .refused(&["there is a region `there` already"])
        .hints(&["another name"])
        .within(SOON);
    vmshm(["pipe", &there])
        .run()
        .refused(&["is a raw region, not a pipe"])
        .within(SOON);
    for command in [
        vec!["region", "read", &missing, "0", "1"],
        vec!["region", "write", &missing, "0", "--hex", "00"],
        vec!["region", "remove", &missing],
    ] {
        vmshm(command)
            .run()
            .refused(&["there is no region `missing`"])
            .hints(&["vmshm region list"])
            .within(SOON);
    }
    for size in ["200M", "300M"] {
        create(&missing, size)
            .refused(&[])
            .hints(&["--max-pinned"])
            .within(SOON);
    }
    for size in ["64G", "0x7fffffffffffffff", "0xffffffffffffffff"] {
        create(&missing, size).refused(&[]).within(SOON);
    }
    create(&missing, "0").refused(&["0 bytes"]);
    create(&machine.path("a b"), "4K").refused(&["cannot be a region's name"]);
    create(&machine.path(&"long".repeat(17)), "4K").refused(&["cannot be a region's name"]);
    for (offset, length) in [
        ("0", "0"),
        ("0", "4097"),
        ("4096", "1"),
        ("0xffffffffffffffff", "2"),
        ("0", "0xffffffffffffffff"),
    ] {
        vmshm(["region", "read", &there, offset, length])
            .run()
            .refused(&[])
            .within(SOON);
    }
    vmshm(["region", "write", &there, "4095", "--hex", "0102"])
        .run()
        .refused(&["beyond"])
        .within(SOON);
    vmshm(["region", "remove", &there]).run().success();
}

#[test]
fn a_vm_without_an_agent_can_be_read_and_no_more() {
    if !environment::is_set_up() {
        return;
    }
    let machine = Machine::boot_as(Kind::Uml, "bare", &["--no-agent"]);
    let listed = vmshm(["list", "--json"]).run().json();
    let entries = listed.as_array().expect("a list is an array");
    let ours = entries.iter().find(|entry| entry["pid"] == machine.pid);
    let ours = ours.expect("it is listed");
    assert_eq!(ours["agent"], serde_json::Value::Null);
    let release = machine.guest.check("uname -r");
    let system = ours["guest_os"].as_str().unwrap_or_default();
    assert!(system.contains(&release), "{release} is not in {system}");

    let name = machine.name.as_str();
    vmshm(["region", "create", &machine.path("x"), "--size", "4K"])
        .run()
        .refused(&["no vmshm-agent is running in", name])
        .hints(&["vmshm-agent run"])
        .within(SOON);
    let address = format!("{:#x}", some_ram(&machine).0);
    vmshm(["write", name, &address, "--hex", "00"])
        .run()
        .refused(&["cannot be proved", "no vmshm-agent is running"])
        .hints(&["--unverified"])
        .within(SOON);
    vmshm(["wait", name, "--agent", "--timeout", "0.5"])
        .run()
        .refused(&["no vmshm-agent is running"])
        .within(SOON);
    let read = vmshm(["read", name, &address, "64"]).run();
    assert!(read.errors.starts_with("layout: "), "{}", read.errors);
    assert_eq!(read.success().len(), 64);
    vmshm(["wait", name]).run().within(SOON);
}

#[test]
fn the_agent_refuses_who_is_not_root_and_a_second_agent() {
    if !is_root() {
        return;
    }
    let Some(machine) = fleet::borrow(Kind::Uml) else {
        return;
    };
    let guest = &machine.guest;
    for command in ["run", "status", "pipe x", "release"] {
        let nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
        let answer = guest.run(&format!("{nobody} vmshm-agent {command}"));
        assert_eq!(answer.status, 2, "{command}: {}", answer.text);
        assert!(answer.text.contains("needs root"), "{}", answer.text);
        assert!(answer.text.contains("\nhint: sudo"), "{}", answer.text);
    }
    let agent = Status::of(guest).agent_pid.expect("it runs");
    let second = guest.run("vmshm-agent run");
    assert_eq!(second.status, 2, "{}", second.text);
    let said = format!("error: already running as pid {agent}\nhint: `vmshm-agent status`");
    assert!(second.text.starts_with(&said), "{}", second.text);
    assert_eq!(Status::of(guest).agent_pid, Some(agent));
}
