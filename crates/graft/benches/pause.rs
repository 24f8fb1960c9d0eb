//! How long a process stands still for a region of 64 MiB in pieces of 2 MiB on huge pages: `cargo bench -p vmshm-graft`.
//!
//! Each figure is the median over a number of grafts of one process whose ten threads work all the time, and the share
//! that stopping and finding its threads took is told apart. Other programs on the machine lengthen all of them,
//! so its load is shown, too. Rows: memory that nobody uses yet (a region's creation); memory that is in use but
//! not written at the moment; and memory of which every so manieth page is written over and over.

#![allow(clippy::unwrap_used)]

#[path = "../tests/victim/mod.rs"]
#[allow(dead_code)]
mod victim;

use std::time::{Duration, Instant};

use victim::Victim;
use vmshm_graft::{Contents, GraftError, Pause, Step, graft, undo};

/// Grafts that each figure is made of.
const TIMES: usize = 31;

fn main() {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load: {}", load.trim());
    measure("created", Contents::Forget, 0);
    measure_what_is_missed();
    measure("in use, not written", Contents::Keep, 0);
    measure("in use, each 64th page written", Contents::Keep, 64);
    measure("in use, each page written", Contents::Keep, 1);
}

/// Grafts and undoes over and over.
fn measure(what: &str, contents: Contents, step: u32) {
    let mut victim = Victim::start("huge");
    victim.ask(&format!("use {step}"));
    let region = victim.unused_region("pause");
    let mut pauses = Vec::new();
    let (mut whole, mut longest) = (Vec::new(), Vec::new());
    let (mut copying, mut calling) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        victim.ask("fill");
        let began = Instant::now();
        let mut last = began;
        let mut watch = |step: Step| {
            match step {
                Step::Copied => copying.push(last.elapsed()),
                Step::Done => calling.push(last.elapsed()),
                _ => {}
            }
            last = Instant::now();
        };
        let grafted = surely(|| graft(victim.pid(), &region, contents, &[], &mut watch));
        whole.push(began.elapsed());
        longest.extend(grafted.pauses.iter().map(|pause| pause.standing).max());
        pauses.push(in_all(&grafted.pauses));
        surely(|| undo(victim.pid(), &region, contents, &[], &mut |_| ()));
    }
    victim.check();
    println!(
        "{what}: pause {:.2?} (the longest stretch {:.2?}; {:.2?} for copying, {:.2?} for calls), and {:.2?} for stopping its threads; the whole graft {:.2?}",
        median(pauses.iter().map(|pause| pause.standing).collect()),
        median(longest),
        median(copying),
        median(calling),
        median(pauses.iter().map(|pause| pause.stopping).collect()),
        median(whole),
    );
}

/// At a region's creation one thread is borrowed: what another one misses that never sleeps, beside what
/// it misses in as long a time beside a program that works.
fn measure_what_is_missed() {
    let mut victim = Victim::start("huge");
    let region = victim.unused_region("missed");
    victim.ask("gap");
    let (mut missed, mut anyway) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        victim.ask("fill");
        gap(&mut victim);
        let began = Instant::now();
        surely(|| graft(victim.pid(), &region, Contents::Forget, &[], &mut |_| ()));
        missed.push(gap(&mut victim));
        // Somebody who works beside it takes some time from it, whatever he does.
        let (since, long) = (Instant::now(), began.elapsed());
        while since.elapsed() < long {
            std::hint::spin_loop();
        }
        anyway.push(gap(&mut victim));
        surely(|| undo(victim.pid(), &region, Contents::Forget, &[], &mut |_| ()));
    }
    println!(
        "created: another thread misses {:.2?} at the longest, and {:.2?} in as long a time beside another busy program",
        median(missed),
        median(anyway),
    );
}

fn gap(victim: &mut Victim) -> Duration {
    Duration::from_nanos(victim.ask("gap").parse().unwrap())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Tries until the machine had time for it.
fn surely<T>(mut work: impl FnMut() -> Result<T, GraftError>) -> T {
    for _ in 0..50 {
        match work() {
            Ok(done) => return done,
            Err(GraftError::TooSlow { .. } | GraftError::Busy | GraftError::Incomplete { .. }) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the machine never had time for it")
}

fn in_all(pauses: &[Pause]) -> Pause {
    pauses.iter().fold(Pause::default(), |sum, pause| Pause {
        stopping: sum.stopping + pause.stopping,
        standing: sum.standing + pause.standing,
    })
}
