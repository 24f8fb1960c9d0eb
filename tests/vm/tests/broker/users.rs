//! A VM of one user, and programs of another one: links, pipes and screens work as if it had attached, and a third user
//! is refused. Each says what the user has to know.

use vmshm_vm_tests::environment::{self, guest_example, report};
use vmshm_vm_tests::guest_pipe::GuestPipe;
use vmshm_vm_tests::lines::Lines;
use vmshm_vm_tests::patience::{LATER, SOON, wait_for, wait_until};
use vmshm_vm_tests::png_file::Picture;
use vmshm_vm_tests::program::{Program, Running};

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
    // A heart that a busy machine lets stand still for a moment beats again.
    let tells = |command: &str, words: &[&str]| {
        wait_for("what the broker sees", SOON, || {
            let told = broker.vmshm(FRIEND, &[command, name]).run().text();
            words.iter().all(|word| told.contains(word))
        });
    };
    tells("doctor", &["broker: yes", "agent: running"]);
    tells("inspect", &["seen, version"]);
    // Whoever watches sees by the broker's eyes, and a user without rules sees that a VM is there.
    let (_watching, watch) = watch(&broker, FRIEND);
    let (_stranger, stranger) = self::watch(&broker, STRANGER);
    let appeared = |line: &str| line.contains("appeared") && line.contains(name);
    let line = |text: &str| text.lines().find(|line| appeared(line)).map(str::to_owned);
    wait_for("a VM that the broker sees", SOON, || {
        let told = watch.so_far();
        told.contains("access broker") && told.contains("agent seen")
    });
    let said = wait_until("a VM that appears", SOON, || line(&stranger.so_far()));
    for word in ["access none", "guest unknown", "no agent"] {
        assert!(said.contains(word), "{said}");
    }

    // A region that it makes, writes and reads.
    let region = machine.path("shared");
    broker
        .vmshm(FRIEND, &["region", "create", &region, "--size", "64K"])
        .run()
        .success();
    let write = ["region", "write", &region, "0x1000", "--hex", "c0ffee"];
    broker.vmshm(FRIEND, &write).run().success();
    wait_for("a region that is told", SOON, || {
        watch.so_far().contains("regions: shared")
    });
    assert!(!stranger.so_far().contains("shared"));
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
        let outside = brokers::patiently(|| {
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
                .run_within(LATER);
            let inside = inside.wait(LATER);
            assert!(
                outside.code != Some(0) || inside.status == 0,
                "in the guest: {}{}",
                inside.output,
                inside.errors
            );
            outside
        });
        let outside = outside.success();
        let said = String::from_utf8_lossy(&outside).trim().to_owned();
        report(&format_args!("through the broker: {said}"));
    }

    // A pipe.
    let contents = vmshm_vm_tests::bytes::RandomBytes::new(7).take(8 << 20);
    let pipe = brokers::patiently(|| {
        let inside = GuestPipe::echo(&machine.guest, "files");
        let pipe = broker.vmshm(FRIEND, &["pipe", &machine.path("files")]);
        let pipe = pipe.input(contents.clone()).run_within(LATER);
        let inside = inside.wait(LATER);
        assert!(
            pipe.code != Some(0) || inside.status == 0,
            "in the guest: {}",
            inside.errors
        );
        pipe
    });
    assert!(
        pipe.success() == contents,
        "the bytes have changed on their way"
    );

    // A screen: one picture, and a stream of frames whose every pixel is checked.
    let picture = broker.open_directory().join("card.png");
    let path = picture.to_str().expect("plain text");
    let card = ["display", name, "--screen", "test-card", "--timeout", "60"];
    let display = |more: &[&str]| {
        brokers::patiently(|| {
            let program = broker.vmshm(FRIEND, &card);
            more.iter()
                .fold(program, Program::argument)
                .run_within(LATER)
        })
    };
    display(&["--screenshot", path]).success();
    let picture = Picture::read(&picture);
    report(&format_args!(
        "the test card's picture: {} x {}",
        picture.width, picture.height
    ));
    let stats = display(&["--nowhere", "2", "--verify"]).json();
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
    wait_for("a VM that no broker shows any more", SOON, || {
        watch.so_far().contains("access none")
    });
    assert_eq!(brokers::grafts(machine.pid), [] as [String; 0]);
    let left = vmshm_vm_tests::program::vmshm(["region", "list", name, "--json"]).run();
    assert_eq!(left.json(), serde_json::json!([]), "regions are left");
}

/// `vmshm list --watch` of a user, and what it has told.
fn watch(broker: &Broker, user: u32) -> (Running, Lines) {
    let mut running = broker.vmshm(user, &["list", "--watch"]).start();
    let lines = Lines::collect(running.stdout.take().expect("it is piped"));
    (running, lines)
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
