//! Meeting without a scan: by the address alone, and by TCP alone.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use rustix::process::Signal;
use serde_json::Value;
use vmshm_link::GuestPhysical;
use vmshm_link::fields::Text;
use vmshm_link::rendezvous::message::{
    Announce, GREETING_BYTES, Inbox, Incoming, Message, greeting,
};
use vmshm_vm_tests::agent;
use vmshm_vm_tests::bytes::RandomBytes;
use vmshm_vm_tests::environment;
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::guest_pipe::GuestPipe;
use vmshm_vm_tests::listener::{Listener, connect_agent, connection_of};
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::{LATER, SOON, wait_for};
use vmshm_vm_tests::program::{Outcome, vmshm};
use vmshm_vm_tests::status::Status;

/// What `--verbose` says before each scan.
const SCANNING: &str = "scanning guest RAM";

/// Runs a command with scanning off, and checks that it kept to that.
#[track_caller]
fn without_scan(words: &[&str], more: &[&str]) -> Outcome {
    let outcome = vmshm(words.iter().chain(more)).input(Vec::new()).run();
    assert!(!outcome.errors.contains(SCANNING), "{}", outcome.errors);
    outcome
}

/// Makes a region with scanning off, writes it on the host and reads it in the guest.
#[track_caller]
fn share_bytes(machine: &Machine, place: &[&str]) {
    let name = "met";
    let path = machine.path(name);
    let more = [place, &["--no-scan", "--verbose"]].concat();
    without_scan(&["region", "create", &path, "--size", "192K"], &more).success();
    let hex = format!("{:016x}", RandomBytes::fresh_seed());
    let write = ["region", "write", &path, "0x10ff8", "--hex", &hex];
    without_scan(&write, &more).success();
    let status = Status::of(&machine.guest);
    let file = &status.region(name).memory.memory;
    let dump = format!("dd if={file} bs=8 skip=8703 count=1 2>/dev/null | od -An -v -tx1");
    let there = machine.guest.check(&dump).replace([' ', '\n'], "");
    assert_eq!(there, hex, "{} has the bytes", machine.name);
    let read = without_scan(&["region", "read", &path, "0x10ff8", "8"], &more).success();
    let read: String = read.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(read, hex);
    let listed = without_scan(
        &["region", "list", &path[..path.len() - 4], "--json"],
        &more,
    );
    assert_eq!(listed.json()[0]["name"], name);
    without_scan(&["region", "remove", &path], &more).success();
}

/// The address as people see it in `vmshm-agent status`.
fn beacon_of(machine: &Machine) -> String {
    let status = machine.guest.check("vmshm-agent status");
    let line = status.lines().find_map(|line| line.strip_prefix("beacon "));
    line.unwrap_or_else(|| panic!("no beacon in {status}"))
        .trim()
        .to_owned()
}

fn everything_works_by_address_alone(kind: Kind) {
    let Some(machine) = fleet::borrow(kind) else {
        return;
    };
    let address = beacon_of(&machine);
    let place = ["--beacon", &address];
    let more = ["--beacon", &address, "--no-scan", "--verbose"];
    share_bytes(&machine, &place);
    let name = machine.name.as_str();
    let seen = without_scan(&["wait", name, "--agent", "--timeout", "20"], &more);
    assert!(
        seen.errors.contains("looking for the beacon there only"),
        "{}",
        seen.errors
    );
    seen.success();
    // The brand itself, found without a search.
    let brand = without_scan(&["read", name, &address, "12"], &more).success();
    assert_eq!(brand, b"vmshm beacon");
    let guest = GuestPipe::echo(&machine.guest, "by-address");
    let bytes = RandomBytes::new(7).take(1 << 20);
    let path = machine.path("by-address");
    let words = ["pipe", &path].into_iter().chain(more);
    let pipe = vmshm(words).input(bytes.clone()).run();
    assert!(!pipe.errors.contains(SCANNING), "{}", pipe.errors);
    assert!(pipe.success() == bytes, "the bytes come back");
    assert_eq!(guest.wait(SOON).status, 0);
    // The same log does tell of a scan where there is one.
    let scan = vmshm(["region", "list", name, "--verbose"]).run();
    assert!(scan.errors.contains(SCANNING), "{}", scan.errors);
}

#[test]
fn user_mode_linux_is_met_by_address_alone() {
    everything_works_by_address_alone(Kind::Uml);
}

#[test]
fn private_ram_is_met_by_address_alone() {
    everything_works_by_address_alone(Kind::QemuPrivate(2));
}

#[test]
fn shared_ram_is_met_by_address_alone() {
    everything_works_by_address_alone(Kind::QemuMemfd(1));
}

