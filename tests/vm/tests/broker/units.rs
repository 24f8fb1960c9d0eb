//! The broker as its units start it, under the systemd of a guest: started by its socket, hardened as they say, with a VM of
//! another user to look into, and ended in every way.
//!
//! The VMs inside of the guest are played by processes with private memory: an emulated emulator would take minutes.

use std::path::Path;

use vmshm_vm_tests::agent;
use vmshm_vm_tests::environment::{self, guest_program, report};
use vmshm_vm_tests::guest::Job;
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::{LATER, SOON, wait_for, wait_until};

use super::brokers::{FRIEND, OWNER, STRANGER};

const SERVICE: &str = "vmshm-broker.service";
const SOCKET: &str = "vmshm-broker.socket";
/// The most that `systemd-analyze security` may find exposed, in tenths.
const EXPOSED: u32 = 62;

/// A guest whose init is systemd; nothing where it cannot be had, which is said.
fn machine() -> Option<Machine> {
    if !environment::is_set_up() || !environment::is_root() {
        return None;
    }
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/vm/debian13-systemd");
    if !tree.join("etc/vmshm-tree").is_file() {
        environment::skip("there is no tree with systemd; `cargo xtask test --all` makes it");
        return None;
    }
    // Its own agent runs beside the broker: a guest may be a host, too.
    let options = ["--system", "debian13-systemd"];
    let machine = Machine::boot_as(Kind::QemuMemfd(2), "units", &options);
    let state = wait_until("systemd to be up", 3 * LATER, || {
        let state = machine.guest.run("systemctl is-system-running").text;
        ["running", "degraded"]
            .contains(&state.trim())
            .then_some(state)
    });
    let failed = machine
        .guest
        .check("systemctl --failed --no-legend --plain");
    report(&format_args!("systemd is {} {failed}", state.trim()));
    Some(machine)
}

/// What is done inside.
struct Inside<'a>(&'a Machine);

impl Inside<'_> {
    /// Puts the programs, the units and the rules where a package puts them.
    fn install(&self) {
        let units = concat!(env!("CARGO_MANIFEST_DIR"), "/../../dist/systemd");
        self.0.guest.check(&format!(
            "set -e
             install -m 755 '{}' /usr/bin/vmshm
             install -m 755 {} /usr/local/bin/qemu-system-x86_64
             install -m 755 {} /usr/local/bin
             install -m 644 '{units}/{SERVICE}' '{units}/{SOCKET}' /etc/systemd/system
             mkdir -p /etc/vmshm
             echo 'owner:x:{OWNER}:{OWNER}::/:/bin/sh' >>/etc/passwd
             echo 'owner:x:{OWNER}:' >>/etc/group",
            environment::program("vmshm").display(),
            guest_program("played-vmm"),
            guest_program("hold-brokered"),
        ));
        self.allow(&format!(
            "[[allow]]\nuid = {FRIEND}\nvms = [\"inner\", \"filtered\", \"denied\"]\nowner = {OWNER}\nregions = [\"held\", \"shared\"]\nmake = true\n"
        ));
        self.0.guest.check("systemctl daemon-reload");
    }

    fn allow(&self, rules: &str) {
        let guest = &self.0.guest;
        guest.check(&format!("cat >/etc/vmshm/broker.toml <<'END'\n{rules}END"));
    }

    /// Starts a played VM of [`OWNER`] as a service with more properties.
    fn play(&self, name: &str, properties: &str) {
        self.0.guest.check(&format!(
            "systemd-run --quiet --unit={name} -p User=owner {properties} /usr/local/bin/qemu-system-x86_64 \
             -name guest={name} -machine pc -accel tcg -m 64"
        ));
    }

    /// What systemd says of a unit.
    fn property(&self, unit: &str, name: &str) -> String {
        let guest = &self.0.guest;
        guest.check(&format!("systemctl show --property={name} --value {unit}"))
    }

    /// A line of the broker's status.
    fn status(&self, name: &str) -> String {
        let pid = self.property(SERVICE, "MainPID");
        let line = format!("sed -n 's/^{name}:[[:space:]]*//p' /proc/{pid}/status");
        self.0.guest.check(&line)
    }

    /// How many pieces of a played VM are grafted.
    fn grafts(&self, name: &str) -> u32 {
        let pid = self.property(name, "MainPID");
        let count = format!("grep -c /memfd:vmshm- /proc/{pid}/maps || true");
        self.0.guest.check(&count).parse().expect("a number")
    }

    /// Runs `vmshm` as some user, who knows of no broker but the usual one.
    fn vmshm(&self, uid: u32, arguments: &str) -> Result<String, String> {
        let command = format!(
            "setpriv --reuid={uid} --regid={uid} --clear-groups vmshm --timeout 60 {arguments}"
        );
        let answer = self.0.guest.run(&command);
        let text = answer.text.trim_end().to_owned();
        if answer.status == 0 {
            Ok(text)
        } else {
            Err(text)
        }
    }

    fn succeeds(&self, uid: u32, arguments: &str) -> String {
        let result = self.vmshm(uid, arguments);
        result.unwrap_or_else(|text| panic!("{arguments}: {text}\n{}", self.journal()))
    }

    fn refused(&self, uid: u32, arguments: &str, why: &str) {
        let text = self.vmshm(uid, arguments).expect_err("it is refused");
        assert!(
            text.contains(why),
            "{arguments}: {text}\n{}",
            self.journal()
        );
    }

    /// Holds a region of a VM as [`FRIEND`].
    fn hold(&self, name: &str) -> Job<'_> {
        let job = self.0.guest.start(&format!(
            "sleep 3600 | setpriv --reuid={FRIEND} --regid={FRIEND} --clear-groups hold-brokered hold {name} held"
        ));
        wait_for("a region that is held", LATER, || {
            job.errors().lines().any(|line| line == "held")
        });
        assert_ne!(self.grafts(name), 0, "it is grafted");
        job
    }

    fn wait_for_end(&self, holder: &Job<'_>) {
        wait_for("the client to hear of it", SOON, || {
            holder.errors().contains("ended: ")
        });
    }

    fn journal(&self) -> String {
        let show = format!("journalctl --no-pager --unit={SERVICE} | tail -n 30");
        self.0.guest.run(&show).text
    }
}

