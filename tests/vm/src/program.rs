//! The host's programs under test: run to their end, or watched while they run.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::environment;
use crate::lines::Lines;
use crate::patience::{SOON, wait_until};

/// A command line in the making.
#[derive(Debug)]
pub struct Program {
    command: Command,
    input: Vec<u8>,
}

/// How long commands that ask an agent wait for its answer where a test does not say: the 5 s that users get are few in an
/// emulated guest with other things to do.
const ANSWER: [&str; 2] = ["--timeout", "20"];

/// `vmshm` with these arguments.
#[must_use]
pub fn vmshm<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Program {
    let arguments = arguments.into_iter();
    let arguments: Vec<OsString> = arguments.map(|one| one.as_ref().to_owned()).collect();
    let asks = arguments
        .first()
        .is_some_and(|first| first == "region" || first == "pipe");
    let mut command = Command::new(environment::program("vmshm"));
    if asks && arguments.iter().all(|one| one != ANSWER[0]) {
        command.args(ANSWER);
    }
    command.args(arguments);
    Program::new(command)
}

/// `vmshm` with these arguments, as the user `nobody`. Only root can do that.
#[must_use]
pub fn vmshm_as_nobody(arguments: &[&str]) -> Program {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(environment::program("vmshm"))
        .args(arguments);
    Program::new(command)
}

impl Program {
    /// Any other program.
    #[must_use]
    pub fn new(command: Command) -> Self {
        Self {
            command,
            input: Vec::new(),
        }
    }

    /// One more argument.
    #[must_use]
    pub fn argument(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn environment(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// What it reads from its standard input; nothing without this.
    #[must_use]
    pub fn input(mut self, bytes: Vec<u8>) -> Self {
        self.input = bytes;
        self
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it hangs.
    #[must_use]
    pub fn run(self) -> Outcome {
        self.run_within(2 * SOON)
    }

    /// Runs it to its end, which may take its time.
    ///
    /// # Panics
    /// When it hangs.
    #[must_use]
    pub fn run_within(mut self, limit: Duration) -> Outcome {
        let input = std::mem::take(&mut self.input);
        let mut running = self.start();
        let mut stdin = running.stdin.take().expect("not taken yet");
        let writer = std::thread::spawn(move || {
            // A program that does not want its input ends without it.
            let _ = stdin.write_all(&input);
        });
        let outcome = running.wait(limit);
        writer.join().expect("the writer does not panic");
        outcome
    }

    /// Starts it. Its standard input and output are the caller's.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(mut self) -> Running {
        let line = format!("{:?}", self.command);
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self
            .command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {line}: {error}"));
        Running {
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            errors: Lines::collect(child.stderr.take().expect("it is piped")),
            child,
            line,
            started: Instant::now(),
        }
    }
}

/// A program that runs; it is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    line: String,
    started: Instant,
    /// Its standard input, until it is taken.
    pub stdin: Option<ChildStdin>,
    /// Its standard output, until it is taken.
    pub stdout: Option<ChildStdout>,
    /// What it has said on standard error.
    pub errors: Lines,
}

impl Running {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it is gone already.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal)
            .expect("the process is there");
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end within `limit`.
    #[must_use]
    pub fn wait(mut self, limit: Duration) -> Outcome {
        drop(self.stdin.take());
        let output = self.stdout.take().map(read_all);
        let what = format!("end of {} (so far: {})", self.line, self.errors.so_far());
        let status = wait_until(&what, limit, || {
            self.child.try_wait().expect("it is our child")
        });
        let took = self.started.elapsed();
        let output = output.map(|reader| reader.join().expect("the reader does not panic"));
        Outcome {
            line: self.line.clone(),
            code: status.code(),
            signal: status.signal(),
            output: output.unwrap_or_default(),
            errors: self.errors.all(),
            took,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_all(mut stream: ChildStdout) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before a failure is what there is.
        let _ = stream.read_to_end(&mut bytes);
        bytes
    })
}

/// How a program ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its command line.
    pub line: String,
    /// Its exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Its standard output.
    pub output: Vec<u8>,
    /// Its standard error.
    pub errors: String,
    /// The time from its start to its end.
    pub took: Duration,
}

impl Outcome {
    /// Its output, after a success.
    ///
    /// # Panics
    /// When it was none.
    #[track_caller]
    pub fn success(self) -> Vec<u8> {
        assert_eq!(self.code, Some(0), "{} failed: {}", self.line, self.errors);
        self.output
    }

    /// Its output as text, after a success.
    ///
    /// # Panics
    /// When it was none.
    #[track_caller]
    #[must_use]
    pub fn text(self) -> String {
        String::from_utf8(self.success()).expect("the output is text")
    }

    /// Its output as JSON, after a success.
    ///
    /// # Panics
    /// When it was none.
    #[track_caller]
    #[must_use]
    pub fn json(self) -> serde_json::Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("no JSON: {error}: {text}"))
    }

    /// Checks that it failed as every command does: exit code 2, one line `error: …` that holds all of `words`.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn refused(&self, words: &[&str]) -> &Self {
        assert!(self.output.is_empty(), "{}: data on stdout", self.line);
        self.ended_with(words)
    }

    /// The same for a command that may have given data before it failed.
    ///
    /// # Panics
    /// When it did not fail so.
    #[track_caller]
    pub fn ended_with(&self, words: &[&str]) -> &Self {
        assert_eq!(self.code, Some(2), "{}: {}", self.line, self.errors);
        let errors: Vec<&str> = self
            .errors
            .lines()
            .filter(|line| line.starts_with("error: "))
            .collect();
        assert_eq!(errors.len(), 1, "{}: {}", self.line, self.errors);
        for word in words {
            assert!(
                errors[0].contains(word),
                "{}: no {word:?} in {:?}",
                self.line,
                errors[0]
            );
        }
        self
    }

    /// Checks that a line `hint: …` holds all of `words`.
    ///
    /// # Panics
    /// When none does.
    #[track_caller]
    pub fn hints(&self, words: &[&str]) -> &Self {
        let hint = self.errors.lines().find(|line| line.starts_with("hint: "));
        let hint = hint.unwrap_or_else(|| panic!("{}: no hint: {}", self.line, self.errors));
        for word in words {
            assert!(
                hint.contains(word),
                "{}: no {word:?} in {hint:?}",
                self.line
            );
        }
        self
    }

    /// Checks that it took no longer than `limit`.
    ///
    /// # Panics
    /// When it did.
    #[track_caller]
    pub fn within(&self, limit: Duration) -> &Self {
        assert!(
            self.took <= limit,
            "{} took {:?}, more than {limit:?}",
            self.line,
            self.took
        );
        self
    }
}
