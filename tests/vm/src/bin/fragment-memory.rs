//! Runs in a guest: cuts its free memory into single pages, again and again, until it is killed.
//!
//! `fragment-memory FILE`, a file on a tmpfs that takes half of the free memory. Every second page of it is given back,
//! so that no two free pages lie together, and compaction has much to move. Says `fragmented` after the first round.
#![allow(
    clippy::expect_used,
    reason = "a program of the tests that cannot go on says so by panicking"
)]

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};

const PAGE: u64 = 4096;

fn main() {
    let path = std::env::args().nth(1).expect("fragment-memory FILE");
    let file = File::create(path).expect("the file can be made");
    let pages = half_of_free_memory() / PAGE;
    for round in 0.. {
        for page in 0..pages {
            let one = [0xf7; 4096];
            file.write_all_at(&one, page * PAGE).expect("there is room");
        }
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        for page in (round % 2..pages).step_by(2) {
            fallocate(&file, hole, page * PAGE, PAGE).expect("a tmpfs has holes");
        }
        if round == 0 {
            println!("fragmented");
            std::io::stdout().flush().expect("somebody listens");
        }
    }
}

fn half_of_free_memory() -> u64 {
    let memory = std::fs::read_to_string("/proc/meminfo").expect("there is /proc");
    let line = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.expect("the kernel tells what is available") << 9
}
