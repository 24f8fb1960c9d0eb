//! The doorbell: sleepers of either side are woken over TCP and over a serial line, and both sides of a line may be
//! restarted.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustix::pty::OpenptFlags;
use vmshm_host::Vm;
use vmshm_vm_tests::agent;
use vmshm_vm_tests::environment::{self, guest_program, report};
use vmshm_vm_tests::listener::{Listener, connect_agent, connect_agent_to, connection_of};
use vmshm_vm_tests::machine::{FILE, Kind, Machine};
use vmshm_vm_tests::patience::{LATER, SOON, wait_for};
use vmshm_vm_tests::program::vmshm;

/// How long this side sleeps where nothing wakes it: a bell that was missed shows.
const SLEEP: Duration = Duration::from_secs(20);
/// Messages each way.
const MESSAGES: u64 = 200;

/// Sends numbers to a guest's program that sleeps and get them back in one's own sleep.
fn sleepers_are_woken(machine: &Machine, way: &str) {
    let vm = Vm::connect(&machine.name).unwrap_or_else(|error| panic!("{error}"));
    let peer = machine.guest.start(&format!(
        "{} guest bells sleepy",
        guest_program("link-peer")
    ));
    let options = vm.region("bells").size(1 << 16).timeout(LATER);
    let options = options.longest_sleep(SLEEP).spins(0);
    let mut ring = options.ring::<u64>().expect("the guest is there");
    let mut times = Vec::new();
    let mut missed = 0;
    for number in 0..MESSAGES {
        // Meanwhile the guest's program falls asleep.
        std::thread::sleep(Duration::from_millis(20));
        let start = Instant::now();
        ring.send(&number).expect("the ring lives");
        let back = ring.receive_timeout(LATER).expect("it is echoed");
        assert_eq!(back, number);
        times.push(start.elapsed());
        missed += u32::from(start.elapsed() > SLEEP / 2);
        // Neither side's look is ordered against its last store: a bell may be missed.
        assert!(missed < 3, "nobody is woken: {times:?}");
    }
    ring.send(&u64::MAX).expect("the ring lives");
    assert_eq!(peer.wait(SOON).status, 0);
    times.sort_unstable();
    report(&format_args!(
        "{}: both ends asleep, woken over {way}: there and back {:?} (median), {:?} (worst of {MESSAGES})",
        machine.kind.vmm(),
        times[times.len() / 2],
        times[times.len() - 1],
    ));
    drop(ring);
    vm.remove("bells").expect("it is there");
}

#[test]
fn sleepers_in_user_mode_linux_and_on_the_host_are_woken_over_tcp() {
    over_tcp(Kind::Uml);
}

#[test]
#[ignore = "long: boots another machine"]
fn sleepers_in_qemu_and_on_the_host_are_woken_over_tcp() {
    over_tcp(Kind::QemuMemfd(2));
}

fn over_tcp(kind: Kind) {
    if !environment::is_set_up() {
        return;
    }
    let machine = Machine::boot_as(kind, "bells-net", &["--network"]);
    let listener = Listener::start(0);
    connect_agent(&machine, listener.port);
    let _ = listener.wait_for_tied(1);
    sleepers_are_woken(&machine, "TCP");
    assert_eq!(listener.end(Signal::TERM).code, Some(0));
}

/// Ties over a line, before and after each side was killed and started again.
fn over_a_line(machine: &Machine, host: &str, guest: &str) {
    let listener = Listener::start_at(&[host]);
    connect_agent_to(machine, guest);
    let lines = listener.wait_for_tied(1);
    assert_eq!(lines[0]["pid"], machine.pid, "{lines:?}");
    assert_eq!(lines[0]["peer"], host, "{lines:?}");
    wait_for("tie in the guest's eyes", SOON, || {
        connection_of(machine)["state"] == "tied"
    });
    let without_scan = ["--no-scan", "--verbose"];
    let list = ["region", "list", &machine.name];
    vmshm(list.iter().chain(&without_scan)).run().success();
    sleepers_are_woken(machine, "a serial line");

    agent::kill(&machine.guest);
    agent::start_with(&machine.guest, &format!("--connect {guest}"));
    let _ = listener.wait_for_tied(2);
    assert!(listener.said().contains("has left"), "{}", listener.said());

    let outcome = listener.end(Signal::KILL);
    assert_eq!(outcome.code, None, "{}", outcome.errors);
    let listener = Listener::start_at(&[host]);
    let _ = listener.wait_for_tied(1);
    agent::stop(&machine.guest);
    listener.wait_for_words("has left");
    agent::start_with(&machine.guest, &format!("--connect {guest}"));
    let _ = listener.wait_for_tied(2);
    assert_eq!(listener.end(Signal::TERM).code, Some(0));
    wait_for("notice of the end", LATER, || {
        connection_of(machine)["state"] != "tied"
    });
}

/// A terminal: the end that a VMM gets, and the path of the one that a listener opens.
fn terminal() -> (OwnedFd, String) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let end = rustix::pty::openpt(flags).expect("a terminal");
    rustix::pty::grantpt(&end).expect("granted");
    rustix::pty::unlockpt(&end).expect("unlocked");
    let name = rustix::pty::ptsname(&end, Vec::new()).expect("named");
    (end, name.to_str().expect("text").to_owned())
}

#[test]
fn user_mode_linux_is_tied_and_rung_over_a_terminal_line() {
    if !environment::is_set_up() {
        return;
    }
    let (end, path) = terminal();
    // As long as somebody has it open, the line does not hang up between two listeners.
    let _kept = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .expect("opens");
    let arguments = [format!("ssl2=fd:{FILE}")];
    let file = Some(end.as_fd());
    let machine = Machine::boot_with(Kind::Uml, "uml-line", &[], &arguments, file);
    over_a_line(&machine, &format!("serial:{path}"), "serial:/dev/ttyS2");
}

#[test]
#[ignore = "long: boots another machine"]
fn qemu_is_tied_and_rung_over_a_port_that_it_offers_as_a_socket() {
    if !environment::is_set_up() {
        return;
    }
    let space = tempfile::tempdir().expect("there is room");
    let socket = space.path().join("line");
    let arguments = [
        "-chardev".to_owned(),
        format!(
            "socket,id=bells,path={},server=on,wait=off",
            socket.display()
        ),
        "-device".to_owned(),
        "virtserialport,chardev=bells,name=vmshm".to_owned(),
    ];
    let kind = Kind::QemuMemfd(1);
    let machine = Machine::boot_with(kind, "memfd-line", &[], &arguments, None);
    let find = "for port in /sys/class/virtio-ports/*; do \
                [ \"$(cat $port/name)\" != vmshm ] || echo /dev/${port##*/}; done";
    let device = machine.guest.check(find);
    let host = format!("serial:{}", socket.display());
    over_a_line(&machine, &host, &format!("serial:{device}"));
}
