//! A VM that runs: its process, its guard, and what it tells us.
//!
//! Dropping it ends the VM and removes everything that belongs to it; so does the guard if we are killed.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, WaitId, WaitIdOptions};

use super::channels::{self, Console, Event};

/// The longest time from the VMM's start until the guest is up and its agent ready, on a busy host without KVM.
const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// How long a guest may take to power off once its script has ended.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(15);

/// A signal asked us to end while a VM was starting or running.
#[derive(Debug)]
pub struct Interrupted(pub i32);

impl std::fmt::Display for Interrupted {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "ended by signal {}", self.0)
    }
}

impl std::error::Error for Interrupted {}

/// The emulator ran the guest's kernel wrongly before the guest was up; see [`Event::Breakpoint`].
#[derive(Debug)]
pub struct Misemulated;

impl std::fmt::Display for Misemulated {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("the emulator ran a breakpoint of the guest's kernel that was gone")
    }
}

impl std::error::Error for Misemulated {}

/// What one VM leaves behind unless somebody removes it.
#[derive(Default)]
pub struct Leavings {
    /// Directories to remove.
    pub directories: Vec<PathBuf>,
    /// Huge pages by which the host's overcommit limit was raised.
    pub huge_pages: u64,
}

/// How a VMM is started.
pub struct Start {
    /// The VM's name.
    pub name: String,
    /// The VMM's program and its arguments.
    pub command_line: Vec<OsString>,
    /// The directory for the VMM's temporary files, if its own choice does not do.
    pub temporary: Option<PathBuf>,
}

/// A VM whose guest is up.
pub struct RunningVm {
    name: String,
    vmm: Child,
    guard: Child,
    events: Receiver<Event>,
    threads: Vec<JoinHandle<()>>,
}

impl RunningVm {
    /// Starts the VMM and waits until the guest says that it is ready.
    pub fn start(start: Start, leavings: &Leavings, console: &Console) -> Result<Self> {
        let (sender, events) = channel();
        forward_signals(sender.clone())?;
        let mut guard = start_guard(leavings)?;
        let started = start_vmm(&start, &sender, console);
        let (vmm, threads) = match started {
            Ok(started) => started,
            Err(error) => {
                drop(guard.stdin.take());
                let _ = guard.wait();
                return Err(error);
            }
        };
        let mut running = Self {
            name: start.name,
            vmm,
            guard,
            events,
            threads,
        };
        let pid = running.pid();
        if let Some(pipe) = &mut running.guard.stdin {
            writeln!(pipe, "{pid}").context("the guard does not listen")?;
        }
        running.wait_until_ready(Instant::now() + BOOT_LIMIT)?;
        Ok(running)
    }

    /// The process that holds the guest's RAM.
    pub fn pid(&self) -> u32 {
        self.vmm.id()
    }

    /// The VM's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until something happens, at most for `limit`; nothing happening is `None`.
    pub fn next_event(&self, limit: Option<Duration>) -> Option<Event> {
        let Some(limit) = limit else {
            return self.events.recv().ok();
        };
        self.events.recv_timeout(limit).ok()
    }

    /// Waits until the guest's script ends, and gives its exit status; without a script this waits for a signal.
    pub fn wait(&self) -> Result<u8> {
        loop {
            match self.next_event(None) {
                Some(Event::Exit(status)) => return Ok(status),
                Some(Event::Failed(reason)) => bail!("the guest failed: {reason}"),
                Some(Event::Signal(signal)) => return Err(Interrupted(signal).into()),
                Some(Event::Ready | Event::Breakpoint) => {}
                Some(Event::VmmEnded) | None => {
                    // The guest's last words may still be on their way.
                    match self.next_event(Some(Duration::from_millis(200))) {
                        Some(Event::Exit(status)) => return Ok(status),
                        _ => bail!("the VM {} ended by itself", self.name),
                    }
                }
            }
        }
    }

    /// Lets a guest that is about to power off do so, so that none of its last words is lost.
    pub fn wait_for_power_off(&self) -> Option<Interrupted> {
        let deadline = Instant::now() + POWER_OFF_LIMIT;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            match self.next_event(Some(left)) {
                Some(Event::VmmEnded) | None => break,
                Some(Event::Signal(signal)) => return Some(Interrupted(signal)),
                Some(_) => {}
            }
        }
        None
    }

    /// Waits for the guest's first message.
    fn wait_until_ready(&self, deadline: Instant) -> Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.next_event(Some(left)) {
            Some(Event::Ready) => Ok(()),
            Some(Event::Failed(reason)) => bail!("the guest failed: {reason}"),
            Some(Event::Signal(signal)) => Err(Interrupted(signal).into()),
            Some(Event::Breakpoint) => Err(Misemulated.into()),
            Some(Event::VmmEnded) => {
                // The kernel's last words may still be on their way.
                match self.next_event(Some(Duration::from_millis(200))) {
                    Some(Event::Breakpoint) => Err(Misemulated.into()),
                    _ => bail!("the VMM ended before its guest was up; its messages are above"),
                }
            }
            Some(Event::Exit(status)) => {
                bail!("the guest ended with status {status} before it was up")
            }
            None => bail!("the guest was not up after {} s", BOOT_LIMIT.as_secs()),
        }
    }
}

impl Drop for RunningVm {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
        let _ = self.vmm.wait();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Starts the guard, which cleans up when the pipe to it closes.
fn start_guard(leavings: &Leavings) -> Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("guard")
        .arg("--huge-pages")
        .arg(leavings.huge_pages.to_string());
    for directory in &leavings.directories {
        command.arg("--remove").arg(directory);
    }
    command
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start the guard")
}

/// Starts the VMM with its three lines, and a thread that tells when it ends.
fn start_vmm(
    start: &Start,
    events: &Sender<Event>,
    console: &Console,
) -> Result<(Child, Vec<JoinHandle<()>>)> {
    let (ends, mut threads) = channels::open(events, console)?;
    let [control, script, screen] = ends.0;
    let mut command = Command::new("/proc/self/exe");
    command.arg("start-vmm").arg("--").args(&start.command_line);
    // UML would put its RAM where these point; without them it takes /dev/shm.
    for variable in ["TMPDIR", "TMP", "TEMP"] {
        command.env_remove(variable);
    }
    if let Some(directory) = &start.temporary {
        command.env("TMPDIR", directory);
    }
    let vmm = command
        .stdin(control)
        .stdout(script)
        .stderr(screen)
        .spawn()
        .context("cannot start the VMM")?;
    let pid = Pid::from_child(&vmm);
    let events = events.clone();
    threads.push(std::thread::spawn(move || {
        // The process is left to be collected by its owner, so that its number stays ours until the guard is done.
        while let Err(rustix::io::Errno::INTR) = rustix::process::waitid(
            WaitId::Pid(pid),
            WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
        ) {}
        let _ = events.send(Event::VmmEnded);
    }));
    Ok((vmm, threads))
}

/// Turns the signals that ask us to end into events.
fn forward_signals(events: Sender<Event>) -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])
        .context("cannot watch for signals")?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if events.send(Event::Signal(signal)).is_err() {
                break;
            }
        }
    });
    Ok(())
}
