//! `idle`: what two ends cost that are connected and asleep in `receive`: the host's process, and the VMM's processes
//! above what they took before there was a connection.
//!
//! The guest's end is this program again ([`sleep_in_guest`]), which the VM's script starts. It waits for the host with
//! the baseline, so nothing but the connection is between the two.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vmshm_guest::Agent;
use vmshm_host::Vm;
use vmshm_host::machines;

use crate::interruption;
use crate::measurement::{Measurement, Plan, Round};

/// The region of both ends.
pub const REGION: &str = "bench-idle";
const SIZE: u64 = 1 << 16;
/// The bound of each sleep: how often an end looks at least. Both are the libraries' own defaults.
const HOST_SLEEP: Duration = Duration::from_millis(5);
const GUEST_SLEEP: Duration = Duration::from_millis(40);
/// The guest's end waits so long for the host's.
const GUEST_WAITS: Duration = Duration::from_secs(3600);
const OPEN_WITHIN: Duration = Duration::from_secs(30);
/// Rounds with a connection.
const ROUNDS: usize = 5;

/// The row, on the VM of this name.
pub fn measure(plan: &Plan, name: &str) -> Result<Measurement> {
    let vmm = machines::find(name).with_context(|| format!("there is no VM {name}"))?;
    let each = Duration::from_secs(if plan.quick { 2 } else { 6 });
    let used_by_vmm = || used(|process, session| process == vmm.pid || session == vmm.pid);
    let used_here = || used(|process, _| process == std::process::id());

    // A session that was here until now leaves the guest some work.
    sleep(Duration::from_secs(1))?;
    let mut baseline = 0.0;
    for _ in 0..2 {
        baseline += share(each, &used_by_vmm, sleep)? / 2.0;
    }
    let vm = Vm::connect(name).with_context(|| format!("connecting to {name}"))?;
    let mut ring = vm
        .region(REGION)
        .size(SIZE)
        .timeout(OPEN_WITHIN)
        .longest_sleep(HOST_SLEEP)
        .ring::<u64>()
        .with_context(|| format!("opening {name}/{REGION}"))?;
    // What the guest says first shows that its end is there.
    ensure!(
        ring.receive_timeout(OPEN_WITHIN)? == 1,
        "the guest's end said something else"
    );
    sleep(Duration::from_millis(500))?;
    let mut rounds = Vec::new();
    let (mut host, mut guest) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut before = (0.0, 0.0);
        let mut asleep = |time| {
            before = (used_here(), used_by_vmm());
            // Nothing is ever sent: a timeout is what is expected.
            let _ = ring.receive_timeout(time);
            interruption::check()
        };
        let start = Instant::now();
        asleep(each)?;
        let seconds = start.elapsed().as_secs_f64();
        let here = (used_here() - before.0).max(0.0) / seconds * 100.0;
        let there = ((used_by_vmm() - before.1) / seconds * 100.0 - baseline).max(0.0);
        host.push(here);
        guest.push(there);
        rounds.push(Round {
            ours: here.max(there),
            ..Round::default()
        });
    }
    let mut additional = serde_json::Map::new();
    let mut say = |name: &str, value: f64| additional.insert(name.to_owned(), value.into());
    say("host_percent", middle(host));
    say("guest_percent", middle(guest));
    say("guest_baseline_percent", baseline);
    say("host_looks_every_ms", HOST_SLEEP.as_secs_f64() * 1e3);
    say("guest_looks_every_ms", GUEST_SLEEP.as_secs_f64() * 1e3);
    let _ = vm.remove(REGION);
    Ok(Measurement {
        name: "idle",
        unit: "% of a core",
        better: "lower",
        peer_name: None,
        rounds,
        additional,
    })
}

/// The guest's end: opens the region, says that it is there, and sleeps in `receive` until the connection is over.
pub fn sleep_in_guest() -> Result<()> {
    let agent = Agent::connect()?;
    let mut ring = agent
        .region(REGION)
        .size(SIZE)
        .timeout(GUEST_WAITS)
        .longest_sleep(GUEST_SLEEP)
        .ring::<u64>()?;
    ring.send(&1)?;
    loop {
        ring.receive()?;
    }
}

/// Sleeps, and looks for signals.
fn sleep(time: Duration) -> Result<()> {
    std::thread::sleep(time);
    interruption::check()
}

/// What `used` grew by while `wait` lasted, in percent of that time.
fn share(
    time: Duration,
    used: &impl Fn() -> f64,
    wait: impl FnOnce(Duration) -> Result<()>,
) -> Result<f64> {
    let (start, before) = (Instant::now(), used());
    wait(time)?;
    Ok((used() - before).max(0.0) / start.elapsed().as_secs_f64() * 100.0)
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Seconds on a processor of all threads of the processes that are chosen by their number and their session's.
fn used(chosen: impl Fn(u32, u32) -> bool) -> f64 {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let nanoseconds: f64 = processes
        .filter(|process| {
            let number = process
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
            number.is_some_and(|number| chosen(number, session(&stat)))
        })
        .filter_map(|process| process.path().join("task").read_dir().ok())
        .flat_map(|tasks| tasks.flatten())
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<f64>().ok())
        .sum();
    nanoseconds / 1e9
}

/// The session of a line of `/proc/PID/stat`; zero if there is none.
fn session(stat: &str) -> u32 {
    // pid (name) state parent group session …; the name may hold anything, so count from its end.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let mut fields = after_name.split_whitespace();
    fields
        .nth(3)
        .and_then(|session| session.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_found_behind_any_name() {
        assert_eq!(session("7 (a) b) S 1 2 3 4"), 3);
        assert_eq!(session(""), 0);
    }

    #[test]
    fn this_process_has_used_a_processor() {
        let own = std::process::id();
        let before = used(|process, _| process == own);
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        assert!(used(|process, _| process == own) >= before);
        assert_eq!(used(|_, _| false), 0.0);
    }
}
