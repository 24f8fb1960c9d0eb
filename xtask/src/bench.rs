//! `cargo xtask bench`: measures vmshm beside its floor and its peers, in one run, and shows the goals.
//!
//! The measuring program (`tests/bench`, a workspace of its own, since it brings the peers) prints the figures of every
//! round; this module builds it, boots the VM that some rows need, and judges: rounds that others disturbed are
//! discarded by one rule, and a ratio is the median of the rounds' ratios. Refuses names that are no rows.

mod judge;
mod rows;

use std::fs::OpenOptions;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::kernels::Origin;
use crate::progress::Step;
use crate::vm::channels::{Console, Event};
use crate::vm::options::{System, VmOptions, Vmm};
use crate::vm::running::{Interrupted, RunningVm};
use crate::{artifacts, checkout, command, demo, testing, vm};

/// The end of `--help`.
pub const AFTER_HELP: &str = "\
Each round measures ours, the floor and the peer one after the other. A round in which the measured ends waited for a
processor for more than 1 % of it is discarded, and counted; the 5 that waited least remain in any case. Figures are
medians over the rounds, ratios (ours / other) the medians of each round's ratio.

FILE gets an array of objects with name, unit, better (lower or higher), ours, peer_name, peer, floor, ratio_to_peer,
ratio_to_floor, rounds, discarded, disturbed (rounds that remain although they were disturbed), and what else a row has
to say. Latencies are p50, one way, in ns; `idle` is the share of a core in percent.";

