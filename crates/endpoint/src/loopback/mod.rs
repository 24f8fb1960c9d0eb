//! Both sides within one process, over its own memory: for the tests of programs that use
//! links, and for trying them. Everything that a link does is real here, presence, doorbell
//! and ends included; only the VM is not there.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use vmshm_endpoint::loopback;
//!
//! let (host, guest) = loopback::pair();
//! let mut ours = host.region("jobs").size(1 << 16).ring::<u32>()?;
//! let mut theirs = guest.region("jobs").ring::<u32>()?;
//! ours.send(&1)?;
//! guest.kill(); // What a program does whose other side dies is seen so.
//! ours.send(&2)?;
//! theirs.reconnect(Duration::from_secs(1))?;
//! assert_eq!(theirs.receive()?, 1);
//! # Ok(()) }
//! ```

mod life;
mod memory;
mod world;

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use vmshm_link::duplex::Side;
use vmshm_link::ends::DATA;

pub use life::LoopbackRight;
pub use memory::LoopbackMemory;

use crate::connection::{Connection, Doorbell, Held, Wish};
use crate::ending::End;
use crate::error::OpenError;
use crate::options::RegionOptions;
use life::Program;
use world::World;

/// Which side a [`Loopback`] is: [`AtHost`] or [`InGuest`].
pub trait Place: std::fmt::Debug + Send + Sync + 'static {
    /// The side.
    const SIDE: Side;
}

/// The host's side of a loopback.
#[derive(Debug, Clone, Copy)]
pub struct AtHost;

/// The guest's side of a loopback.
#[derive(Debug, Clone, Copy)]
pub struct InGuest;

impl Place for AtHost {
    const SIDE: Side = Side::Host;
}

impl Place for InGuest {
    const SIDE: Side = Side::Guest;
}

/// One side's program. A further program of the same side is made by
/// [`Loopback::another`].
#[derive(Debug)]
pub struct Loopback<P: Place> {
    world: Arc<World>,
    program: Program,
    place: PhantomData<P>,
}

/// A host's program and a guest's, with a doorbell between them.
#[must_use]
pub fn pair() -> (Arc<Loopback<AtHost>>, Arc<Loopback<InGuest>>) {
    pair_over(World::new(true))
}

/// As [`pair`], with nothing that wakes a sleeper: it looks again within its bound.
#[must_use]
pub fn pair_without_doorbell() -> (Arc<Loopback<AtHost>>, Arc<Loopback<InGuest>>) {
    pair_over(World::new(false))
}

fn pair_over(world: World) -> (Arc<Loopback<AtHost>>, Arc<Loopback<InGuest>>) {
    let world = Arc::new(world);
    (
        Loopback::in_world(Arc::clone(&world)),
        Loopback::in_world(world),
    )
}

impl<P: Place> Loopback<P> {
    fn in_world(world: Arc<World>) -> Arc<Self> {
        Arc::new(Self {
            program: Program::new(&world),
            world,
            place: PhantomData,
        })
    }

    /// Another program of the same side.
    #[must_use]
    pub fn another(&self) -> Arc<Self> {
        Self::in_world(Arc::clone(&self.world))
    }

    /// The region called `name`.
    pub fn region(self: &Arc<Self>, name: &str) -> RegionOptions<Self> {
        RegionOptions::new(Arc::clone(self), name)
    }

    /// Lets this program die: whatever it holds is lost, and none of its accesses reaches a
    /// region any more. [`Connection::reconnect`] brings it back.
    pub fn kill(&self) {
        self.program.life().die();
        self.world.lose(self.program.number(), &End::AgentDied);
    }

    /// Lets this program die in the middle of what it does: after so many more accesses to
    /// the memory of its links.
    pub fn kill_after(&self, accesses: u64) {
        self.program.life().die_after(accesses);
    }

    /// Ends all that this program holds, for the reason given, as a connection does that has
    /// lost its session.
    pub fn end(&self, reason: &End) {
        self.world.lose(self.program.number(), reason);
    }

    /// Takes from this program the right to write, as a guest does that gives its session to
    /// somebody else.
    pub fn revoke(&self) {
        self.program.life().revoke();
    }
}

impl<P: Place> Connection for Loopback<P> {
    type Memory = LoopbackMemory;
    type Right = LoopbackRight;
    const SIDE: Side = P::SIDE;

    fn open(&self, wish: &Wish) -> Result<Held<Self>, OpenError> {
        let life = self.program.life();
        life.check_alive()?;
        let opened = self.world.open(self.program.number(), P::SIDE, wish)?;
        Ok(Held {
            region: opened.hold,
            memory: LoopbackMemory::new(opened.memory, Arc::clone(&life)),
            right: LoopbackRight::new(life),
            tether: opened.tether,
            doorbell: self.world.has_doorbell().then(|| {
                let bell = Bell(Arc::clone(&self.world));
                Arc::new(bell) as Arc<dyn Doorbell>
            }),
        })
    }

    fn close(&self, region: u64) {
        let in_order = self.program.life().is_alive();
        self.world.close(region, in_order);
    }

    fn remove(&self, name: &str, _timeout: Duration) -> Result<(), OpenError> {
        self.program.life().check_alive()?;
        self.world.remove(name)
    }

    fn reconnect(&self, _timeout: Duration) -> Result<(), OpenError> {
        if !self.program.life().is_well() {
            self.world.lose(self.program.number(), &End::AgentDied);
            self.program.revive();
        }
        Ok(())
    }
}

impl<P: Place> Drop for Loopback<P> {
    fn drop(&mut self) {
        self.world.lose(self.program.number(), &End::Closed);
    }
}

/// Wakes the sleepers of the other side.
#[derive(Debug)]
struct Bell(Arc<World>);

impl Doorbell for Bell {
    fn ring(&self, region: u64) {
        self.0.ring(region);
    }
}

/// Whether a region of this size has the page in which presence is kept.
const fn has_ends(size: u64) -> bool {
    size >= DATA
}