#[test]
fn a_beacon_above_4_gib_is_met_by_address_alone() {
    everything_works_by_address_alone(Kind::QemuHigh);
    if let Some(machine) = fleet::borrow(Kind::QemuHigh) {
        let beacon = Status::of(&machine.guest).beacon;
        assert!(
            beacon >= 1 << 32,
            "{beacon:#x} proves nothing about the hole"
        );
        // It is not needed any more, and large.
        machine.kill();
    }
}

#[test]
fn a_measurement_does_not_scan_either() {
    let Some(machine) = fleet::borrow(Kind::Uml) else {
        return;
    };
    let address = beacon_of(&machine);
    let more = ["--beacon", &address, "--no-scan", "--verbose"];
    let bench = ["bench", &machine.name, "--json", "--rounds", "500"];
    let report = without_scan(&bench, &more).json();
    assert_eq!(report["find_beacon_ms"], Value::Null, "{report}");
}

#[test]
fn wrong_addresses_are_refused_at_once() {
    for kind in [Kind::Uml, Kind::QemuPrivate(2)] {
        let Some(machine) = fleet::borrow(kind) else {
            return;
        };
        let right = Status::of(&machine.guest).beacon;
        let path = machine.path("nowhere");
        let wrong = [
            0,
            right + 0x1000,
            right + 8,
            right ^ (1 << 21),
            kind.ram_bytes() + (1 << 30),
            u64::MAX,
            u64::MAX - 0xfff,
        ];
        for address in wrong {
            let address = format!("{address:#x}");
            for words in [
                vec!["region", "create", &path, "--size", "64K"],
                vec!["region", "list", &machine.name],
                vec!["read", &machine.name, "0x1000", "16"],
            ] {
                let more = ["--no-scan", "--beacon", &address, "--verbose"];
                without_scan(&words, &more)
                    .refused(&["no beacon at", &address, &machine.name])
                    .hints(&["vmshm-agent status"])
                    .within(SOON);
            }
        }
    }
}

#[test]
fn without_scan_address_or_listener_it_is_said_what_is_missing() {
    let Some(machine) = fleet::borrow(Kind::Uml) else {
        return;
    };
    let path = machine.path("nowhere");
    let create = ["region", "create", &path, "--size", "64K"];
    without_scan(&create, &["--no-scan", "--verbose"])
        .refused(&["not known", "scanning is off", &machine.name])
        .hints(&["--beacon", "vmshm listen"])
        .within(SOON);
    // Listing goes on with what can be had.
    let listed = without_scan(&["list", "--json"], &["--no-scan", "--verbose"]).json();
    let listed = listed.as_array().expect("an array");
    let ours = listed.iter().find(|entry| entry["pid"] == machine.pid);
    let ours = ours.expect("the VM itself is found without a scan");
    assert_eq!(ours["agent"], Value::Null);
    // Reading needs no agent.
    let address = beacon_of(&machine);
    let read = ["read", &machine.name, &address, "12"];
    let bytes = without_scan(&read, &["--no-scan", "--verbose"]).success();
    assert_eq!(bytes, b"vmshm beacon");
}

/// The line of a machine among those that the listener printed last.
#[track_caller]
fn assert_tied(machine: &Machine, lines: &[Value]) {
    let line = lines
        .iter()
        .find(|line| line["name"] == machine.name.as_str());
    let line = line.unwrap_or_else(|| panic!("{} is not in {lines:?}", machine.name));
    assert_eq!(line["pid"], machine.pid, "{line}");
    assert_eq!(line["vmm"], machine.kind.vmm(), "{line}");
    assert_eq!(line["beacon"], Status::of(&machine.guest).beacon, "{line}");
    assert_eq!(line["guest_name"], machine.guest.check("uname -n").as_str());
    let peer = line["peer"].as_str().unwrap_or_default();
    assert!(peer.starts_with("127.0.0.1:"), "{line}");
}

#[test]
fn by_tcp_alone_each_channel_is_tied_to_its_own_vm_and_a_stranger_gets_nothing() {
    if !environment::is_set_up() {
        return;
    }
    let uml = Machine::boot_as(Kind::Uml, "uml-net", &["--network"]);
    let qemu = Machine::boot_as(Kind::QemuPrivate(2), "qemu-net", &["--network"]);
    let listener = Listener::start(0);
    let port = listener.port;
    for machine in [&uml, &qemu] {
        connect_agent(machine, port);
    }
    let lines = listener.wait_for_tied(2);
    assert_eq!(lines.len(), 2);
    for machine in [&uml, &qemu] {
        assert_tied(machine, &lines);
        wait_for("tie in the guest's eyes", SOON, || {
            connection_of(machine)["state"] == "tied"
        });
        let status = machine.guest.check("vmshm-agent status");
        assert!(status.contains("tied to this guest's host"), "{status}");
        share_bytes(machine, &[]);
    }
    let listed = without_scan(&["list", "--json"], &["--no-scan", "--verbose"]).json();
    for machine in [&uml, &qemu] {
        let entries = listed.as_array().expect("an array");
        let entry = entries.iter().find(|entry| entry["pid"] == machine.pid);
        assert_eq!(entry.expect("listed")["agent"]["state"], "seen");
    }
    a_stranger_gets_nothing(&listener, &qemu);
    survive_the_listener(listener, &uml, &qemu);
}

