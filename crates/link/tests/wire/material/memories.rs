//! Memories that misbehave on purpose: one that becomes unreachable, one whose words
//! change between any two looks, and one that takes notes of who writes where.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use vmshm_shm::{Fault, LocalMemory, SharedMemory};

/// What is consulted before each operation.
pub trait Watcher {
    /// Called before anything happens; an error is what the operation then gives.
    fn before(&self, memory: &LocalMemory, access: Access) -> Result<(), Fault>;
}

/// An operation that is about to happen.
#[derive(Debug, Clone, Copy)]
pub enum Access {
    Load { offset: u64 },
    Store { offset: u64, length: u64 },
}

/// A memory with a watcher before each of its operations.
#[derive(Debug)]
pub struct Watched<W> {
    pub memory: Arc<LocalMemory>,
    pub watcher: Rc<W>,
    /// What it says of itself, as a memory behind system calls does.
    pub costly: bool,
}

impl<W> Clone for Watched<W> {
    fn clone(&self) -> Self {
        Self {
            memory: Arc::clone(&self.memory),
            watcher: Rc::clone(&self.watcher),
            costly: self.costly,
        }
    }
}

impl<W> Watched<W> {
    pub fn new(memory: &Arc<LocalMemory>, watcher: W) -> Self {
        Self {
            memory: Arc::clone(memory),
            watcher: Rc::new(watcher),
            costly: false,
        }
    }

    pub fn costly(self, costly: bool) -> Self {
        Self { costly, ..self }
    }
}

impl<W: Watcher> Watched<W> {
    fn load(&self, offset: u64) -> Result<(), Fault> {
        self.watcher.before(&self.memory, Access::Load { offset })
    }

    fn store(&self, offset: u64, length: usize) -> Result<(), Fault> {
        let length = length as u64;
        self.watcher
            .before(&self.memory, Access::Store { offset, length })
    }
}

impl<W: Watcher> SharedMemory for Watched<W> {
    fn size(&self) -> u64 {
        self.memory.size()
    }
    fn is_costly(&self) -> bool {
        self.costly
    }
    fn load_relaxed(&self, offset: u64) -> Result<u64, Fault> {
        self.load(offset)?;
        self.memory.load_relaxed(offset)
    }
    fn load_acquire(&self, offset: u64) -> Result<u64, Fault> {
        self.load(offset)?;
        self.memory.load_acquire(offset)
    }
    fn store_relaxed(&self, offset: u64, value: u64) -> Result<(), Fault> {
        self.store(offset, 8)?;
        self.memory.store_relaxed(offset, value)
    }
    fn store_release(&self, offset: u64, value: u64) -> Result<(), Fault> {
        self.store(offset, 8)?;
        self.memory.store_release(offset, value)
    }
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.load(offset)?;
        self.memory.read(offset, into)
    }
    fn write(&self, offset: u64, from: &[u8]) -> Result<(), Fault> {
        self.store(offset, from.len())?;
        self.memory.write(offset, from)
    }
}

/// What a memory answers whose owner is gone (`ESRCH`).
pub const GONE: Fault = Fault::Unreachable { code: 3 };

/// Fails operations, counted from one: all from `from` on, or only that one.
#[derive(Debug)]
pub struct Failing {
    pub done: Cell<u64>,
    pub from: Cell<u64>,
    pub only_once: bool,
}

impl Failing {
    pub const fn from(operation: u64) -> Self {
        Self {
            done: Cell::new(0),
            from: Cell::new(operation),
            only_once: false,
        }
    }

    pub const fn once(operation: u64) -> Self {
        Self {
            only_once: true,
            ..Self::from(operation)
        }
    }
}

impl Watcher for Failing {
    fn before(&self, _: &LocalMemory, _: Access) -> Result<(), Fault> {
        let now = self.done.get() + 1;
        self.done.set(now);
        let fails = if self.only_once {
            now == self.from.get()
        } else {
            now >= self.from.get()
        };
        if fails { Err(GONE) } else { Ok(()) }
    }
}

type Trick = Box<dyn FnMut(&LocalMemory, Access)>;

/// A peer who changes memory right before any operation of this side. It also counts
/// the operations, so that a test can tell bounded work from endless work.
pub struct Meddler {
    trick: RefCell<Trick>,
    pub operations: Cell<u64>,
}

impl Meddler {
    pub fn new(trick: impl FnMut(&LocalMemory, Access) + 'static) -> Self {
        Self {
            trick: RefCell::new(Box::new(trick)),
            operations: Cell::new(0),
        }
    }
}

/// No single call of the wire needs as many operations.
pub const PLENTY: u64 = 20_000;

impl Watcher for Meddler {
    fn before(&self, memory: &LocalMemory, access: Access) -> Result<(), Fault> {
        self.operations.set(self.operations.get() + 1);
        assert!(
            self.operations.get() < PLENTY,
            "a hostile peer keeps this side busy without end"
        );
        (self.trick.borrow_mut())(memory, access);
        Ok(())
    }
}

/// Which words this side has written.
#[derive(Debug, Default)]
pub struct Notes {
    pub written: RefCell<BTreeSet<u64>>,
}

impl Watcher for Notes {
    fn before(&self, _: &LocalMemory, access: Access) -> Result<(), Fault> {
        if let Access::Store { offset, length } = access {
            let words = (offset / 8)..(offset + length).div_ceil(8);
            self.written.borrow_mut().extend(words.map(|word| word * 8));
        }
        Ok(())
    }
}
