//! Whether a loopback's program lives, and how long it still does.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use vmshm_link::LinkError;
use vmshm_shm::Fault;

use super::world::World;
use crate::connection::Right;
use crate::ending::End;

/// No end is set for a life with so many accesses left.
const ENDLESS: u64 = u64::MAX;
/// What a system says of memory that is not there: `EFAULT`.
const NOT_THERE: i32 = 14;

/// A program and its current life.
#[derive(Debug)]
pub(super) struct Program {
    number: u64,
    world: Weak<World>,
    life: Mutex<Arc<Life>>,
}

impl Program {
    pub(super) fn new(world: &Arc<World>) -> Self {
        let (number, world) = (world.new_program(), Arc::downgrade(world));
        Self {
            number,
            life: Mutex::new(Arc::new(Life::new(number, Weak::clone(&world)))),
            world,
        }
    }

    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn life(&self) -> Arc<Life> {
        Arc::clone(&self.life.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins a new life; what was opened in the old one stays dead.
    pub(super) fn revive(&self) {
        let life = Arc::new(Life::new(self.number, Weak::clone(&self.world)));
        *self.life.lock().unwrap_or_else(PoisonError::into_inner) = life;
    }
}

/// One life of a program.
#[derive(Debug)]
pub(super) struct Life {
    /// Accesses that are left.
    left: AtomicU64,
    revoked: AtomicBool,
    program: u64,
    world: Weak<World>,
}

impl Life {
    const fn new(program: u64, world: Weak<World>) -> Self {
        Self {
            left: AtomicU64::new(ENDLESS),
            revoked: AtomicBool::new(false),
            program,
            world,
        }
    }

    pub(super) fn die(&self) {
        self.die_after(0);
    }

    pub(super) fn die_after(&self, accesses: u64) {
        self.left.store(accesses, Ordering::Relaxed);
    }

    pub(super) fn revoke(&self) {
        self.revoked.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_alive(&self) -> bool {
        self.left.load(Ordering::Relaxed) > 0
    }

    /// Whether it lives and has its rights.
    pub(super) fn is_well(&self) -> bool {
        self.is_alive() && !self.revoked.load(Ordering::Relaxed)
    }

    pub(super) fn check_alive(&self) -> Result<(), End> {
        if self.is_alive() {
            Ok(())
        } else {
            Err(End::AgentDied)
        }
    }

    /// Counts an access to memory, which a dead program has none of.
    #[inline]
    pub(super) fn access(&self) -> Result<(), Fault> {
        if self.left.load(Ordering::Relaxed) == ENDLESS {
            return Ok(());
        }
        let one_less = |left: u64| match left {
            ENDLESS => Some(ENDLESS),
            left => left.checked_sub(1),
        };
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .map(drop)
            .map_err(|_| self.mourn())
    }

    /// Tells the others of a death that came at an access.
    #[cold]
    fn mourn(&self) -> Fault {
        if let Some(world) = self.world.upgrade() {
            world.lose(self.program, &End::AgentDied);
        }
        Fault::Unreachable { code: NOT_THERE }
    }
}

/// Whether a loopback's program may still write.
#[derive(Debug, Clone)]
pub struct LoopbackRight {
    life: Arc<Life>,
}

impl LoopbackRight {
    pub(super) const fn new(life: Arc<Life>) -> Self {
        Self { life }
    }
}

impl Right for LoopbackRight {
    #[inline]
    fn verify(&self) -> Result<(), LinkError> {
        if self.life.revoked.load(Ordering::Relaxed) {
            return Err(LinkError::Revoked);
        }
        Ok(())
    }
}
