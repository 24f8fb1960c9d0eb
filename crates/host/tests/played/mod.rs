//! A process that plays a guest with its agent over a memory file, and obeys lines on its input.

pub mod agent;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Which part a process of these tests plays.
pub const ROLE: &str = "VMSHM_TEST_ROLE";

/// A process that plays a part; it is killed with the value.
pub struct Player {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Player {
    /// Starts one that says `ready` when it is.
    pub fn start(role: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("known"))
            .args(["--exact", "role", "--nocapture"])
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("it starts");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let mut player = Self {
            child,
            input,
            output,
        };
        player.wait_for("ready");
        player
    }

    fn wait_for(&mut self, start: &str) -> String {
        loop {
            let mut line = String::new();
            let count = self.output.read_line(&mut line).expect("it talks");
            assert_ne!(count, 0, "it ended before it said {start:?}");
            // The test harness writes to the same output.
            if let Some((_, rest)) = line.split_once(start) {
                return rest.trim().to_owned();
            }
        }
    }

    /// Tells it what to do, and waits until it is done. What it says to that.
    pub fn tell(&mut self, order: &str) -> String {
        writeln!(self.input, "{order}").expect("it listens");
        self.wait_for("done:")
    }

    /// Its process number, as a selector.
    pub fn name(&self) -> String {
        self.child.id().to_string()
    }

    /// Kills it, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.kill();
    }
}
