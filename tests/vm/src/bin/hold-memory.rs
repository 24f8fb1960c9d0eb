//! Holds memory for tests of what may read it: a memory file, or a file in /dev/shm that nobody may open (mode 0, as
//! QEMU's memory-backend-shm has it), already deleted; in both cases mapped.
//!
//! `hold-memory memfd|closed MIB [secret]` says the number of its descriptor and holds until its standard input ends; `secret` marks
//! the process as not dumpable. What it holds starts, 4096 bytes in, with `held by hold-memory`.
#![allow(
    clippy::expect_used,
    reason = "a program of the tests that cannot go on says so by panicking"
)]

use std::io::Read;
use std::os::fd::AsRawFd;

use rustix::fs::{MemfdFlags, Mode, OFlags, ftruncate, memfd_create, open, unlink};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use vmshm_shm::{Mapping, Protection, SharedMemory};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let size = arguments.get(1).and_then(|size| size.parse::<u64>().ok());
    let mebibytes = size.expect("hold-memory memfd|closed MIB");
    let file = if arguments[0] == "memfd" {
        memfd_create("held", MemfdFlags::CLOEXEC).expect("there are memory files")
    } else {
        let path = format!("/dev/shm/vmshm-tests-{}", std::process::id());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = open(&path, flags, Mode::empty()).expect("/dev/shm is there");
        unlink(&path).expect("it was just made");
        file
    };
    ftruncate(&file, mebibytes << 20).expect("there is room");
    let memory =
        Mapping::whole(&file, mebibytes << 20, Protection::ReadWrite).expect("it can be mapped");
    memory
        .write(4096, b"held by hold-memory")
        .expect("it is long enough");
    if arguments.iter().any(|word| word == "secret") {
        set_dumpable_behavior(DumpableBehavior::NotDumpable).expect("every process may");
    }
    println!("{}", file.as_raw_fd());
    let mut rest = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut rest);
}
