//! The project's examples as the tests run them: one program, on the host and in the guest.

use std::process::Command;

use crate::environment;
use crate::guest::{Job, JobOutcome};
use crate::patience::LATER;
use crate::program::Program;

/// The host's side of an example.
#[must_use]
pub fn on_host(example: &str, machine: &str, options: &[&str]) -> Program {
    let mut command = Command::new(environment::example(example));
    command
        .args(["host", machine, "--timeout", "60"])
        .args(options);
    Program::new(command)
}

/// Waits for the guest's side, which must have ended well.
///
/// # Panics
/// When it has not.
pub fn outcome_in_guest(job: Job<'_>, example: &str) -> JobOutcome {
    let outcome = job.wait(LATER);
    assert_eq!(
        outcome.status, 0,
        "{example} in the guest: {}{}",
        outcome.output, outcome.errors
    );
    outcome
}
