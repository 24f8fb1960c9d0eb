//! `cargo xtask demo`: the main job, shown on a VM that was started with no option for it.
//!
//! Boots a VM, finds its agent from outside with the built `vmshm`, shares a region with it, sends checksummed data both
//! ways, and measures, TCP into the same guest included. Every figure is measured in this run, shared memory's by the
//! commands that users type; nothing is assumed. Fails if a checksum differs.

pub mod tcp;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::kernels::Origin;
use crate::progress::Step;
use crate::vm::channels::Console;
use crate::vm::options::{System, VmOptions, Vmm};
use crate::{artifacts, checkout, vm};

/// Bytes of the region that both sides write and read.
const REGION: usize = 1 << 20;
/// Bytes that go through the pipe each way.
const BULK: usize = 128 << 20;

/// The guest's half: checks what the host wrote, writes something of its own, echoes a pipe, and then answers over TCP.
const GUEST: &str = r#"
directory=$(mktemp -d) && cd "$directory" && mkfifo to from echo || exit 1
vmshm-agent pipe control <from >to & exec 3>from 4<to
read -r word <&4
memory=$(vmshm-agent status --json | awk -F'"' '$4 == "shared" { on = 1 } on && $2 == "memory" { print $4; exit }')
sha256sum <"$memory" >&3
head -c SIZE /dev/urandom | dd of="$memory" conv=notrunc bs=65536 iflag=fullblock status=none
sha256sum <"$memory" >&3
exec 3>&- 4<&-
wait
vmshm-agent pipe echo <echo | cat >echo
XTASK answer-tcp ADDRESS
while :; do sleep 3600; done
"#;

/// Runs the demo on a VM of this kind.
pub fn run(vmm: Vmm) -> Result<()> {
    let vmm = choose(vmm);
    artifacts::build()?;
    let space = TempDir::new_in(make(&checkout::root().join("target/demo"))?)?;
    let script = space.path().join("guest.sh");
    let tcp = tcp::Host::listen()?;
    std::fs::write(&script, guest_script(&tcp)?)?;
    let console = Arc::new(Mutex::new(Vec::new()));
    let start = Instant::now();
    let step = Step::start("booting the VM");
    let machine = vm::boot(&options(vmm, script), &Console::Kept(Arc::clone(&console)))?;
    drop(step);
    println!(
        "VM         {} as process {}, up in {:.1} s; no option of it is for vmshm",
        machine.name(),
        machine.pid(),
        start.elapsed().as_secs_f64()
    );
    let shown = show(&Demo {
        name: machine.name().to_owned(),
        space: space.path().to_owned(),
        tcp,
    });
    if shown.is_err() {
        // What the guest said is the best hint there is.
        let said = console.lock().unwrap_or_else(PoisonError::into_inner);
        eprintln!("{}", String::from_utf8_lossy(&said));
    }
    shown
}

/// The guest's half for this run. The guest sees the host's files, so this very program is its end of TCP.
fn guest_script(tcp: &tcp::Host) -> Result<String> {
    let xtask = std::env::current_exe().context("xtask does not know its own path")?;
    Ok(GUEST
        .replace("SIZE", &REGION.to_string())
        .replace("XTASK", &crate::command::quoted(xtask))
        .replace("ADDRESS", &tcp.address_in_guest()?))
}

/// Ubuntu has no package of UML; there QEMU does the same job.
pub fn choose(vmm: Vmm) -> Vmm {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let ubuntu = release.lines().any(|line| line.trim() == "ID=ubuntu");
    if vmm == Vmm::Uml && ubuntu {
        println!("Ubuntu has no package user-mode-linux: using QEMU");
        return Vmm::Qemu;
    }
    vmm
}

fn options(vmm: Vmm, script: PathBuf) -> VmOptions {
    VmOptions {
        vmm,
        name: Some(format!("demo-{}", std::process::id())),
        ram: None,
        backing: None,
        machine: None,
        smp: None,
        system: System::Host,
        kernel: Origin::Host,
        no_agent: false,
        network: true,
        run: Some(script),
        vmm_arguments: Vec::new(),
    }
}

fn make(directory: &Path) -> Result<&Path> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}

/// The VM that is shown, and where files may lie.
struct Demo {
    name: String,
    space: PathBuf,
    tcp: tcp::Host,
}

fn show(demo: &Demo) -> Result<()> {
    demo.find()?;
    demo.share_region()?;
    demo.pipe()?;
    let tcp = demo.tcp()?;
    demo.measure(tcp)
}

impl Demo {
    fn vmshm(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(checkout::root().join("target/dist/vmshm"));
        command.args(arguments).arg("--timeout").arg("30");
        command
    }

    fn region(&self, name: &str) -> String {
        format!("{}/{name}", self.name)
    }

    fn find(&self) -> Result<()> {
        let start = Instant::now();
        let list: serde_json::Value =
            serde_json::from_slice(&output(&mut self.vmshm(&["list", "--json"]))?)?;
        let found = list
            .as_array()
            .and_then(|all| all.iter().find(|vm| vm["name"] == self.name.as_str()))
            .context("`vmshm list` does not show the VM")?;
        ensure!(
            found["agent"]["state"] == "seen",
            "the agent is not seen: {found}"
        );
        println!(
            "found      {} from outside in {:.2} s: {}, {} RAM, method {}",
            self.name,
            start.elapsed().as_secs_f64(),
            found["guest_os"].as_str().unwrap_or("?"),
            found["backing"].as_str().unwrap_or("?"),
            found["access"].as_str().unwrap_or("?"),
        );
        Ok(())
    }

