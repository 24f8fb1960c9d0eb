//! `vmshm listen`, and agents that connect out to it.

use serde_json::Value;

use crate::agent;
use crate::lines::Lines;
use crate::machine::Machine;
use crate::patience::{LATER, SOON, wait_for, wait_until};
use crate::program::{Outcome, Running, vmshm};
use rustix::process::Signal;

/// A listener that runs.
#[derive(Debug)]
pub struct Listener {
    running: Running,
    printed: Lines,
    /// Its port on 127.0.0.1; zero where it has none.
    pub port: u16,
}

impl Listener {
    /// Starts one, and waits until it listens. Port 0 is any free one.
    ///
    /// # Panics
    /// When it does not listen.
    #[must_use]
    pub fn start(port: u16) -> Self {
        Self::start_at(&[&format!("127.0.0.1:{port}")])
    }

    /// Starts one that listens at these addresses.
    ///
    /// # Panics
    /// When it does not listen.
    #[must_use]
    pub fn start_at(addresses: &[&str]) -> Self {
        // A guest without a processor of its own may take long for each step.
        let words = [&["listen"], addresses, &["--json", "--timeout", "60"]].concat();
        let mut running = vmshm(words).start();
        let printed = Lines::collect(running.stdout.take().expect("not taken yet"));
        let said = "listening at ";
        let lines = wait_until("listener", SOON, || {
            let text = running.errors.so_far();
            let lines = text.lines().filter_map(|line| line.strip_prefix(said));
            let lines: Vec<String> = lines.map(str::to_owned).collect();
            (lines.len() >= addresses.len()).then_some(lines)
        });
        let ports = lines
            .iter()
            .filter_map(|line| line.strip_prefix("127.0.0.1:")?.parse().ok());
        Self {
            running,
            printed,
            port: ports.into_iter().next().unwrap_or(0),
        }
    }

    /// The lines of tied agents so far.
    ///
    /// # Panics
    /// When one is no JSON.
    #[must_use]
    pub fn tied(&self) -> Vec<Value> {
        let text = self.printed.so_far();
        let line = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        text.lines().map(line).collect()
    }

    /// Waits until so many agents have been tied in all.
    ///
    /// # Panics
    /// When they are not.
    #[must_use]
    pub fn wait_for_tied(&self, count: usize) -> Vec<Value> {
        let what = format!("{count} tied agents");
        wait_for(&what, LATER, || self.tied().len() >= count);
        self.tied()
    }

    /// What it has said on standard error.
    #[must_use]
    pub fn said(&self) -> String {
        self.running.errors.so_far()
    }

    /// Waits until it has said these words.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_for_words(&self, words: &str) {
        self.running.errors.wait_for(words, LATER);
    }

    /// Ends it by a signal.
    ///
    /// # Panics
    /// When it does not end.
    #[must_use]
    pub fn end(self, signal: Signal) -> Outcome {
        self.running.signal(signal);
        self.running.wait(SOON)
    }
}

/// Has the machine's agent leave, and starts one that connects to a port of the host.
///
/// # Panics
/// When it does not serve.
pub fn connect_agent(machine: &Machine, port: u16) {
    connect_agent_to(machine, &format!("tcp:10.0.2.2:{port}"));
}

/// The same to any place.
///
/// # Panics
/// When it does not serve.
pub fn connect_agent_to(machine: &Machine, place: &str) {
    agent::stop(&machine.guest);
    agent::start_with(&machine.guest, &format!("--connect {place}"));
}

/// What the guest's agent says of its connection.
///
/// # Panics
/// When it does not tell.
#[must_use]
pub fn connection_of(machine: &Machine) -> Value {
    let text = machine.guest.check("vmshm-agent status --json");
    let status: Value = serde_json::from_str(&text).expect("JSON");
    status["connection"].clone()
}
