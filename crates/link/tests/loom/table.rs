//! A region table entry that is replaced while somebody reads it.

use loom::thread;
use vmshm_link::LinkError;
use vmshm_link::beacon::PAGE;
use vmshm_link::directory::{RegionEntry, RegionKind, read_region, write_region};
use vmshm_link::fields::Text;
use vmshm_shm::{Fault, SharedMemory};

use crate::check;
use crate::memory::LoomMemory;

/// The words of an entry that the two versions differ in; only these are modelled.
const LIVE: [u64; 4] = [0x00, 0x08, 0x18, 0x40];

/// The first table page: the live words of one entry are the model's, all else is zero.
/// A copy that follows another gives way first, as a reader does that looks again.
#[derive(Clone)]
struct Entry(LoomMemory);

impl Entry {
    fn new() -> Self {
        Self(LoomMemory::new(
            2 * PAGE,
            &LIVE.map(|at| (PAGE + at, PAGE + at + 8)),
        ))
    }

    fn live(offset: u64) -> impl Iterator<Item = (u64, usize)> {
        LIVE.into_iter().map(move |at| {
            let place = PAGE + at - offset;
            (PAGE + at, usize::try_from(place).expect("small"))
        })
    }
}

impl SharedMemory for Entry {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn load_relaxed(&self, offset: u64) -> Result<u64, Fault> {
        self.0.load_relaxed(offset)
    }
    fn load_acquire(&self, offset: u64) -> Result<u64, Fault> {
        self.0.load_acquire(offset)
    }
    fn store_relaxed(&self, offset: u64, value: u64) -> Result<(), Fault> {
        self.0.store_relaxed(offset, value)
    }
    fn store_release(&self, offset: u64, value: u64) -> Result<(), Fault> {
        self.0.store_release(offset, value)
    }
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        thread::yield_now();
        into.fill(0);
        for (word, place) in Self::live(offset) {
            self.0.read(word, &mut into[place..place + 8])?;
        }
        Ok(())
    }
    fn write(&self, offset: u64, from: &[u8]) -> Result<(), Fault> {
        for (word, place) in Self::live(offset) {
            self.0.write(word, &from[place..place + 8])?;
        }
        Ok(())
    }
}

fn entry(id: u64) -> RegionEntry {
    RegionEntry {
        id,
        kind: RegionKind::from_word(0),
        size: id * PAGE,
        ready: false,
        record: 0,
        ended: None,
        name: Text::new(if id == 1 { "old" } else { "new" }),
    }
}

fn replace(new: Option<RegionEntry>) {
    check(4, move || {
        let memory = Entry::new();
        write_region(&memory, 0, Some(&entry(1))).expect("reachable");
        let seen = memory.clone();
        let reader = thread::spawn(move || read_region(&seen, 0));
        write_region(&memory, 0, new.as_ref()).expect("reachable");
        match reader.join().expect("no panic") {
            Ok(found) => assert!(found == Some(entry(1)) || found == new, "{found:?}"),
            // A writer that is stopped half-way leaves nothing to be read.
            Err(LinkError::Violation { what, .. }) => assert!(what.contains("checksum")),
            Err(other) => panic!("{other}"),
        }
    });
}

#[test]
fn an_entry_is_seen_before_or_after_its_change() {
    replace(Some(entry(2)));
}

#[test]
fn an_entry_is_seen_until_it_is_removed() {
    replace(None);
}
