//! Attaching to a guest: from a VMM's process to a proved session.
//!
//! Nothing is written before a heartbeat has moved at the very page that is going to
//! be written, and nothing beyond that page before the nonce has come back.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmshm_link::beacon::{Beacon, KeeperState, PAGE, Signs};
use vmshm_link::directory::{self, SLOTS};
use vmshm_link::slot::{self, Claim, PendingClaim, Proof, SlotView, UnprovedSlot};
use vmshm_link::wait::Backoff;
use vmshm_link::{GuestPhysical, LinkError};
use vmshm_pipe::pause;
use vmshm_ram::{
    BlockPiece, GuestRam, Method, OpenError, Protection, RamError, RunState, View, Vmm,
};

use crate::beacon_search;
use crate::deadline::Deadline;
use crate::direct::Direct;
use crate::ending::{Condition, SessionEnd};
use crate::firmware_ticks::FirmwareTicks;
use crate::identity::{is_known_dead, own_identity};
use crate::os::advice;
use crate::session::Session;
use crate::sighting::{self, Candidate, Directory, DirectoryError, Sighting, Target, Where};
use crate::watch::Watch;

/// A guest whose processor is taken away while it writes its directory's header has it
/// back within this.
const REWRITTEN_WITHIN: Duration = Duration::from_millis(500);

/// How to attach.
#[derive(Debug, Clone)]
pub struct AttachOptions {
    /// How to reach guest RAM.
    pub method: Method,
    /// Where to look for the beacon.
    pub place: Where,
    /// How long to wait for the guest in all.
    pub timeout: Duration,
    /// The broker to be used in place of attaching; nothing: the one that the environment
    /// names, else the usual one where this process may not attach. Heeded by
    /// [`reach`](crate::reach) alone.
    pub broker: Option<PathBuf>,
}

impl Default for AttachOptions {
    fn default() -> Self {
        Self {
            method: Method::Auto,
            place: Where::Scan,
            timeout: Duration::from_secs(5),
            broker: None,
        }
    }
}

/// Why a VM could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Its memory could not be opened.
    #[error("cannot reach the memory of {name}")]
    Open {
        /// The VM.
        name: String,
        /// The reason.
        #[source]
        source: OpenError,
    },
    /// Its memory could not be read.
    #[error("cannot read the memory of {name}")]
    Ram {
        /// The VM.
        name: String,
        /// The reason.
        #[source]
        source: RamError,
    },
    /// No beacon in its memory.
    #[error("no vmshm-agent is running in {name}")]
    NoAgent {
        /// The VM.
        name: String,
    },
    /// No beacon at the address that was given.
    #[error("there is no beacon at {address} in {name}")]
    NotThere {
        /// The VM.
        name: String,
        /// The address.
        address: GuestPhysical,
    },
    /// Nobody knows the beacon's address, and scanning is off.
    #[error("the beacon's address in {name} is not known, and scanning is off")]
    NotLearned {
        /// The VM.
        name: String,
    },
    /// A beacon, but its heartbeat stands still.
    #[error("vmshm-agent in {name} is silent: no heartbeat within {waited:.1} s{}", if *.stopped { " (the VM is paused: its process is stopped)" } else { "" })]
    Silent {
        /// The VM.
        name: String,
        /// Seconds.
        waited: f64,
        /// Whether the VMM's process is stopped.
        stopped: bool,
    },
    /// The keeper says that the agent died.
    #[error("agent dead: vmshm-agent in {name} has died")]
    Dead {
        /// The VM.
        name: String,
    },
    /// The agent is leaving.
    #[error("vmshm-agent in {name} is shutting down")]
    Leaving {
        /// The VM.
        name: String,
    },
    /// A living beacon that is not, or not for certain, this guest's own.
    #[error("{name} is nested: a VM runs inside it, and that one's beacon is alive in its memory")]
    Nested {
        /// The VM.
        name: String,
    },
    /// Another protocol.
    #[error("vmshm-agent in {name} cannot be talked to")]
    Incompatible {
        /// The VM.
        name: String,
        /// Names both versions.
        #[source]
        source: LinkError,
    },
    /// The directory is damaged or cannot be located.
    #[error("the directory of vmshm-agent in {name} cannot be read")]
    Directory {
        /// The VM.
        name: String,
        /// The reason.
        #[source]
        source: DirectoryError,
    },
    /// All session slots are taken.
    #[error("all {SLOTS} session slots of {name} are in use")]
    NoSlot {
        /// The VM.
        name: String,
    },
    /// The agent's heartbeat moves, but it answers nothing.
    #[error("vmshm-agent in {name} did not answer within {waited:.1} s")]
    NoAnswer {
        /// The VM.
        name: String,
        /// Seconds.
        waited: f64,
    },
    /// The session ended while it was being made.
    #[error(transparent)]
    Ended(#[from] SessionEnd),
}

