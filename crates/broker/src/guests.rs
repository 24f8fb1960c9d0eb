//! What the broker needs of VMs, so that its rules, limits and manners can be tried without
//! one.

use std::os::fd::OwnedFd;
use std::time::Duration;

use vmshm_host::brokered::wire::Machine;
use vmshm_host::{Condition, SessionEnd};
use vmshm_link::control::{EndCause, RegionReply, Reply, Request};
use vmshm_link::directory::RegionEntry;

/// A VM that a client named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The VMM's process.
    pub pid: u32,
    /// When that process started.
    pub start_time: u64,
    /// The kind of VMM, as `vmshm list` shows it.
    pub vmm: String,
    /// Its name.
    pub name: String,
    /// The user that the process runs as, where that can be seen.
    pub owner: Option<u32>,
}

/// Why a client gets nothing, for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub explanation: String,
    /// What would help.
    pub hint: Option<String>,
}

impl Refused {
    /// A refusal.
    #[must_use]
    pub fn new(explanation: impl Into<String>, hint: Option<String>) -> Self {
        Self {
            explanation: explanation.into(),
            hint,
        }
    }
}

/// What a client does with a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It has an end, and writes.
    Write,
    /// It only watches.
    Read,
    /// It reads what no host proves: a screen's pictures.
    ReadUnproved,
}

/// The VMs of this host.
pub trait Guests: Send + Sync + 'static {
    /// Finds the VM that a client names.
    ///
    /// # Errors
    /// [`Refused`].
    fn find(&self, selector: &str) -> Result<Found, Refused>;

    /// Why nothing of a VM can be lent, whoever asks; nothing where that is not known before it
    /// is tried.
    fn obstacle(&self, found: &Found) -> Option<Refused>;

    /// Makes a session for a client.
    ///
    /// # Errors
    /// [`Refused`].
    fn attach(&self, found: &Found, patience: Duration) -> Result<Box<dyn Guest>, Refused>;

    /// All VMs that can be seen, each with its regions.
    fn list(&self) -> Vec<(Found, Machine, Vec<RegionEntry>)>;
}

/// A session with a guest, for one client. Nothing of it waits long but
/// [`lend`](Self::lend) and [`take_back`](Self::take_back). Dropping it takes back all that is
/// still lent through it, and then ends the session.
pub trait Guest: Send {
    /// The slot's index among the guest's.
    fn slot(&self) -> usize;

    /// Keeps the session alive; called many times a second.
    ///
    /// # Errors
    /// [`SessionEnd`] when it is over: all that was lent is taken back then.
    fn keep(&mut self) -> Result<Condition, SessionEnd>;

    /// Asks under the client's tag; no when there is no room now.
    ///
    /// # Errors
    /// [`SessionEnd`].
    fn ask(&mut self, tag: u64, request: &Request) -> Result<bool, SessionEnd>;

    /// Says something that is never answered; no when there is no room now.
    ///
    /// # Errors
    /// [`SessionEnd`].
    fn tell(&mut self, request: &Request) -> Result<bool, SessionEnd>;

    /// The answers that have come.
    ///
    /// # Errors
    /// [`SessionEnd`].
    fn answers(&mut self) -> Result<Vec<(u64, Reply)>, SessionEnd>;

    /// A granted region as a file of its own. It is counted: each is to be taken back.
    ///
    /// # Errors
    /// [`Refused`]; the agent still counts the region as held then.
    fn lend(&mut self, granted: &RegionReply, how: Use) -> Result<OwnedFd, Refused>;

    /// Takes a region back, for good where nobody else has it. Whether the guest may do with
    /// the pages what it likes when this session lets go of them; else
    /// [`may_let_go`](Self::may_let_go) says so later.
    fn take_back(&mut self, region: u64) -> bool;

    /// Whether a region that was taken back may be let go of now.
    fn may_let_go(&self, region: u64) -> bool;

    /// Regions that are over although the session goes on, each once.
    fn over(&mut self) -> Vec<(u64, EndCause)>;

    /// The regions that the guest lists.
    ///
    /// # Errors
    /// [`SessionEnd`].
    fn regions(&mut self) -> Result<Vec<RegionEntry>, SessionEnd>;
}
