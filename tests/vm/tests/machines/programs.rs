//! Programs of the guest without any privilege: what the rules give one user, another does not get, and nothing that a
//! client does to the agent's socket keeps others from theirs.

use vmshm_vm_tests::agent;
use vmshm_vm_tests::environment::{self, guest_example, guest_program, report};
use vmshm_vm_tests::example::{on_host, outcome_in_guest};
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::LATER;

/// What the rules of these tests give to whom.
const RULES: &str = r#"
[[allow]]
uid = 1000
regions = ["numbers", "team-*"]
make = true
max_size = "4M"

[[allow]]
gid = 2000
regions = ["numbers"]
"#;

/// A guest whose agent goes by the rules.
fn machine_with_rules(label: &str) -> Option<Machine> {
    if !environment::is_set_up() {
        return None;
    }
    let machine = Machine::boot_as(Kind::Uml, label, &["--no-agent"]);
    let guest = &machine.guest;
    guest.check(&format!("cat >rules.toml <<'END'{RULES}END"));
    guest.check("chmod 755 .");
    agent::start_with(guest, "--rules rules.toml");
    Some(machine)
}

fn as_user(uid: u32, gid: u32, command: &str) -> String {
    format!("setpriv --reuid={uid} --regid={gid} --clear-groups {command}")
}

#[test]
fn a_user_exchanges_a_million_records_and_another_is_refused() {
    let Some(machine) = machine_with_rules("rules") else {
        return;
    };
    let guest = &machine.guest;
    let ring_pair = format!("{} guest --timeout 60 --name", guest_example("ring_pair"));
    let million = ["--count", "1000000", "--batch", "256", "--name", "numbers"];

    let inside = guest.start(&as_user(
        1000,
        1000,
        &format!("{ring_pair} numbers --count 1000000 --batch 256"),
    ));
    let outside = on_host("ring_pair", &machine.name, &million).run_within(LATER);
    let said = String::from_utf8_lossy(&outside.success())
        .trim()
        .to_owned();
    outcome_in_guest(inside, "ring_pair");
    report(&format_args!("an unprivileged user of the guest: {said}"));

    for (uid, gid, region) in [
        (1001, 1001, "numbers"),
        (1001, 1001, "team-numbers"),
        (1000, 1000, "other"),
    ] {
        let command = as_user(uid, gid, &format!("{ring_pair} {region} --count 10"));
        let refused = guest.run(&command);
        assert_eq!(refused.status, 2, "{}", refused.text);
        for part in ["error: ", &uid.to_string(), region, "hint: ", "rules.toml"] {
            assert!(refused.text.contains(part), "{part} in {}", refused.text);
        }
    }
    // The group may use what is there, and make nothing.
    let command = as_user(1002, 2000, &format!("{ring_pair} numbers --count 10"));
    let refused = guest.run(&command);
    assert_eq!(refused.status, 2, "{}", refused.text);
    // The memory itself is no way around the rules.
    let stolen = guest.run(&as_user(1001, 1001, "ls /run/vmshm"));
    assert_ne!(stolen.status, 0, "{}", stolen.text);
}

#[test]
fn clients_that_misbehave_keep_nobody_from_theirs() {
    let Some(machine) = machine_with_rules("clients") else {
        return;
    };
    let guest = &machine.guest;
    let attack = guest_program("attack-socket");
    for way in ["garbage", "connections", "unread", "wishes"] {
        let said = guest.check(&as_user(1001, 1001, &format!("{attack} {way}")));
        report(&format_args!("{way}: {said}"));
    }
    let flood = guest.start(&as_user(1001, 1001, &format!("{attack} connections hold")));
    let command = format!(
        "{} guest --timeout 60 --name numbers --count 1000",
        guest_example("ring_pair")
    );
    let inside = guest.start(&as_user(1000, 1000, &command));
    let options = ["--count", "1000", "--name", "numbers"];
    on_host("ring_pair", &machine.name, &options)
        .run_within(LATER)
        .success();
    outcome_in_guest(inside, "ring_pair");
    drop(flood);
}

#[test]
fn rules_that_are_wrong_are_refused_with_their_line() {
    let Some(machine) = machine_with_rules("wrong-rules") else {
        return;
    };
    let guest = &machine.guest;
    agent::stop(guest);
    guest.check("printf '[[allow]]\\nuid = 1000\\nregion = [\"x\"]\\n' >wrong.toml");
    for (file, part) in [("wrong.toml", "region"), ("absent.toml", "absent.toml")] {
        let answer = guest.run(&format!("timeout 20 vmshm-agent run --rules {file}"));
        assert_eq!(answer.status, 2, "{}", answer.text);
        assert!(answer.text.contains("error: "), "{}", answer.text);
        assert!(answer.text.contains(part), "{}", answer.text);
    }
}
