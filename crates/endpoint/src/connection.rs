//! The seam between links and how a side comes by its memory.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use vmshm_link::LinkError;
use vmshm_link::control::Role;
use vmshm_link::directory::RegionKind;
use vmshm_link::duplex::Side;
use vmshm_shm::SharedMemory;

use crate::error::OpenError;
use crate::tether::Tether;

/// A way to regions: a VM on the host, the agent in a guest.
pub trait Connection: Debug + Send + Sync + 'static {
    /// What reaches a region's bytes.
    type Memory: SharedMemory + Clone + Debug + Send + Sync + 'static;
    /// What tells whether those bytes are still this side's to write.
    type Right: Right;
    /// Which end this side has.
    const SIDE: Side;

    /// Holds the region that is wished for. Waits for the other side where it must have a
    /// part in it, as long as the wish says.
    ///
    /// # Errors
    /// [`OpenError`]; nothing is held then.
    fn open(&self, wish: &Wish) -> Result<Held<Self>, OpenError>
    where
        Self: Sized;

    /// Lets go of what is held, in good order. Nothing of it is touched afterwards.
    fn close(&self, region: u64);

    /// Takes a region off the guest's list. Whoever holds it is told that it is over.
    ///
    /// # Errors
    /// [`OpenError`].
    fn remove(&self, name: &str, timeout: Duration) -> Result<(), OpenError>;

    /// Makes a new session where the last one is over; else does nothing. Regions are
    /// opened again by whoever held them.
    ///
    /// # Errors
    /// [`OpenError`].
    fn reconnect(&self, timeout: Duration) -> Result<(), OpenError>;
}

/// What tells whether a side may still write a region.
pub trait Right: Debug + Clone + Send + Sync + 'static {
    /// Looks; it costs a load or two, or as many system calls over copying memory.
    ///
    /// # Errors
    /// [`LinkError`] when it may not.
    fn verify(&self) -> Result<(), LinkError>;
}

/// Wakes the other side's sleeper.
pub trait Doorbell: Debug + Send + Sync + 'static {
    /// Rings for a region that is held, without waiting for anything. A ring may be lost.
    fn ring(&self, region: u64);
}

/// What is wanted of a region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Its name.
    pub name: String,
    /// What it is laid out for.
    pub kind: RegionKind,
    /// Bytes of a region that is made if it is not there; zero: it must exist.
    pub size: u64,
    /// Bytes of a record or value (see `vmshm_link::ends`).
    pub record: u64,
    /// What will be done there.
    pub role: Role,
    /// How long to wait for the region and for the other side's part in it.
    pub timeout: Duration,
}

/// A region that is held. Dropping this changes nothing: [`Connection::close`] lets go.
#[derive(Debug)]
pub struct Held<C: Connection> {
    /// The number of this hold, for [`Connection::close`] and the doorbell: a program may
    /// hold raw memory, or watch a link, more than once at the same time. Nobody watches
    /// over a connection that has the link's end.
    pub region: u64,
    /// Its bytes.
    pub memory: C::Memory,
    /// Whether they may still be written.
    pub right: C::Right,
    /// How the region stands, and where its sleepers sleep.
    pub tether: Arc<Tether>,
    /// What wakes the other side, where something does.
    pub doorbell: Option<Arc<dyn Doorbell>>,
}
