//! Test support: this process as a VMM, with a memory file as the RAM of a guest whose
//! pages the tests write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use vmshm_link::beacon::{Beacon, KEEPER_PULSE, PAGE_BYTES};
use vmshm_link::{Extent, GuestPhysical};
use vmshm_ram::{Machine, Method, RamBlock, find_by_pid};
use vmshm_shm::{Mapping, Piece, Protection, SharedMemory};

use crate::os;
use crate::sighting::Target;

/// The boot id of the guest, and of a guest inside it.
pub(crate) const OUTER: [u8; 16] = [1; 16];
pub(crate) const INNER: [u8; 16] = [2; 16];

/// A guest in this process.
pub(crate) struct OwnGuest {
    memory: Arc<Mapping>,
    /// Which of the VMM's blocks its RAM is.
    pub(crate) block: usize,
    pub(crate) target: Target,
}

impl OwnGuest {
    /// A guest with `size` bytes of RAM in a machine of this kind.
    pub(crate) fn new(size: u64, machine: Machine) -> Self {
        let mut guests = Self::several(size, machine, 1);
        guests.pop().expect("one was made")
    }

    /// A VMM with `count` blocks of which one may be its guest's RAM, each as if it was that.
    pub(crate) fn several(size: u64, machine: Machine, count: usize) -> Vec<Self> {
        let file = |_| os::make_memory_file("guest-ram", size).expect("a memory file");
        let files: Vec<_> = (0..count).map(file).collect();
        let piece = Piece {
            offset: 0,
            length: size,
        };
        let map = |file| Mapping::new(file, &[piece], Protection::ReadWrite).expect("mapped");
        let memories: Vec<_> = files.iter().map(|file| Arc::new(map(file))).collect();
        let mut vmm = find_by_pid(std::process::id()).expect("this process");
        // Other tests of this process map and unmap theirs at the same time.
        let is_ours = |block: &RamBlock| files.iter().any(|file| os::trial::is_of(block, file));
        vmm.blocks.retain(is_ours);
        assert_eq!(vmm.blocks.len(), count, "the RAM is found");
        vmm.machine = machine;
        vmm.ram_bytes = size;
        let mut guests = Vec::new();
        for (file, memory) in files.iter().zip(memories) {
            let is_own = |block: &RamBlock| os::trial::is_of(block, file);
            let block = vmm.blocks.iter().position(is_own).expect("it is found");
            let target = Target::open(&vmm, Method::Auto).expect("it opens");
            guests.push(Self {
                memory,
                block,
                target,
            });
        }
        guests
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write(at, bytes).expect("written");
    }

    /// A beacon at `at` that states `own`.
    pub(crate) fn beacon(&self, at: u64, own: u64, boot_id: [u8; 16]) {
        self.write(at, &page(own, boot_id));
    }

    /// Makes the hearts at these places beat, after `delay`, until the value is dropped.
    pub(crate) fn beat(&self, places: Vec<u64>, delay: Duration) -> Beating {
        let memory = Arc::clone(&self.memory);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            std::thread::sleep(delay);
            let mut pulse = 100_u64;
            while !stopped.load(Ordering::Relaxed) {
                pulse += 1;
                for place in &places {
                    memory
                        .write(place + KEEPER_PULSE, &pulse.to_le_bytes())
                        .expect("written");
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Beating {
            stop,
            thread: Some(thread),
        }
    }
}

/// A beacon's page.
pub(crate) fn page(own: u64, boot_id: [u8; 16]) -> [u8; PAGE_BYTES] {
    let directory = [Extent {
        start: GuestPhysical(own + 0x1000),
        length: 0x1000,
    }];
    Beacon::new(GuestPhysical(own), boot_id, 99, &directory)
        .expect("a right beacon")
        .to_page()
}

/// Hearts that beat.
pub(crate) struct Beating {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Beating {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it does not panic");
        }
    }
}
