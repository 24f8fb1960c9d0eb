//! A broker that runs for a test, a VM of one user, and programs of others.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;
use vmshm_vm_tests::environment;
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::{LATER, SOON, wait_for, wait_until};
use vmshm_vm_tests::program::{Outcome, Program, Running};

/// Whose the VM is.
pub const OWNER: u32 = 12_001;
/// Who may use it.
pub const FRIEND: u32 = 12_002;
/// Who may not.
pub const STRANGER: u32 = 12_003;

/// A VM of [`OWNER`]; nothing where there is nothing to boot with, or this is not root, which is said.
pub fn machine(label: &str) -> Option<Machine> {
    machine_of(Kind::QemuPrivate(2), label, &[])
}

/// The same of another kind, with more options of `cargo xtask vm`.
pub fn machine_of(kind: Kind, label: &str, options: &[&str]) -> Option<Machine> {
    if !environment::is_set_up() || !environment::is_root() {
        return None;
    }
    Some(Machine::boot_of_user(kind, label, options, OWNER))
}

/// Does something, again where a busy machine had no time for it: a direct program was too slow to make way, and is
/// named then, or the guest too slow to beat.
pub fn patiently(mut run: impl FnMut() -> Outcome) -> Outcome {
    wait_until("what the broker does", LATER, || {
        let outcome = run();
        let again = ["do not let go of it", "guest silent"];
        let is_too_busy = again.iter().any(|words| outcome.errors.contains(words));
        (!is_too_busy).then_some(outcome)
    })
}

/// What the unit leaves a broker, as setpriv says it.
fn capabilities() -> String {
    let unit = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../dist/systemd/vmshm-broker.service"
    );
    let text = std::fs::read_to_string(unit).expect("the unit is there");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let names = line.expect("it is bounded").split_whitespace();
    names.fold("-all".to_owned(), |set, name| {
        let name = name.strip_prefix("CAP_").unwrap_or(name);
        format!("{set},+{}", name.to_lowercase())
    })
}

/// A broker; it is ended when this is dropped.
pub struct Broker {
    directory: tempfile::TempDir,
    running: Option<Running>,
}

impl Broker {
    /// Starts one as root with rules that let [`FRIEND`] use these regions, and see screens.
    pub fn start(machine: &Machine, regions: &str) -> Self {
        let directory = tempfile::tempdir().expect("there is room");
        let everybody = |mode| std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(directory.path(), everybody(0o755)).expect("it is ours");
        let rules = format!(
            "[[allow]]\nuid = {FRIEND}\nvms = [\"{}\"]\nowner = {OWNER}\nregions = [{regions}]\nmake = true\nscreens = true\n",
            machine.name
        );
        std::fs::write(directory.path().join("rules.toml"), rules).expect("there is room");
        let open = directory.path().join("open");
        std::fs::create_dir(&open).expect("there is room");
        std::fs::set_permissions(&open, everybody(0o777)).expect("it is ours");
        // The checkout may lie where only root comes: others find what belongs together here.
        for name in ["vmshm", "vmshm-monitor"] {
            let copy = directory.path().join(name);
            std::fs::copy(environment::program(name), copy).expect("there is room");
        }
        let mut broker = Self {
            directory,
            running: None,
        };
        broker.run();
        broker
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A directory in which everybody may write.
    pub fn open_directory(&self) -> PathBuf {
        self.path("open")
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.path("socket")
    }

    /// The command line: with the rights that its unit leaves it, and no others.
    fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--bounding-set={}", capabilities()))
            .args(["--inh-caps=-all", "--no-new-privs"])
            .arg(environment::program("vmshm"));
        command.arg("broker").arg("--verbose");
        command.arg("--socket").arg(self.socket());
        command.arg("--rules").arg(self.path("rules.toml"));
        command.arg("--state").arg(self.path("state"));
        command
    }

    /// Starts it, after an end too.
    pub fn run(&mut self) {
        let running = Program::new(self.command()).start();
        wait_for("a broker that is ready", SOON, || {
            running.errors.so_far().contains("ready")
        });
        self.running = Some(running);
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("it runs").pid()
    }

    /// What it has said.
    pub fn said(&self) -> String {
        let running = self.running.as_ref();
        running
            .map(|running| running.errors.so_far())
            .unwrap_or_default()
    }

    /// Kills it.
    pub fn kill(&mut self) {
        let running = self.running.take().expect("it runs");
        running.signal(Signal::KILL);
        let _ = running.wait(SOON);
    }

    /// Ends it in good order.
    pub fn end(&mut self) {
        let running = self.running.take().expect("it runs");
        running.signal(Signal::TERM);
        let outcome = running.wait(LATER);
        assert_eq!(outcome.code, Some(0), "{}", outcome.errors);
    }

    /// A program of some user, with this broker.
    pub fn program(&self, uid: u32, program: &std::path::Path) -> Program {
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={uid}"), format!("--regid={uid}")]);
        command.arg("--clear-groups").arg(program);
        command.env("VMSHM_BROKER", self.socket());
        command.env_remove("XDG_RUNTIME_DIR");
        command.current_dir(self.open_directory());
        Program::new(command)
    }

    /// `vmshm` of some user, with this broker.
    pub fn vmshm(&self, uid: u32, arguments: &[&str]) -> Program {
        let program = self.program(uid, &self.path("vmshm"));
        arguments.iter().fold(program, Program::argument)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the broker has said:\n{}", self.said());
        } else if self.running.is_some() {
            // It takes back what is lent; a machine may be used by the next test.
            self.end();
        }
    }
}

/// The grafts that a VMM has, by its mappings.
pub fn grafts(pid: u32) -> Vec<String> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let names = maps.lines().filter(|line| line.contains("/memfd:vmshm-"));
    names.map(str::to_owned).collect()
}

/// How many regions of a VMM are grafted.
pub fn grafted_regions(pid: u32) -> usize {
    let pieces = grafts(pid);
    let names: std::collections::BTreeSet<&str> = pieces
        .iter()
        .filter_map(|line| line.split("/memfd:").nth(1))
        .collect();
    names.len()
}

/// Waits until nothing of a VMM is grafted.
pub fn wait_for_no_graft(machine: &Machine) {
    wait_for("all to be taken back", SOON, || {
        grafts(machine.pid).is_empty()
    });
}

/// A program of [`FRIEND`] that holds the region `held`, and does there what the mode says.
pub fn hold(broker: &Broker, machine: &Machine, mode: &str) -> Running {
    let program = broker.program(FRIEND, &environment::own_program("hold-brokered"));
    let holder = [mode, &machine.name, "held"]
        .iter()
        .fold(program, Program::argument)
        .start();
    wait_for("a region that is held", LATER, || {
        holder.errors.so_far().contains("held")
    });
    assert!(!grafts(machine.pid).is_empty(), "nothing is grafted");
    holder
}
