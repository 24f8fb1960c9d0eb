//! Runs in a guest, as root: fills pages in as many parts of its memory as it can get, each with bytes that name its own
//! guest-physical address, and keeps them until it is killed.
//!
//! `plant-pages SEED`. Says `page GPA ADDRESS` in hexadecimal for each, and in the end `planted`. Memory comes from the
//! highest zone first: a few huge pages of each node show that. A pool of more than is free above 4 GiB reaches what is
//! below, and what it gives out first is what it got last; the rest of it is given back.
#![allow(
    clippy::expect_used,
    reason = "a program of the tests that cannot go on says so by panicking"
)]

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vmshm_shm::{Mapping, PAGE_SIZE, Protection, SharedMemory};
use vmshm_vm_tests::planted::page_contents;

const HUGE_PAGE: u64 = 2 << 20;
/// Huge pages that are kept of each node.
const HUGE_PAGES: u64 = 12;
const ORDINARY: u64 = 8 << 20;
/// Pages of each piece of memory that are filled.
const FILLED: usize = 24;

fn main() {
    let seed = std::env::args().nth(1).expect("plant-pages SEED");
    let seed = seed.parse().expect("SEED is a number");
    let mut kept = vec![fill(MemfdFlags::CLOEXEC, ORDINARY, seed)];
    for pool in pools() {
        let count = pool.join("nr_hugepages");
        let mut used = 0;
        for wanted in [
            HUGE_PAGES,
            free_above_4g(&pool) / HUGE_PAGE + 2 * HUGE_PAGES,
        ] {
            fs::write(&count, (used + wanted).to_string()).expect("the pool grows");
            let got = fs::read_to_string(pool.join("free_hugepages")).expect("the pool tells");
            let got: u64 = got.trim().parse().expect("a number");
            let pages = got.min(HUGE_PAGES);
            if pages > 0 {
                let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
                kept.push(fill(flags, pages * HUGE_PAGE, seed));
            }
            used += pages;
        }
        fs::write(&count, "0").expect("the pool shrinks to what is used");
    }
    println!("planted");
    loop {
        std::thread::park();
    }
}

/// The pools of 2 MiB pages, one for each node; none in user-mode Linux.
fn pools() -> Vec<PathBuf> {
    let nodes = fs::read_dir("/sys/devices/system/node");
    let mut pools: Vec<PathBuf> = nodes
        .into_iter()
        .flatten()
        .flatten()
        .map(|node| node.path().join("hugepages/hugepages-2048kB"))
        .filter(|pool| pool.is_dir())
        .collect();
    pools.sort();
    pools
}

/// What is free in the zone above 4 GiB of the node whose pool this is.
fn free_above_4g(pool: &Path) -> u64 {
    let node = pool.ancestors().nth(2).and_then(Path::file_name);
    let node = node.and_then(|name| name.to_str()).expect("a node");
    let number = node.trim_start_matches("node");
    let zones = fs::read_to_string("/proc/zoneinfo").expect("there is /proc");
    // Node 0, zone   Normal
    //   pages free     786432
    let mut inside = false;
    for line in zones.lines() {
        if line.starts_with("Node ") {
            inside = line.starts_with(&format!("Node {number},")) && line.ends_with(" Normal");
        } else if inside && let Some(pages) = line.trim().strip_prefix("pages free") {
            return pages.trim().parse::<u64>().expect("a number") * PAGE_SIZE;
        }
    }
    0
}

/// Makes new memory, fills some of its pages, and says where they are.
fn fill(flags: MemfdFlags, size: u64, seed: u64) -> Mapping {
    let file = memfd_create("planted", flags).expect("the kernel has memory files");
    ftruncate(&file, size).expect("there is room");
    let memory =
        Mapping::whole(file.as_fd(), size, Protection::ReadWrite).expect("it can be mapped");
    for page in 0..size / PAGE_SIZE {
        memory
            .store_relaxed(page * PAGE_SIZE, 1)
            .expect("it is inside");
    }
    let pagemap = File::open("/proc/self/pagemap").expect("there is /proc");
    let mut pages: Vec<(u64, u64)> = (0..size / PAGE_SIZE)
        .map(|page| {
            let mut entry = [0; 8];
            let place = (memory.address() / PAGE_SIZE + page) * 8;
            pagemap.read_exact_at(&mut entry, place).expect("it tells");
            let frame = u64::from_ne_bytes(entry) & ((1 << 55) - 1);
            assert!(frame > 0, "page frames are hidden");
            (frame * PAGE_SIZE, page * PAGE_SIZE)
        })
        .collect();
    pages.sort_unstable();
    // The lowest, the highest, and some between them.
    let last = pages.len() - 1;
    for index in 0..FILLED {
        let (address, offset) = pages[last * index / (FILLED - 1)];
        let contents = page_contents(seed, address);
        memory.write(offset, &contents).expect("it is inside");
        println!("page {address:x} {:x}", memory.address() + offset);
    }
    memory
}