    /// The host writes a region and the guest reads it; then the other way round.
    fn share_region(&self) -> Result<()> {
        let _step = Step::start("sharing a region");
        let target = self.region("shared");
        let size = REGION.to_string();
        output(&mut self.vmshm(&["region", "create", &target, "--size", &size]))?;
        let ours = noise(REGION, 1);
        let file = self.space.join("ours");
        std::fs::write(&file, &ours)?;
        let file = file.to_string_lossy();
        output(&mut self.vmshm(&["region", "write", &target, "0", "-i", &file]))?;
        // The guest's half reads the region when it hears a word, and says what it saw and wrote.
        let said = exchange(
            &mut self.vmshm(&["pipe", &self.region("control")]),
            b"now\n",
        )?;
        let said = String::from_utf8_lossy(&said).into_owned();
        let sums: Vec<&str> = said
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        let [guest_saw, guest_wrote] = sums[..] else {
            bail!("the guest's half said {said:?} instead of two checksums");
        };
        let host_sees = output(&mut self.vmshm(&["region", "read", &target, "0", &size]))?;
        ensure!(
            sha256(&ours) == guest_saw,
            "the guest saw other bytes than the host wrote"
        );
        ensure!(
            sha256(&host_sees) == guest_wrote,
            "the host sees other bytes than the guest wrote"
        );
        println!("region     1 MiB written by the host, read by the guest: sha256 equal");
        println!("           1 MiB written by the guest, read by the host: sha256 equal");
        Ok(())
    }

    /// Bytes to the guest and the same back.
    fn pipe(&self) -> Result<()> {
        let _step = Step::start("sending bytes through a pipe, both ways");
        let sent = noise(BULK, 2);
        let start = Instant::now();
        let back = exchange(&mut self.vmshm(&["pipe", &self.region("echo")]), &sent)?;
        let seconds = start.elapsed().as_secs_f64();
        ensure!(
            sha256(&back) == sha256(&sent),
            "other bytes came back through the pipe than were sent"
        );
        println!(
            "pipe       {} MiB to the guest and back in {seconds:.1} s: sha256 equal, {:.0} MB/s each way",
            BULK >> 20,
            BULK as f64 / seconds / 1e6
        );
        Ok(())
    }

    fn tcp(&self) -> Result<tcp::Measured> {
        let _step = Step::start("measuring TCP into the same guest");
        self.tcp.measure()
    }

    fn measure(&self, tcp: tcp::Measured) -> Result<()> {
        let step = Step::start("measuring");
        let mut command = self.vmshm(&["bench", &self.name, "--json"]);
        let figures: serde_json::Value = serde_json::from_slice(&output(&mut command)?)?;
        drop(step);
        let number = |value: &serde_json::Value| value.as_f64().unwrap_or(f64::NAN);
        let latency = |name: &str, figures: &serde_json::Value| {
            println!(
                "{name} p50 {:.0} ns, p99 {:.0} ns, p99.9 {:.0} ns",
                number(&figures["p50"]),
                number(&figures["p99"]),
                number(&figures["p99.9"])
            );
        };
        latency(
            "latency    64-byte message, one way:",
            &figures["one_way_64b_ns"],
        );
        latency(
            "           a bare word (floor):     ",
            &figures["floor_one_way_ns"],
        );
        println!(
            "copy       out of a region {:.1} GB/s; memcpy {:.1} GB/s",
            number(&figures["region_copy_gb_per_s"]),
            number(&figures["memcpy_gb_per_s"])
        );
        println!(
            "beacon     found by scanning in {:.1} ms",
            number(&figures["find_beacon_ms"])
        );
        println!(
            "beside     shared memory {:.0} ns / {:.1} GB/s, TCP into the same guest {:.0} µs / {:.0} MB/s",
            number(&figures["one_way_64b_ns"]["p50"]),
            number(&figures["region_copy_gb_per_s"]),
            tcp.one_way * 1e6,
            tcp.rate / 1e6
        );
        Ok(())
    }
}

/// Bytes without a pattern that a wrong offset could hide in (xorshift64*, Vigna 2016).
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Runs a command for what it prints; its own messages go to standard error.
fn output(command: &mut Command) -> Result<Vec<u8>> {
    exchange(command, b"")
}

/// Runs a command with this input, for what it prints.
fn exchange(command: &mut Command, input: &[u8]) -> Result<Vec<u8>> {
    command.args(["--quiet"]);
    let line = crate::command::line(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {line}"))?;
    let stdin = child.stdin.take();
    let mut stdout = child.stdout.take().context("no output")?;
    let mut collected = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A command that ends early says why by its exit status.
            stdin.map(|mut stdin| stdin.write_all(input))
        });
        stdout.read_to_end(&mut collected)
    })?;
    let status = child.wait()?;
    ensure!(status.success(), "{line} failed: {status}");
    Ok(collected)
}
