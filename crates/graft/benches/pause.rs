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

use std::time::Duration;

use victim::Victim;
use vmshm_graft::{Contents, GraftError, Pause, graft, undo};

/// Grafts that each figure is made of.
const TIMES: usize = 31;

fn main() {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load: {}", load.trim());
    measure("created", Contents::Forget, 0);
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
    let mut whole = Vec::new();
    for _ in 0..TIMES {
        victim.ask("fill");
        let began = std::time::Instant::now();
        let grafted = surely(|| graft(victim.pid(), &region, contents, &[], &mut |_| ()));
        whole.push(began.elapsed());
        pauses.push(in_all(&grafted.pauses));
        surely(|| undo(victim.pid(), &region, contents, &[], &mut |_| ()));
    }
    victim.check();
    let median = |of: fn(&Pause) -> Duration| {
        let mut all: Vec<Duration> = pauses.iter().map(of).collect();
        all.sort();
        all[all.len() / 2]
    };
    whole.sort();
    println!(
        "{what}: pause {:.2?} (and {:.2?} for stopping its threads), the whole graft {:.2?}",
        median(|pause| pause.standing),
        median(|pause| pause.stopping),
        whole[whole.len() / 2],
    );
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
