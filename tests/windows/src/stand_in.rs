//! A process that stands in for a VMM, and the guest that is played in it.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout};

use serde_json::Value;
use vmshm_vm_tests::program::{Program, Running};

use crate::wine::Wine;

/// The name that VMware's process has.
pub const VMWARE: &str = "vmware-vmx.exe";
/// The name that QEMU's process has.
pub const QEMU: &str = "qemu-system-x86_64.exe";
/// A name that no VMM has.
pub const NOBODY: &str = "holder.exe";

/// A stand-in that runs; it is ended when this is dropped.
#[derive(Debug)]
pub struct StandIn {
    running: Running,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// Its process number, as Windows counts.
    pub number: u64,
    /// The same, as an argument.
    pub pid: String,
    /// What it said of itself.
    pub said: Value,
}

impl StandIn {
    /// Starts one under a name with these options.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(wine: &Wine, name: &str, options: &[&str]) -> Self {
        let mut command = wine.command(name);
        command.args(options);
        let mut running = Program::new(command).start();
        let input = running.stdin.take();
        let mut output = BufReader::new(running.stdout.take().expect("it is piped"));
        let said = line(&mut output, &running);
        let number = said["pid"].as_u64().expect("it tells its number");
        Self {
            running,
            input,
            output,
            number,
            pid: number.to_string(),
            said,
        }
    }

    /// Tells it what to do, and waits until it is done: what it says to that.
    ///
    /// # Panics
    /// When it has ended.
    pub fn tell(&mut self, order: &str) -> String {
        let input = self.input.as_mut().expect("it was not ended");
        writeln!(input, "{order}").expect("it listens");
        input.flush().expect("it listens");
        let said = line(&mut self.output, &self.running);
        said["done"].as_str().expect("an answer").to_owned()
    }

    /// The number of the process as this host counts.
    #[must_use]
    pub fn host_pid(&self) -> u32 {
        self.running.pid()
    }
}

fn line(output: &mut BufReader<ChildStdout>, running: &Running) -> Value {
    let mut line = String::new();
    let count = output.read_line(&mut line).expect("it talks");
    assert_ne!(count, 0, "it has ended: {}", running.errors.so_far());
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
}
