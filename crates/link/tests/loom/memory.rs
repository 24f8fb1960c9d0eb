//! Shared memory whose words are the model checker's atomics.

use std::cell::Cell;
use std::collections::BTreeMap;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use vmshm_shm::{Fault, LocalMemory, SharedMemory};

/// Words of zero at the given places, and nothing between them. Copies are made word
/// by word with relaxed order, lowest first.
#[derive(Debug, Clone)]
pub struct LoomMemory {
    words: Arc<BTreeMap<u64, AtomicU64>>,
    size: u64,
}

impl LoomMemory {
    /// A memory of `size` bytes of which only `ranges` (start and end) may be touched.
    pub fn new(size: u64, ranges: &[(u64, u64)]) -> Self {
        let words = ranges
            .iter()
            .flat_map(|(start, end)| (*start..*end).step_by(8))
            .map(|offset| (offset, AtomicU64::new(0)))
            .collect();
        Self {
            words: Arc::new(words),
            size,
        }
    }

    fn word(&self, offset: u64) -> Result<&AtomicU64, Fault> {
        if !offset.is_multiple_of(8) {
            return Err(Fault::Misaligned { offset });
        }
        self.words.get(&offset).ok_or(Fault::OutOfBounds {
            offset,
            length: 8,
            size: self.size,
        })
    }
}

impl SharedMemory for LoomMemory {
    fn size(&self) -> u64 {
        self.size
    }

    fn load_relaxed(&self, offset: u64) -> Result<u64, Fault> {
        Ok(self.word(offset)?.load(Ordering::Relaxed))
    }

    fn load_acquire(&self, offset: u64) -> Result<u64, Fault> {
        Ok(self.word(offset)?.load(Ordering::Acquire))
    }

    fn store_relaxed(&self, offset: u64, value: u64) -> Result<(), Fault> {
        self.word(offset)?.store(value, Ordering::Relaxed);
        Ok(())
    }

    fn store_release(&self, offset: u64, value: u64) -> Result<(), Fault> {
        self.word(offset)?.store(value, Ordering::Release);
        Ok(())
    }

    fn order_loads(&self) {
        fence(Ordering::Acquire);
    }

    fn order_stores(&self) {
        fence(Ordering::Release);
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        let mut at = offset;
        let mut rest = into;
        while !rest.is_empty() {
            let skip = usize::try_from(at % 8).expect("less than eight");
            let word = self.load_relaxed(at - at % 8)?.to_le_bytes();
            let count = rest.len().min(8 - skip);
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(&word[skip..skip + count]);
            rest = later;
            at += count as u64;
        }
        Ok(())
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<(), Fault> {
        // Every writer starts at a word, and owns the last one whole.
        assert_eq!(offset % 8, 0, "a copy that starts inside a word");
        for (at, chunk) in (offset..).step_by(8).zip(from.chunks(8)) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.store_relaxed(at, u64::from_le_bytes(word))?;
        }
        Ok(())
    }
}

/// A memory of which only some words are the model checker's, so that long copies stay few
/// cases; the rest is always as it was written last.
#[derive(Debug, Clone)]
pub struct Partly {
    pub modelled: LoomMemory,
    pub rest: std::sync::Arc<LocalMemory>,
}

impl Partly {
    fn owner(&self, offset: u64) -> &dyn SharedMemory {
        if self.modelled.word(offset).is_ok() {
            &self.modelled
        } else {
            &*self.rest
        }
    }
}

impl SharedMemory for Partly {
    fn size(&self) -> u64 {
        self.rest.size()
    }

    fn load_relaxed(&self, offset: u64) -> Result<u64, Fault> {
        self.owner(offset).load_relaxed(offset)
    }

    fn load_acquire(&self, offset: u64) -> Result<u64, Fault> {
        self.owner(offset).load_acquire(offset)
    }

    fn store_relaxed(&self, offset: u64, value: u64) -> Result<(), Fault> {
        self.owner(offset).store_relaxed(offset, value)
    }

    fn store_release(&self, offset: u64, value: u64) -> Result<(), Fault> {
        self.owner(offset).store_release(offset, value)
    }

    fn order_loads(&self) {
        fence(Ordering::Acquire);
    }

    fn order_stores(&self) {
        fence(Ordering::Release);
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        for (at, chunk) in (offset..).step_by(8).zip(into.chunks_mut(8)) {
            let word = self.load_relaxed(at)?.to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        Ok(())
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<(), Fault> {
        for (at, chunk) in (offset..).step_by(8).zip(from.chunks(8)) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.store_relaxed(at, u64::from_le_bytes(word))?;
        }
        Ok(())
    }
}

/// The memory as a process sees it that dies before its operation of a number.
#[derive(Debug)]
pub struct Dying {
    memory: LoomMemory,
    left: Cell<u64>,
}

impl Dying {
    /// Lets `step - 1` operations happen.
    pub fn new(memory: LoomMemory, step: u64) -> Self {
        Self {
            memory,
            left: Cell::new(step),
        }
    }

    fn live(&self) -> Result<&LoomMemory, Fault> {
        self.left.set(self.left.get().saturating_sub(1));
        if self.left.get() == 0 {
            return Err(Fault::Unreachable { code: 3 });
        }
        Ok(&self.memory)
    }
}

impl SharedMemory for Dying {
    fn size(&self) -> u64 {
        self.memory.size()
    }

    fn load_relaxed(&self, offset: u64) -> Result<u64, Fault> {
        self.live()?.load_relaxed(offset)
    }

    fn load_acquire(&self, offset: u64) -> Result<u64, Fault> {
        self.live()?.load_acquire(offset)
    }

    fn store_relaxed(&self, offset: u64, value: u64) -> Result<(), Fault> {
        self.live()?.store_relaxed(offset, value)
    }

    fn store_release(&self, offset: u64, value: u64) -> Result<(), Fault> {
        self.live()?.store_release(offset, value)
    }

    fn order_loads(&self) {
        self.memory.order_loads();
    }

    fn order_stores(&self) {
        self.memory.order_stores();
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.live()?.read(offset, into)
    }

    /// A copy that is cut off has written a part.
    fn write(&self, offset: u64, from: &[u8]) -> Result<(), Fault> {
        match self.live() {
            Ok(memory) => memory.write(offset, from),
            Err(fault) => {
                if let Some(part) = from.get(..8) {
                    self.memory.write(offset, part)?;
                }
                Err(fault)
            }
        }
    }
}
