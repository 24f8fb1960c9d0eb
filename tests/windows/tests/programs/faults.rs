//! What goes wrong is said in words and leaves nothing behind: memory that is smaller than it should be, processes that
//! end while they are looked at, commands that are interrupted or killed.

use rustix::process::Signal;
use vmshm_vm_tests::patience::{LATER, SOON, wait_for};
use vmshm_windows_tests::configuration::Configuration;
use vmshm_windows_tests::stand_in::{StandIn, VMWARE};
use vmshm_windows_tests::wine::Wine;

#[test]
fn a_section_smaller_than_stated_is_not_read_beyond_its_end() {
    let Some(wine) = Wine::set_up() else { return };
    let file = Configuration::write("short", 512);
    let vmm = StandIn::start(&wine, VMWARE, &["--no-agent", "--size", "64", &file.path()]);
    let beyond = wine.run(&["read", &vmm.pid, &(100 << 20).to_string(), "16"]);
    beyond.refused(&[]);
    // The command lives to tell.
    let _ = wine.run(&["inspect", &vmm.pid]);
}

#[test]
fn who_is_not_there_is_an_error() {
    let Some(wine) = Wine::set_up() else { return };
    wine.run(&["read", "999999", "0", "16"])
        .refused(&["999999"]);
    wine.run(&["inspect", "nobody-is-called-so"])
        .refused(&["nobody-is-called-so"]);
    // Wine's own processes hold sections, too, and none of them is a VM.
    let _ = wine.run(&["list", "--json"]).json();
}

#[test]
fn a_vm_that_ends_under_a_pipe_ends_the_pipe() {
    let Some(wine) = Wine::set_up() else { return };
    let file = Configuration::write("ends", 256);
    let mut vmm = StandIn::start(&wine, VMWARE, &[&file.path()]);
    vmm.tell("pipe p send 1000000000000");
    let mut pipe = wine.vmshm(["pipe", &format!("{}/p", vmm.pid)]).start();
    let mut output = pipe.stdout.take().expect("it is piped");
    std::io::Read::read_exact(&mut output, &mut [0; 4096]).expect("it runs");
    let reader = std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    drop(vmm);
    let outcome = pipe.wait(LATER);
    let _ = reader.join().expect("it does not panic");
    assert_eq!(outcome.code, Some(2), "{}", outcome.errors);
    assert!(outcome.errors.contains("error: "), "{}", outcome.errors);
}

#[test]
fn vms_that_come_and_go_while_they_are_listed_harm_nobody() {
    let Some(wine) = Wine::set_up() else { return };
    let file = Configuration::write("stays", 64);
    let stays = StandIn::start(&wine, VMWARE, &["--size", "64", &file.path()]);
    for _ in 0..3 {
        let goes = StandIn::start(&wine, VMWARE, &["--size", "64", "--handles", "2000"]);
        let listing = wine.vmshm(["list", "--json"]).start();
        drop(goes);
        let outcome = listing.wait(LATER);
        let listed = outcome.json();
        let listed = listed.as_array().expect("an array");
        assert!(listed.iter().any(|entry| entry["pid"] == stays.number));
    }
}

#[test]
fn an_interrupted_pipe_says_so_and_leaves_no_session() {
    let Some(wine) = Wine::set_up() else { return };
    let file = Configuration::write("interrupted", 256);
    let mut vmm = StandIn::start(&wine, VMWARE, &[&file.path()]);
    let pipe = wine.vmshm(["pipe", &format!("{}/p", vmm.pid)]).start();
    wait_for("a session", SOON, || {
        vmm.tell("state").starts_with("slots=1")
    });
    // Wine makes Ctrl-C of it.
    pipe.signal(Signal::INT);
    let outcome = pipe.wait(SOON);
    assert_ne!(outcome.code, Some(0), "{}", outcome.errors);
    wait_for("the end of the session", LATER, || {
        vmm.tell("state").starts_with("slots=0")
    });
}

#[test]
fn a_killed_pipe_leaves_a_session_that_the_next_command_frees() {
    let Some(wine) = Wine::set_up() else { return };
    let file = Configuration::write("killed", 256);
    let mut vmm = StandIn::start(&wine, VMWARE, &[&file.path()]);
    let pipe = wine.vmshm(["pipe", &format!("{}/p", vmm.pid)]).start();
    wait_for("a session", SOON, || {
        vmm.tell("state").starts_with("slots=1")
    });
    drop(pipe);
    wait_for("a free slot", LATER, || {
        let _ = wine.run(&["region", "list", &vmm.pid, "--json"]).json();
        vmm.tell("state").starts_with("slots=0")
    });
}

#[test]
fn doctor_tells_what_can_be_attached() {
    let Some(wine) = Wine::set_up() else { return };
    let file = Configuration::write("doctor", 128);
    let vmm = StandIn::start(&wine, VMWARE, &["--size", "128", &file.path()]);
    let said = wine.run(&["doctor"]).text().to_lowercase();
    assert!(said.contains("privilege"), "{said}");
    let said = wine.run(&["doctor", &vmm.pid]).text();
    assert!(said.contains("map"), "{said}");
}

#[test]
fn what_windows_cannot_do_says_so() {
    let Some(wine) = Wine::set_up() else { return };
    let file = Configuration::write("cannot", 64);
    let vmm = StandIn::start(&wine, VMWARE, &["--size", "64", &file.path()]);
    let refused = wine.run(&["read", &vmm.pid, "0", "16", "--method", "graft"]);
    refused.refused(&[]);
    let refused = wine.run(&["listen", "127.0.0.1:0"]);
    assert_eq!(refused.code, Some(2), "{}", refused.errors);
}