#[test]
#[ignore = "long: boots a guest whose init is systemd"]
fn the_units_start_harden_end_and_restart_a_broker_that_can_do_its_work() {
    let Some(machine) = machine() else {
        return;
    };
    let inside = Inside(&machine);
    inside.install();
    judged_by_systemd(&inside);
    started_by_its_socket(&inside);
    inside.play("inner", "");
    // As QEMU's own filter: a list of what is denied, by death.
    inside.play(
        "filtered",
        "-p SystemCallFilter='~@mount @reboot @swap @module @raw-io'",
    );
    inside.play("denied", "-p SystemCallFilter='~memfd_create'");
    work_is_done(&inside);
    stopping_takes_all_back(&inside);
    the_next_one_takes_back_what_a_killed_one_left(&inside);
    wrong_rules_are_told_to_clients(&inside);
    the_hint_helps(&inside);
    // Both have things in the same directory.
    agent::stop(&machine.guest);
    agent::start(&machine.guest);
    inside.succeeds(FRIEND, "region list inner");
    for name in ["inner", "filtered", "denied"] {
        assert_eq!(inside.property(name, "ActiveState"), "active", "{name}");
    }
}

fn judged_by_systemd(inside: &Inside<'_>) {
    let guest = &inside.0.guest;
    let verify = format!("cd /etc/systemd/system && systemd-analyze verify {SERVICE} {SOCKET}");
    assert_eq!(guest.check(&verify), "");
    guest.check(&format!("systemctl enable --now {SOCKET}"));
    let security = format!("systemd-analyze security --no-pager --threshold={EXPOSED} {SERVICE}");
    let judged = guest.check(&security);
    let overall = judged.lines().last().unwrap_or_default().trim();
    report(&format_args!("systemd-analyze security: {overall}"));
}

fn started_by_its_socket(inside: &Inside<'_>) {
    assert_eq!(inside.property(SERVICE, "ActiveState"), "inactive");
    inside.refused(STRANGER, "region list inner", "user 12003 may use nothing");
    assert_eq!(inside.property(SERVICE, "ActiveState"), "active");
    inside.refused(FRIEND, "region list inner", "no VM is called \"inner\"");
    // Under a filter it could read no other's.
    assert_eq!(inside.status("Seccomp"), "0");
    assert_eq!(inside.status("NoNewPrivs"), "1");
    // dac_override, dac_read_search, fowner, sys_ptrace, sys_admin.
    assert_eq!(inside.status("CapEff"), format!("{:016x}", 0x28_000e_u64));
    assert_eq!(inside.status("CapEff"), inside.status("CapBnd"));
}

