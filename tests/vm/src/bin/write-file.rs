//! Runs in a guest: maps a file and writes the random bytes of a seed into it.
//!
//! `write-file FILE SIZE SEED`. A file of huge pages can be written in no other way than mapped.
#![allow(
    clippy::expect_used,
    reason = "a program of the tests that cannot go on says so by panicking"
)]

use std::fs::File;

use vmshm_shm::{Mapping, Protection, SharedMemory};
use vmshm_vm_tests::bytes::RandomBytes;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, size, seed] = &arguments[..] else {
        panic!("write-file FILE SIZE SEED");
    };
    let size = size.parse().expect("SIZE is a number");
    let seed = seed.parse().expect("SEED is a number");
    let file = File::options().read(true).write(true).open(path);
    let file = file.expect("the file is there");
    let memory = Mapping::whole(file, size, Protection::ReadWrite).expect("the file can be mapped");
    let bytes = RandomBytes::new(seed).take(usize::try_from(size).expect("SIZE fits"));
    memory.write(0, &bytes).expect("the file has that size");
}
