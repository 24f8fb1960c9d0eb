//! A loopback's region as one program sees it: reachable as long as that program lives.

use std::sync::Arc;

use vmshm_shm::{Fault, LocalMemory, SharedMemory};

use super::life::Life;

/// Memory of this process that a loopback's program shares with another.
#[derive(Debug, Clone)]
pub struct LoopbackMemory {
    memory: Arc<LocalMemory>,
    life: Arc<Life>,
}

impl LoopbackMemory {
    pub(super) const fn new(memory: Arc<LocalMemory>, life: Arc<Life>) -> Self {
        Self { memory, life }
    }
}

impl SharedMemory for LoopbackMemory {
    #[inline]
    fn size(&self) -> u64 {
        self.memory.size()
    }

    #[inline]
    fn load_relaxed(&self, offset: u64) -> Result<u64, Fault> {
        self.life.access()?;
        self.memory.load_relaxed(offset)
    }

    #[inline]
    fn load_acquire(&self, offset: u64) -> Result<u64, Fault> {
        self.life.access()?;
        self.memory.load_acquire(offset)
    }

    #[inline]
    fn store_relaxed(&self, offset: u64, value: u64) -> Result<(), Fault> {
        self.life.access()?;
        self.memory.store_relaxed(offset, value)
    }

    #[inline]
    fn store_release(&self, offset: u64, value: u64) -> Result<(), Fault> {
        self.life.access()?;
        self.memory.store_release(offset, value)
    }

    #[inline]
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.life.access()?;
        self.memory.read(offset, into)
    }

    #[inline]
    fn write(&self, offset: u64, from: &[u8]) -> Result<(), Fault> {
        self.life.access()?;
        self.memory.write(offset, from)
    }

    #[inline]
    fn prefetch(&self, offset: u64, length: u64) {
        self.memory.prefetch(offset, length);
    }

    #[inline]
    fn prefetch_to_write(&self, offset: u64) {
        self.memory.prefetch_to_write(offset);
    }
}
