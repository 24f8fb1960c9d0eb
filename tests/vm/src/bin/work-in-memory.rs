//! Runs in a guest: fills memory, sums it up, and compares, again and again, with so many threads.
//!
//! `work-in-memory FILE MIB THREADS`. FILE says how many rounds were right so far; after a wrong one it says `wrong`, and
//! the program ends with status 1.
#![allow(
    clippy::expect_used,
    reason = "a program of the tests that cannot go on says so by panicking"
)]

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

static RIGHT: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, mebibytes, threads] = arguments.as_slice() else {
        panic!("work-in-memory FILE MIB THREADS");
    };
    let words = mebibytes.parse::<usize>().expect("MIB is a number") << 17;
    let threads: u64 = threads.parse().expect("THREADS is a number");
    for thread in 0..threads {
        std::thread::spawn(move || work(thread, words));
    }
    let part = format!("{file}.part");
    loop {
        let wrong = WRONG.load(Ordering::Relaxed);
        let text = if wrong {
            "wrong".to_owned()
        } else {
            RIGHT.load(Ordering::Relaxed).to_string()
        };
        std::fs::write(&part, text).expect("there is room");
        std::fs::rename(&part, file).expect("it was just written");
        if wrong {
            return ExitCode::FAILURE;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Fills with one stream of numbers, and sums up what is there and what should be.
fn work(thread: u64, words: usize) {
    let mut memory = vec![0_u64; words];
    for round in 1.. {
        let seed = (round << 8) | thread;
        let mut number = seed;
        for word in &mut memory {
            number = next(number);
            *word = number;
        }
        // The compiler must not know what is there.
        let memory = black_box(&mut memory);
        let mut number = seed;
        let mut right = true;
        for word in memory.iter() {
            number = next(number);
            right &= *word == number;
        }
        if !right {
            WRONG.store(true, Ordering::Relaxed);
        }
        RIGHT.fetch_add(1, Ordering::Relaxed);
    }
}

fn next(number: u64) -> u64 {
    number
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407)
}
