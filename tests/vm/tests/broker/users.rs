//! A VM of one user, and programs of another one: links, pipes and screens work as if it had attached, and a third user
//! is refused. Each says what the user has to know.

use vmshm_vm_tests::environment::{self, guest_example, report};
use vmshm_vm_tests::example::outcome_in_guest;
use vmshm_vm_tests::guest_pipe::GuestPipe;
use vmshm_vm_tests::patience::LATER;
use vmshm_vm_tests::png_file::Picture;
use vmshm_vm_tests::program::Program;

use super::brokers::{self, Broker, FRIEND, STRANGER};

#[test]
fn another_users_programs_work_through_the_broker_and_a_third_users_are_refused() {
    let Some(machine) = brokers::machine("users") else {
        return;
    };
    let mut broker = Broker::start(&machine, r#""ring_pair", "shared*", "files""#);
    let name = machine.name.as_str();

    // What is there, as the broker would give it.
    let listed = broker.vmshm(FRIEND, &["list", "--json"]).run().json();
    let ours = listed
        .as_array()
        .and_then(|list| list.iter().find(|one| one["name"] == name))
        .unwrap_or_else(|| panic!("{listed}"));
    assert_eq!(ours["agent"]["state"], "seen", "{ours}");
    assert_eq!(ours["access"], "broker", "{ours}");

    broker
        .vmshm(FRIEND, &["wait", name, "--agent", "--timeout", "60"])
        .run_within(LATER)
        .success();
    let waited = ["wait", name, "--agent", "--timeout", "1"];
    let stranger = broker.vmshm(STRANGER, &waited).run_within(LATER);
    stranger.refused(&["nothing"]);
    let told = broker.vmshm(FRIEND, &["doctor", name]).run().text();
    assert!(told.contains("broker: yes"), "{told}");

    // A region that it makes, writes and reads.
    let region = machine.path("shared");
    broker
        .vmshm(FRIEND, &["region", "create", &region, "--size", "64K"])
        .run()
        .success();
    let write = ["region", "write", &region, "0x1000", "--hex", "c0ffee"];
    broker.vmshm(FRIEND, &write).run().success();
    let read = broker.vmshm(FRIEND, &["region", "read", &region, "0x1000", "3"]);
    assert_eq!(read.run().success(), [0xc0, 0xff, 0xee]);
    // The guest sees the same.
    let inside = machine.guest.check("vmshm-agent status --json");
    assert!(inside.contains("\"shared\""), "{inside}");
    let regions = broker.vmshm(FRIEND, &["region", "list", name, "--json"]);
    let regions = regions.run().json();
    assert_eq!(regions.as_array().map(Vec::len), Some(1), "{regions}");

    // A ring.
    for options in [
        &["--count", "100000"][..],
        &["--count", "100000", "--batch", "64"],
    ] {
        let inside = machine.guest.start(&format!(
            "{} guest --timeout 60 {}",
            guest_example("ring_pair"),
            options.join(" ")
        ));
        let outside = broker.program(FRIEND, &environment::example("ring_pair"));
        let outside = ["host", name, "--timeout", "60"]
            .iter()
            .chain(options)
            .fold(outside, Program::argument)
            .run_within(LATER)
            .success();
        outcome_in_guest(inside, "ring_pair");
        let said = String::from_utf8_lossy(&outside).trim().to_owned();
        report(&format_args!("through the broker: {said}"));
    }

    // A pipe.
    let contents = vmshm_vm_tests::bytes::RandomBytes::new(7).take(8 << 20);
    let inside = GuestPipe::echo(&machine.guest, "files");
    let pipe = broker.vmshm(FRIEND, &["pipe", &machine.path("files")]);
    let back = pipe.input(contents.clone()).run_within(LATER).success();
    assert!(back == contents, "the bytes have changed on their way");
    assert_eq!(inside.wait(LATER).status, 0);

    // A screen: one picture, and a stream of frames whose every pixel is checked.
    let picture = broker.open_directory().join("card.png");
    let path = picture.to_str().expect("plain text");
    let card = ["display", name, "--screen", "test-card", "--timeout", "60"];
    let display = |more: &[&str]| {
        let program = broker.vmshm(FRIEND, &card);
        more.iter().fold(program, Program::argument)
    };
    display(&["--screenshot", path]).run_within(LATER).success();
    let picture = Picture::read(&picture);
    report(&format_args!(
        "the test card's picture: {} x {}",
        picture.width, picture.height
    ));
    let stats = display(&["--nowhere", "2", "--verify"])
        .run_within(LATER)
        .json();
    assert_eq!(stats["wrong"], 0, "{stats}");
    assert!(
        stats["frames"].as_u64().is_some_and(|frames| frames > 0),
        "{stats}"
    );
    report(&format_args!("frames through the broker: {stats}"));

    // What no rule allows.
    for arguments in [
        &["region", "read", &machine.path("secret"), "0", "16"][..],
        &["region", "create", &machine.path("mine"), "--size", "4K"],
        &["pipe", &machine.path("other")],
    ] {
        let refused = broker.vmshm(FRIEND, arguments).run_within(LATER);
        refused.refused(&["may not use region"]);
    }
    for arguments in [
        &["region", "list", name][..],
        &["region", "read", &region, "0", "16"],
        &["pipe", &machine.path("files")],
        &["display", name, "--list"],
    ] {
        let refused = broker.vmshm(STRANGER, arguments).run_within(LATER);
        refused.refused(&["user 12003 may use nothing"]);
    }

    broker
        .vmshm(FRIEND, &["region", "remove", &region])
        .run()
        .success();
    broker.end();
    assert_eq!(brokers::grafts(machine.pid), [] as [String; 0]);
    let left = vmshm_vm_tests::program::vmshm(["region", "list", name, "--json"]).run();
    assert_eq!(left.json(), serde_json::json!([]), "regions are left");
}

#[test]
fn without_a_broker_the_user_is_told_whose_the_vm_is_and_what_helps() {
    let Some(machine) = brokers::machine("alone") else {
        return;
    };
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid=12002", "--regid=12002", "--clear-groups"]);
    command
        .arg(environment::program("vmshm"))
        .args(["pipe", &machine.path("x")]);
    let refused = Program::new(command).run();
    let words = format!(
        "QEMU {} belongs to uid 12001; you are uid 12002",
        machine.pid
    );
    refused
        .refused(&[&words])
        .hints(&["sudo systemctl start vmshm-broker"]);
}