impl AttachError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Open { source, .. } => return source.hint(),
            Self::Ram { .. } | Self::Leaving { .. } | Self::Directory { .. } => return None,
            Self::NoAgent { .. } => "start `vmshm-agent run` in the guest, as root",
            Self::NotThere { .. } => {
                "`vmshm-agent status` in the guest prints the beacon's address"
            }
            Self::NotLearned { .. } => advice::BEACON_UNKNOWN,
            Self::Dead { .. } => "start `vmshm-agent run` in the guest again, as root",
            Self::Silent { stopped: true, .. } => advice::LET_IT_RUN,
            Self::Silent { .. } => "is the VM paused or very busy? --timeout SECONDS waits longer",
            Self::Nested { .. } => "run vmshm inside the outer guest to reach the inner one",
            Self::Incompatible { .. } => "use the same release of vmshm on both sides",
            Self::NoSlot { .. } => {
                "end a vmshm process that uses this VM, or run `vmshm-agent release` in the guest"
            }
            Self::NoAnswer { .. } => "--timeout SECONDS waits longer",
            Self::Ended(end) => return end.hint().map(str::to_owned),
        };
        Some(text.to_owned())
    }
}

/// A guest that was seen alive, before a session is made.
#[derive(Debug)]
pub struct Seen {
    /// Its memory.
    pub ram: Arc<GuestRam>,
    /// Its beacon.
    pub candidate: Candidate,
    /// Its directory.
    pub directory: Directory,
    /// The VM's name.
    pub name: String,
    watch: Watch,
    deadline: Deadline,
    start: Instant,
}

/// Finds the living agent of `vmm` and reads its directory; writes nothing.
///
/// # Errors
/// [`AttachError`].
pub fn see(vmm: &Vmm, options: &AttachOptions) -> Result<Seen, AttachError> {
    let start = Instant::now();
    let deadline = Deadline::after(options.timeout);
    let name = vmm.name.clone();
    let ram_error = |source| AttachError::Ram {
        name: vmm.name.clone(),
        source,
    };
    let open_error = |source| AttachError::Open {
        name: vmm.name.clone(),
        source,
    };
    let Some(place) = options.place.resolved_for(vmm) else {
        return Err(AttachError::NotLearned { name });
    };
    let target = Target::open(vmm, options.method).map_err(open_error)?;
    let ram = Arc::clone(&target.ram);
    let sighting =
        beacon_search::find_living(&target, place, options.timeout).map_err(ram_error)?;
    let candidate = match sighting {
        Sighting::Living(candidate) => candidate,
        Sighting::Nothing => {
            return Err(match place {
                Where::At(address) => AttachError::NotThere { name, address },
                Where::Scan | Where::Learned => AttachError::NoAgent { name },
            });
        }
        Sighting::Nested => return Err(AttachError::Nested { name }),
        Sighting::Incompatible(source) => return Err(AttachError::Incompatible { name, source }),
        Sighting::Silent(_) => {
            return Err(AttachError::Silent {
                name,
                waited: start.elapsed().as_secs_f64(),
                stopped: ram.liveness().run_state() == RunState::Stopped,
            });
        }
    };
    match candidate.signs.state {
        KeeperState::AgentDead => return Err(AttachError::Dead { name }),
        KeeperState::Withdrawn => return Err(AttachError::Leaving { name }),
        KeeperState::AgentAlive | KeeperState::Starting => {}
    }
    let directory = open_directory(&target, &candidate).map_err(|source| {
        let name = name.clone();
        if source.shows_nesting() {
            AttachError::Nested { name }
        } else {
            AttachError::Directory { name, source }
        }
    })?;
    let page = beacon_view(&ram, &candidate).map_err(open_error)?;
    let signs =
        sighting::signs_at(&ram, candidate.at, &candidate.beacon).unwrap_or(candidate.signs);
    let liveness = Arc::clone(ram.liveness());
    let ticks = FirmwareTicks::find(&ram, &directory.layout);
    let watch = Watch::new(liveness, vmm.pid, page, (candidate.beacon, signs), ticks);
    Ok(Seen {
        ram,
        candidate,
        directory,
        name,
        watch,
        deadline,
        start,
    })
}

