//! Runs in a guest: fills all memory that is free, and looks for some seconds whether anybody else writes there.
//!
//! `fill-memory SECONDS`. Says `filled N MiB` when all is taken, and in the end `N foreign words`.
#![allow(
    clippy::expect_used,
    reason = "a program of the tests that cannot go on says so by panicking"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

/// What every word holds.
const PATTERN: u64 = 0x5eed_0fa1_1c01_0b75;
/// The words of one block.
const BLOCK: usize = (2 << 20) / 8;
/// So much is left to the rest of the guest, whose programs would otherwise be read from the host again and again.
const REST: u64 = 48 << 20;

fn main() {
    let seconds = std::env::args().nth(1).expect("fill-memory SECONDS");
    let seconds = seconds.parse().expect("SECONDS is a number");
    let mut blocks = Vec::new();
    while available() > REST {
        blocks.push(vec![PATTERN; BLOCK]);
    }
    println!("filled {} MiB", blocks.len() * 2);
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let mut foreign = 0;
    while foreign == 0 {
        // The compiler must not know what is there.
        for block in black_box(&mut blocks) {
            foreign += block.iter().filter(|word| **word != PATTERN).count();
        }
        if Instant::now() > deadline {
            break;
        }
    }
    println!("{foreign} foreign words");
}

/// How many bytes the guest could still give.
fn available() -> u64 {
    let memory = std::fs::read_to_string("/proc/meminfo").expect("there is /proc");
    let line = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.expect("the kernel tells what is available") << 10
}
