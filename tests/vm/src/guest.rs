//! A shell in the guest, over a serial line of the tests' own: the programs under test have no part in it.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::patience::{LATER, wait_until};

/// The guest's end of the line, run by the guest's first program.
pub const SCRIPT: &str = "src/guest_shell.sh";

/// The shell.
#[derive(Debug)]
pub struct Guest {
    line: Mutex<BufReader<UnixStream>>,
    numbers: AtomicU32,
}

/// How a command ended.
#[derive(Debug)]
pub struct Answer {
    /// Its exit status.
    pub status: i32,
    /// What it said on both of its streams.
    pub text: String,
}

impl Guest {
    /// A guest whose shell is at the other end of `line`.
    ///
    /// # Panics
    /// When the line does not work.
    #[must_use]
    pub fn new(line: UnixStream) -> Self {
        line.set_read_timeout(Some(Duration::from_millis(200)))
            .expect("the line is there");
        Self {
            line: Mutex::new(BufReader::new(line)),
            numbers: AtomicU32::new(1),
        }
    }

    /// Runs a command to its end, as root.
    ///
    /// # Panics
    /// When the guest does not answer.
    pub fn run(&self, command: &str) -> Answer {
        // After a panic of another thread the line may be between two answers; the number tells.
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let escaped = command.replace('\\', "\\\\").replace('\n', "\\n");
        let request = format!("{number} {escaped}\n");
        line.get_mut()
            .write_all(request.as_bytes())
            .expect("the guest's line is open");
        answer(&mut line, number, command)
    }

    /// Waits until the shell is ready.
    ///
    /// # Panics
    /// When it is not.
    pub fn wait_until_ready(&self) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        answer(&mut line, 0, "the start");
    }

    /// Runs a command that must succeed, and gives what it said.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn check(&self, command: &str) -> String {
        let answer = self.run(command);
        assert_eq!(answer.status, 0, "in the guest: {command}: {}", answer.text);
        answer.text.trim_end().to_owned()
    }

    /// Starts a command and leaves it running.
    ///
    /// # Panics
    /// When the guest does not answer.
    #[must_use]
    pub fn start(&self, command: &str) -> Job<'_> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let pid = self.check(&format!(
            "cat >{number}.sh <<'END OF JOB'\n{command}\nEND OF JOB\n\
             : >{number}.out; : >{number}.err\n\
             setsid sh -c 'sh {number}.sh >{number}.out 2>{number}.err </dev/null; \
             echo $? >{number}.part; mv {number}.part {number}.status' >/dev/null 2>&1 &\necho $!"
        ));
        Job {
            guest: self,
            number,
            pid,
            ended: false,
        }
    }
}

/// Reads the answer to the command of this number.
fn answer(line: &mut BufReader<UnixStream>, number: u32, command: &str) -> Answer {
    let deadline = Instant::now() + LATER;
    let end = format!("end {number} ");
    let mut text = String::new();
    loop {
        let answer = next_line(line, deadline, command);
        if let Some(part) = answer.strip_prefix('.') {
            text.push_str(part);
            text.push('\n');
        } else if let Some(status) = answer.strip_prefix(&end) {
            let status = status.parse().expect("the status is a number");
            return Answer { status, text };
        } else if !answer.is_empty() {
            // The rest of an answer that nobody waited for.
            text.clear();
        }
    }
}

fn next_line(line: &mut BufReader<UnixStream>, deadline: Instant, command: &str) -> String {
    let mut bytes = Vec::new();
    loop {
        match line.read_until(b'\n', &mut bytes) {
            Ok(0) => panic!("the guest has gone during: {command}"),
            Ok(_) if bytes.ends_with(b"\n") => {
                return String::from_utf8_lossy(&bytes)
                    .trim_end_matches(['\r', '\n'])
                    .to_owned();
            }
            Ok(_) => {}
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => panic!("the guest's line is broken: {error}"),
        }
        assert!(
            Instant::now() < deadline,
            "the guest does not answer to: {command}"
        );
    }
}

/// A command that runs in the guest; it is killed with its children when this is dropped.
#[derive(Debug)]
pub struct Job<'a> {
    guest: &'a Guest,
    number: u32,
    pid: String,
    ended: bool,
}

/// How a job ended.
#[derive(Debug)]
pub struct JobOutcome {
    /// Its exit status.
    pub status: i32,
    /// What it said on standard output.
    pub output: String,
    /// What it said on standard error.
    pub errors: String,
}

impl Job<'_> {
    /// What it has said on standard output.
    #[must_use]
    pub fn output(&self) -> String {
        self.guest.check(&format!("cat {}.out", self.number))
    }

    /// What it has said on standard error.
    #[must_use]
    pub fn errors(&self) -> String {
        self.guest.check(&format!("cat {}.err", self.number))
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end within `limit`.
    #[must_use]
    pub fn wait(mut self, limit: Duration) -> JobOutcome {
        let number = self.number;
        let status = wait_until("end of a command in the guest", limit, || {
            let answer = self.guest.run(&format!("cat {number}.status"));
            (answer.status == 0).then_some(answer.text)
        });
        self.ended = true;
        JobOutcome {
            status: status.trim().parse().expect("the status is a number"),
            output: self.output(),
            errors: self.errors(),
        }
    }
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        // A test that panics gives up its whole machine.
        if !self.ended && !std::thread::panicking() {
            self.guest.run(&format!("kill -9 -{}", self.pid));
        }
    }
}
