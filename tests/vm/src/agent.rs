//! The agent's life in a guest: ended in several ways, and started again.

use std::time::Instant;

use crate::guest::Guest;
use crate::patience::{SOON, wait_for};
use crate::status::Status;

/// Kills the agent, and nothing else. Comes back when its process is gone.
///
/// # Panics
/// When none runs.
pub fn kill(guest: &Guest) {
    end(guest, "KILL");
}

/// Asks the agent to leave, and waits until it and its keeper are gone.
///
/// # Panics
/// When none runs, or they stay.
pub fn stop(guest: &Guest) {
    let keeper = Status::of(guest).keeper_pid;
    end(guest, "TERM");
    wait_for("end of the keeper", SOON, || !is_alive(guest, keeper));
}

fn end(guest: &Guest, signal: &str) {
    let agent = Status::of(guest).agent_pid.expect("an agent runs");
    guest.check(&format!("kill -{signal} {agent}"));
    wait_for("end of the agent", SOON, || !is_alive(guest, agent));
}

fn is_alive(guest: &Guest, pid: u32) -> bool {
    let state = guest.run(&format!("grep '^State:' /proc/{pid}/status"));
    state.status == 0 && !state.text.contains('Z')
}

/// Starts an agent and waits until it serves. It runs on without anybody watching.
///
/// # Panics
/// When it does not serve.
pub fn start(guest: &Guest) {
    start_with(guest, "");
}

/// The same with more options.
///
/// # Panics
/// When it does not serve.
pub fn start_with(guest: &Guest, options: &str) {
    guest.check(&format!(
        "setsid vmshm-agent run {options} >agent.log 2>&1 </dev/null &"
    ));
    let deadline = Instant::now() + SOON;
    while !serves(guest) {
        let log = guest.run("cat agent.log").text;
        assert!(!log.contains("error: "), "the agent does not serve: {log}");
        assert!(Instant::now() < deadline, "the agent hangs: {log}");
    }
}

fn serves(guest: &Guest) -> bool {
    let status = guest.run("vmshm-agent status --json 2>/dev/null").text;
    let status: Option<Status> = serde_json::from_str(&status).ok();
    status.is_some_and(|status| status.state == "alive")
}

/// Waits until the guest has pinned so many bytes.
///
/// # Panics
/// When it does not come to that.
pub fn wait_for_pinned(guest: &Guest, bytes: u64) {
    wait_for(&format!("{bytes} pinned bytes"), SOON, || {
        Status::of(guest).pinned_bytes == bytes
    });
}
