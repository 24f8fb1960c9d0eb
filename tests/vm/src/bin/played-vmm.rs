//! A VMM in whose guest nothing runs: the agent is played, over private memory such as QEMU's, so that a guest of the tests
//! can have a VM inside without emulating an emulator.
//!
//! `played-vmm` takes QEMU's options and heeds `-m MIB`. It says `running`, and plays until it is ended.
#![allow(unsafe_code, reason = "RAM as QEMU has it is a mapping of no file")]
#![allow(
    clippy::expect_used,
    reason = "a program of the tests that cannot go on says so by panicking"
)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};
use vmshm_played_guest::{Guest, Plan};
use vmshm_shm::{Fault, SharedMemory};

/// What QEMU is told by in its file.
static VERSION: &str = "QEMU emulator version 0 (played)";
/// How RAM is aligned.
const HUGE_PAGE: usize = 2 << 20;
/// How long a guest that nobody asks lives on between two looks.
const MOMENT: Duration = Duration::from_millis(1);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let option = arguments.iter().position(|word| word == "-m");
    let mebibytes = option.and_then(|at| arguments.get(at + 1)?.parse::<usize>().ok());
    let memory = PrivateMemory::new(mebibytes.expect("-m MIB") << 20);
    let plan = Plan::split(memory.size(), 3 << 30, 4 << 30);
    let mut guest = Guest::new(Arc::new(memory), plan);
    println!("running: {VERSION}");
    loop {
        guest.step();
        std::thread::sleep(MOMENT);
    }
}

/// Private memory of this process, reached by the system's copies: what is mapped there may be exchanged at any time.
struct PrivateMemory {
    file: File,
    start: u64,
    size: u64,
}

impl PrivateMemory {
    fn new(size: usize) -> Self {
        let (nothing, all) = (ProtFlags::empty(), MapFlags::PRIVATE);
        let around = size + 2 * HUGE_PAGE;
        // SAFETY: a new mapping at a place that the kernel chooses takes nothing away from anybody.
        let reserved = unsafe { mmap_anonymous(std::ptr::null_mut(), around, nothing, all) };
        let reserved = reserved.expect("there is room").cast::<u8>();
        // What lies before and behind stays out of reach, so that no other mapping joins the RAM.
        let skip = HUGE_PAGE - reserved.addr() % HUGE_PAGE;
        let start = reserved.wrapping_add(skip);
        let access = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: it lies inside of the reservation, which nobody else uses.
        unsafe { mprotect(start.cast(), size, access) }.expect("it is ours");
        let file = File::options()
            .read(true)
            .write(true)
            .open("/proc/self/mem");
        Self {
            file: file.expect("a process may change itself"),
            start: start.expose_provenance() as u64,
            size: size as u64,
        }
    }

    /// Where a part lies in this process.
    fn place(&self, offset: u64, length: u64, alignment: u64) -> Result<u64, Fault> {
        if !offset.is_multiple_of(alignment) {
            return Err(Fault::Misaligned { offset });
        }
        match offset.checked_add(length) {
            Some(end) if end <= self.size => Ok(self.start + offset),
            _ => Err(Fault::OutOfBounds {
                offset,
                length,
                size: self.size,
            }),
        }
    }
}

impl SharedMemory for PrivateMemory {
    fn size(&self) -> u64 {
        self.size
    }

    fn load_relaxed(&self, offset: u64) -> Result<u64, Fault> {
        let mut word = [0; 8];
        let place = self.place(offset, 8, 8)?;
        self.file.read_exact_at(&mut word, place).expect("mapped");
        Ok(u64::from_le_bytes(word))
    }

    fn load_acquire(&self, offset: u64) -> Result<u64, Fault> {
        let word = self.load_relaxed(offset);
        fence(Ordering::Acquire);
        word
    }

    fn store_relaxed(&self, offset: u64, value: u64) -> Result<(), Fault> {
        let place = self.place(offset, 8, 8)?;
        let written = self.file.write_all_at(&value.to_le_bytes(), place);
        written.expect("mapped");
        Ok(())
    }

    fn store_release(&self, offset: u64, value: u64) -> Result<(), Fault> {
        fence(Ordering::Release);
        self.store_relaxed(offset, value)
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        let place = self.place(offset, into.len() as u64, 1)?;
        self.file.read_exact_at(into, place).expect("mapped");
        Ok(())
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<(), Fault> {
        let place = self.place(offset, from.len() as u64, 1)?;
        self.file.write_all_at(from, place).expect("mapped");
        Ok(())
    }
}