fn work_is_done(inside: &Inside<'_>) {
    for name in ["inner", "filtered"] {
        inside.succeeds(FRIEND, &format!("region create {name}/shared --size 64K"));
        inside.succeeds(
            FRIEND,
            &format!("region write {name}/shared 0x1000 --hex c0ffee"),
        );
        let read = format!("region read {name}/shared 0x1000 3 | od -An -tx1");
        assert_eq!(inside.succeeds(FRIEND, &read), " c0 ff ee");
        wait_for("all to be taken back", SOON, || inside.grafts(name) == 0);
    }
    let listed = inside.succeeds(FRIEND, "list --json");
    assert!(listed.contains("\"broker\""), "{listed}");
    inside.refused(
        FRIEND,
        "region read inner/secret 0 16",
        "may not use region",
    );
    inside.refused(STRANGER, "region read inner/shared 0 16", "may use nothing");
    // It would be killed.
    let denied = "region create denied/shared --size 64K";
    inside.refused(FRIEND, denied, "memfd_create");
    assert_eq!(inside.grafts("denied"), 0);
    // Its lock says only that it runs.
    wait_for("nothing to be left to the next broker", SOON, || {
        inside.0.guest.check("ls /run/vmshm/broker") == "lock"
    });
}

fn stopping_takes_all_back(inside: &Inside<'_>) {
    let guest = &inside.0.guest;
    let holders = [inside.hold("inner"), inside.hold("filtered")];
    guest.check(&format!("systemctl stop {SERVICE}"));
    assert_eq!(inside.property(SERVICE, "Result"), "success");
    for (name, holder) in ["inner", "filtered"].iter().zip(&holders) {
        assert_eq!(inside.grafts(name), 0, "it is the VM's own again");
        inside.wait_for_end(holder);
    }
    // Root attaches by itself, and sees what was written while it was grafted.
    let read = guest.check("vmshm region read inner/shared 0x1000 3 | od -An -tx1");
    assert_eq!(read, " c0 ff ee");
    assert_eq!(inside.property(SERVICE, "ActiveState"), "inactive");
    inside.succeeds(FRIEND, "region list inner");
    assert_eq!(inside.property(SERVICE, "ActiveState"), "active");
}

fn the_next_one_takes_back_what_a_killed_one_left(inside: &Inside<'_>) {
    let holder = inside.hold("inner");
    let killed = inside.property(SERVICE, "MainPID");
    inside.0.guest.check(&format!("kill -9 {killed}"));
    wait_for("another broker", SOON, || {
        let pid = inside.property(SERVICE, "MainPID");
        pid != "0" && pid != killed && inside.property(SERVICE, "ActiveState") == "active"
    });
    assert_eq!(inside.property(SERVICE, "NRestarts"), "1");
    inside.wait_for_end(&holder);
    // Before it serves anybody.
    inside.succeeds(FRIEND, "region list inner");
    assert_eq!(inside.grafts("inner"), 0, "{}", inside.journal());
}

fn wrong_rules_are_told_to_clients(inside: &Inside<'_>) {
    let guest = &inside.0.guest;
    guest.check(&format!(
        "systemctl stop {SERVICE}; cp /etc/vmshm/broker.toml /run/right.toml"
    ));
    inside.allow("[[allow]]\nuid = 1\nvms = []\n");
    inside.refused(
        FRIEND,
        "region list inner",
        "an entry names at least one VM",
    );
    assert_eq!(inside.property(SERVICE, "ActiveState"), "active");
    assert_eq!(inside.property(SOCKET, "ActiveState"), "active");
    guest.check("cp /run/right.toml /etc/vmshm/broker.toml");
    inside.succeeds(FRIEND, "region list inner");
}

fn the_hint_helps(inside: &Inside<'_>) {
    let guest = &inside.0.guest;
    guest.check(&format!("systemctl stop {SOCKET}"));
    assert_eq!(inside.property(SERVICE, "ActiveState"), "inactive");
    inside.refused(
        FRIEND,
        "region list inner",
        "hint: sudo systemctl start vmshm-broker",
    );
    guest.check("systemctl start vmshm-broker");
    inside.succeeds(FRIEND, "region list inner");
}