/// Connects as a stranger that even knows all that a VM's agent would say.
fn a_stranger_gets_nothing(listener: &Listener, victim: &Machine) {
    let connect = || {
        let socket = TcpStream::connect(("127.0.0.1", listener.port)).expect("connects");
        socket.set_read_timeout(Some(LATER)).expect("set");
        socket
    };
    let mut rude = connect();
    rude.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    assert_eq!(everything(rude).len(), GREETING_BYTES);
    listener.wait_for_words("it does not speak vmshm's protocol");

    let status: Value =
        serde_json::from_str(&victim.guest.check("vmshm-agent status --json")).expect("JSON");
    let number = |name: &str| {
        let text = status[name]
            .as_str()
            .expect("text")
            .trim_start_matches("0x");
        u128::from_str_radix(&text.replace('-', ""), 16).expect("a number")
    };
    let true_words = Announce {
        beacon: GuestPhysical(status["beacon"].as_u64().expect("a number")),
        epoch: u64::try_from(number("epoch")).expect("64 bits"),
        boot_id: number("boot_id").to_be_bytes(),
        version: Text::new("0.1.0"),
        name: Text::new(&victim.name),
    };
    let guess = Announce {
        epoch: true_words.epoch ^ 1,
        ..true_words
    };
    for (announce, words) in [
        (guess, "no VM of this host has that beacon"),
        (true_words, "the nonce did not appear in the memory of"),
    ] {
        let mut liar = connect();
        let mut said = greeting().to_vec();
        for message in [Message::Announce(announce), Message::Shown] {
            said.extend(message.encode().as_bytes());
        }
        liar.write_all(&said).expect("sent");
        let heard = everything(liar);
        let mut inbox = Inbox::default();
        inbox.space()[..heard.len()].copy_from_slice(&heard);
        inbox.filled(heard.len());
        assert!(matches!(inbox.take(), Ok(Some(Incoming::Greeting(_)))));
        // At most random bytes, and no countersign.
        while let Some(incoming) = inbox.take().expect("right messages") {
            assert!(matches!(incoming, Incoming::Message(Message::Challenge(_))));
            assert_eq!(announce, true_words, "a guess is not even challenged");
        }
        listener.wait_for_words(words);
    }
    assert_eq!(listener.tied().len(), 2, "nobody else was tied");
    assert!(!listener.said().contains("has left"), "{}", listener.said());
}

fn everything(mut socket: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match socket.read_to_end(&mut bytes) {
        Ok(_) => {}
        // What was not read on the other side is answered so.
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
    bytes
}

/// Agents come back to a listener that comes back, and leave it in their own time.
fn survive_the_listener(listener: Listener, uml: &Machine, qemu: &Machine) {
    let port = listener.port;
    let outcome = listener.end(Signal::TERM);
    assert_eq!(outcome.code, Some(0), "{}", outcome.errors);
    for machine in [uml, qemu] {
        wait_for("notice of the end", LATER, || {
            connection_of(machine)["state"] != "tied"
        });
        let path = machine.path("met");
        let create = ["region", "create", &path, "--size", "64K"];
        without_scan(&create, &["--no-scan", "--verbose"]).refused(&["not known"]);
        // Serving does not depend on the connection.
        vmshm(["region", "list", &machine.name]).run().success();
    }
    let listener = Listener::start(port);
    let lines = listener.wait_for_tied(2);
    for machine in [uml, qemu] {
        assert_tied(machine, &lines);
        share_bytes(machine, &[]);
        // However often it tried meanwhile, it said so once, and each tie once.
        let log = machine.guest.check("cat agent.log");
        let said = |words: &str| log.lines().filter(|line| line.contains(words)).count();
        assert!(said("refused") <= 1, "{log}");
        assert_eq!(said("tied to this guest's host"), 2, "{log}");
    }
    agent::stop(&uml.guest);
    listener.wait_for_words(&format!("{} (process {})", uml.name, uml.pid));
    let path = uml.path("met");
    let create = ["region", "create", &path, "--size", "64K"];
    without_scan(&create, &["--no-scan", "--verbose"]).refused(&["not known"]);
    qemu.kill();
    listener.wait_for_words(&format!("{} (process {})", qemu.name, qemu.pid));
    let outcome = listener.end(Signal::INT);
    assert_eq!(outcome.code, Some(0), "{}", outcome.errors);
}