/// What to measure, and how.
#[derive(clap::Args, Debug, Default)]
pub struct BenchOptions {
    /// The rows to measure [default: all]
    #[arg(value_name = "NAME", help = rows::names_help())]
    pub names: Vec<String>,
    /// Measure less: a minute or two in all
    #[arg(long)]
    pub quick: bool,
    /// Write the rows to FILE, too, as a JSON array
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Measures and shows.
pub fn run(options: &BenchOptions) -> Result<()> {
    let chosen = rows::choose(&options.names)?;
    if let Some(file) = &options.json {
        // Better now than after the measurement.
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(file)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    let (displays, links): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|row| row.is_display);
    let mut measured = Vec::new();
    if !links.is_empty() {
        measured.extend(measure_links(&links, options.quick)?);
    }
    if !displays.is_empty() {
        measured.extend(measure_displays(&displays, options.quick)?);
    }
    let judged = measured
        .into_iter()
        .map(judge::judge)
        .collect::<Result<Vec<_>>>()?;
    print!("{}", rows::table(&judged));
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&judged)?;
        std::fs::write(file, format!("{text}\n"))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Measures what programs at both ends of a link reach, and the peers beside them.
fn measure_links(chosen: &[&rows::Kind], quick: bool) -> Result<Vec<judge::Measurement>> {
    let program = build()?;
    let console = Arc::new(Mutex::new(Vec::new()));
    let space = tempfile::TempDir::new_in(output_directory())?;
    let machine = chosen
        .iter()
        .any(|row| row.needs_vm)
        .then(|| {
            let script = space.path().join("guest.sh");
            std::fs::write(&script, guest_script(&program))?;
            boot(script, &Console::Kept(Arc::clone(&console)))
        })
        .transpose()?;
    let mut measuring = Command::new(program);
    measuring.args(chosen.iter().map(|row| row.name));
    if quick {
        measuring.args(["--quick", "--rounds", "30", "--seconds", "8"]);
    }
    measuring.args(["--most-waiting", &judge::MOST_WAITING.to_string()]);
    if let Some(machine) = &machine {
        measuring.args(["--vm", machine.name()]);
    }
    let measured = output(&mut measuring, machine.as_ref());
    if measured.is_err() && machine.is_some() {
        // What the guest said may be the reason.
        let said = console.lock().unwrap_or_else(PoisonError::into_inner);
        eprint!("{}", String::from_utf8_lossy(&said));
    }
    serde_json::from_slice(&measured?).context("the measuring program's JSON")
}

/// Measures screens. The program boots guests with a desktop, as the tests do, and ends them.
fn measure_displays(chosen: &[&rows::Kind], quick: bool) -> Result<Vec<judge::Measurement>> {
    artifacts::build()?;
    let step = Step::start("building display-bench");
    let package = ["--package", "vmshm-vm-tests", "--bin", "display-bench"];
    let mut cargo = artifacts::cargo();
    cargo.args(["build", "--quiet", "--release"]).args(package);
    command::visible(&mut cargo)?;
    drop(step);
    crate::debian13::tree()?;
    let mut measuring = Command::new(artifacts::cargo_output().join("release/display-bench"));
    measuring.args(chosen.iter().map(|row| row.name));
    if quick {
        measuring.arg("--quick");
    }
    for (name, value) in testing::environment()? {
        measuring.env(name, value);
    }
    let measured = output(&mut measuring, None)?;
    serde_json::from_slice(&measured).context("display-bench's JSON")
}

/// Checks the measuring program itself; its tests need no VM.
pub fn checks() -> Vec<Command> {
    let in_package = |words: &[&str]| {
        let mut cargo = artifacts::cargo();
        cargo
            .args(&words[..1])
            .args(["--manifest-path", "tests/bench/Cargo.toml"])
            .args(&words[1..]);
        cargo
    };
    let output = output_directory();
    let mut commands = vec![in_package(&["fmt", "--check"])];
    for words in [
        &["clippy", "--quiet", "--release", "--all-targets"][..],
        &["test", "--release"],
    ] {
        let mut cargo = in_package(words);
        cargo.arg("--target-dir").arg(&output);
        if words[0] == "clippy" {
            cargo.args(["--", "-D", "warnings"]);
        }
        commands.push(cargo);
    }
    commands
}

fn output_directory() -> PathBuf {
    artifacts::cargo_output().join("bench")
}

/// Builds the measuring program, with its peers, into a directory of its own.
fn build() -> Result<PathBuf> {
    let _step = Step::start("building vmshm-bench and its peers");
    let output = output_directory();
    let manifest = Path::new("tests/bench/Cargo.toml");
    let mut cargo = artifacts::cargo();
    cargo.args(["build", "--quiet", "--release", "--manifest-path"]);
    cargo.arg(manifest).arg("--target-dir").arg(&output);
    command::visible(&mut cargo)?;
    Ok(checkout::root().join(output).join("release/vmshm-bench"))
}

/// The guest sees the host's files, so the measuring program is also the guest's end of `idle`. It sleeps until the host
/// comes, and disturbs no other row.
fn guest_script(program: &Path) -> String {
    let program = command::quoted(program);
    format!("{program} --sleep-in-guest\nwhile :; do sleep 3600; done\n")
}

/// The VM of the rows that need one: user-mode Linux, where the host has it.
fn boot(script: PathBuf, console: &Console) -> Result<RunningVm> {
    let options = VmOptions {
        vmm: demo::choose(Vmm::Uml),
        name: Some(format!("bench-{}", std::process::id())),
        ram: None,
        backing: None,
        machine: None,
        smp: None,
        system: System::Host,
        kernel: Origin::Host,
        no_agent: false,
        network: false,
        run: Some(script),
        vmm_arguments: Vec::new(),
    };
    let _step = Step::start("booting the VM");
    vm::boot(&options, console)
}

/// Runs the measuring program for what it prints. A signal to us, which a running VM turns into an event, ends it.
fn output(command: &mut Command, machine: Option<&RunningVm>) -> Result<Vec<u8>> {
    let line = command::line(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {line}"))?;
    let mut stdout = child.stdout.take().context("no output")?;
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stdout.read_to_end(&mut bytes).map(|_| bytes)
    });
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let step = Duration::from_millis(50);
        match machine.map(|machine| machine.next_event(Some(step))) {
            None => std::thread::sleep(step),
            Some(Some(Event::Signal(signal))) => {
                end(&mut child)?;
                return Err(Interrupted(signal).into());
            }
            Some(_) => {}
        }
    };
    ensure!(status.success(), "{line}: {status}");
    reader
        .join()
        .ok()
        .context("the reader panicked")?
        .context("cannot read what was measured")
}

/// Asks it to end, and waits until it has cleaned up.
fn end(child: &mut Child) -> Result<()> {
    kill_process(Pid::from_child(child), Signal::TERM)?;
    child.wait()?;
    Ok(())
}