/// Opens the directory. One that is caught in the middle of being written (memory was
/// plugged in) is looked at again, for a moment.
fn open_directory(target: &Target, candidate: &Candidate) -> Result<Directory, DirectoryError> {
    let deadline = Instant::now() + REWRITTEN_WITHIN;
    loop {
        match Directory::open(target, candidate, Protection::ReadWrite) {
            Err(DirectoryError::Link(LinkError::Violation { .. })) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

fn beacon_view(ram: &GuestRam, candidate: &Candidate) -> Result<Arc<View>, OpenError> {
    let piece = BlockPiece {
        at: candidate.at,
        length: PAGE,
    };
    Ok(Arc::new(ram.view(&[piece], Protection::Read)?))
}

/// Attaches to the agent in `vmm`: a proved session.
///
/// # Errors
/// [`AttachError`].
pub fn attach(vmm: &Vmm, options: &AttachOptions) -> Result<Session, AttachError> {
    see(vmm, options)?.into_session()
}

impl Seen {
    /// The beacon's facts.
    #[must_use]
    pub const fn beacon(&self) -> &Beacon {
        &self.candidate.beacon
    }

    /// The beacon's address, for `--beacon`.
    #[must_use]
    pub const fn beacon_address(&self) -> GuestPhysical {
        self.candidate.beacon.own
    }

    /// The live words when the beacon was found.
    #[must_use]
    pub const fn signs(&self) -> &Signs {
        &self.candidate.signs
    }

    /// Claims a slot and proves the session.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn into_session(mut self) -> Result<Session, AttachError> {
        self.release_slots_of_the_dead()?;
        let first = usize::try_from(random_word(0) % SLOTS as u64).unwrap_or_default();
        for round in 0..2 {
            for offset in 0..SLOTS {
                let index = (first + offset) % SLOTS;
                if let Some(slot) = self.claim(index)? {
                    return self.prove(slot);
                }
            }
            if round == 0 {
                // Slots that were just released need one look of the agent to be free.
                std::thread::sleep(Duration::from_millis(250));
            }
        }
        Err(AttachError::NoSlot { name: self.name })
    }

    /// Frees what other vmshm processes of this host held when they died.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn release_slots_of_the_dead(&mut self) -> Result<(), AttachError> {
        // The guest may have restarted since it was seen; its pages are another's then.
        self.watch.look()?;
        for index in 0..SLOTS {
            let base = directory::slot_offset(index);
            let memory = Arc::clone(&self.directory.memory);
            let view = SlotView::read(&memory, base).map_err(SessionEnd::from)?;
            if view.is_held() && view.owner.as_ref().is_some_and(is_known_dead) {
                self.wait_for(|seen| seen.directory.slot_is_live(index))?;
                tracing::debug!(index, "releasing the slot of a dead process");
                slot::release_for_dead_owner(&memory, base, view.token)
                    .map_err(SessionEnd::from)?;
            }
        }
        Ok(())
    }

    fn claim(&mut self, index: usize) -> Result<Option<UnprovedSlot<Arc<View>>>, AttachError> {
        let base = directory::slot_offset(index);
        let memory = Arc::clone(&self.directory.memory);
        let view = SlotView::read(&memory, base).map_err(SessionEnd::from)?;
        if view.state != slot::SlotState::Free {
            return Ok(None);
        }
        self.wait_for(|seen| seen.directory.slot_is_live(index))?;
        let placed = PendingClaim::place(memory, base, random_word(1)).map_err(SessionEnd::from)?;
        let Some(mut pending) = placed else {
            return Ok(None);
        };
        let (epoch, nonce, identity) = (self.beacon().epoch, random_word(1), own_identity());
        let mut backoff = Backoff::new(64, 1000);
        loop {
            match pending
                .poll(epoch, nonce, &identity)
                .map_err(SessionEnd::from)?
            {
                Claim::Granted(slot) => return Ok(Some(slot)),
                Claim::Lost => return Ok(None),
                Claim::Waiting(still) => pending = still,
            }
            self.check_time()?;
            pause(&mut backoff);
        }
    }

    fn prove(mut self, slot: UnprovedSlot<Arc<View>>) -> Result<Session, AttachError> {
        let mut waiting = slot;
        let mut backoff = Backoff::new(64, 1000);
        loop {
            match waiting.poll().map_err(SessionEnd::from)? {
                Proof::Proved(slot) => {
                    tracing::debug!(
                        session = slot.session(),
                        milliseconds = self.start.elapsed().as_millis(),
                        "session proved"
                    );
                    return Ok(Session::direct_one(Direct::new(
                        self.ram,
                        self.directory,
                        self.candidate.beacon,
                        self.watch,
                        slot,
                        self.name,
                    )));
                }
                Proof::Waiting(still) => waiting = still,
            }
            if let Err(error) = self.check_time() {
                // The agent may yet answer; the slot must not stay held for nobody.
                let _ = waiting.release();
                return Err(error);
            }
            pause(&mut backoff);
        }
    }

    fn wait_for(
        &mut self,
        mut done: impl FnMut(&Self) -> Result<bool, LinkError>,
    ) -> Result<(), AttachError> {
        let mut backoff = Backoff::new(16, 1000);
        while !done(self).map_err(SessionEnd::from)? {
            self.check_time()?;
            pause(&mut backoff);
        }
        Ok(())
    }

    /// Ends the wait when the session has ended or time is up.
    fn check_time(&mut self) -> Result<(), AttachError> {
        let condition = self.watch.look()?;
        if !self.deadline.has_passed() {
            return Ok(());
        }
        let waited = self.start.elapsed().as_secs_f64();
        let name = self.name.clone();
        Err(match condition {
            Condition::Running => AttachError::NoAnswer { name, waited },
            Condition::Stopped | Condition::Silent => AttachError::Silent {
                name,
                waited,
                stopped: condition == Condition::Stopped,
            },
        })
    }
}

/// Frees what other vmshm processes of this host held when they died, as far as the
/// slots' own pages are known to be alive. Says whether a slot of such an owner has yet
/// to be freed by the agent.
///
/// # Errors
/// [`LinkError`] when a slot cannot be read.
pub(crate) fn release_slots_of_the_dead(directory: &Directory) -> Result<bool, LinkError> {
    let mut some_are_left = false;
    for index in 0..SLOTS {
        let base = directory::slot_offset(index);
        let view = SlotView::read(&directory.memory, base)?;
        let dead = view.is_held() && view.owner.as_ref().is_some_and(is_known_dead);
        if dead && directory.slot_is_live(index)? {
            tracing::debug!(index, "releasing the slot of a dead process");
            slot::release_for_dead_owner(&directory.memory, base, view.token)?;
        }
        some_are_left |= dead || view.released;
    }
    Ok(some_are_left)
}

/// A random number of at least `least`.
fn random_word(least: u64) -> u64 {
    getrandom::u64()
        // The hasher's keys are random too; these numbers guard against accidents only.
        .unwrap_or_else(|_| RandomState::new().build_hasher().finish())
        .max(least)
}
