//! The VMs of this host, as the broker serves them: finds, attaches and lends.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use vmshm_host::brokered::wire;
use vmshm_host::graft::is_undone;
use vmshm_host::machines::{self, AgentState, MachineView};
use vmshm_host::proxied::{self, Proxied, Standings};
use vmshm_host::{Condition, SessionEnd};
use vmshm_link::control::{EndCause, RegionReply, Reply, Request};
use vmshm_link::directory::RegionEntry;

use crate::guests::{Found, Guest, Guests, Refused, Use};
use crate::journal::{Journal, JournalError};
use crate::machine::Machine;
use crate::obstacles::Obstacles;

/// How long an agent may take for its answers about one region.
const LAYING_OUT: Duration = Duration::from_secs(5);
/// Between two attempts to take back what a session has left.
const AGAIN: Duration = Duration::from_millis(100);

/// What to do where nothing can be grafted.
const ONLY_DIRECTLY: &str = "a broker gives grafted regions only: root, or the user that runs the VM, can use it without a broker";

/// A VM's process and its guest's epoch.
type Key = (u32, u64, u64);

/// The VMs of this host.
#[derive(Debug)]
pub struct Machines {
    journal: Arc<Journal>,
    known: Mutex<BTreeMap<Key, Arc<Machine>>>,
    obstacles: Obstacles,
}

impl Machines {
    /// Takes back what an earlier broker has left, as its notes in `state` say.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn new(state: &Path) -> Result<Self, JournalError> {
        let journal = Journal::open(state)?;
        let notes = journal.notes().map_err(|error| JournalError::System {
            path: state.to_owned(),
            error,
        })?;
        for note in notes {
            match proxied::take_back(note.pid, note.start_time, &note.id) {
                Ok(()) => journal.forget(&note),
                Err(error) => {
                    tracing::warn!(pid = note.pid, id = note.id, %error, "an earlier graft stays");
                }
            }
        }
        Ok(Self {
            journal: Arc::new(journal),
            known: Mutex::default(),
            obstacles: Obstacles::default(),
        })
    }

    fn machine(&self, key: Key, session: &Proxied) -> Result<Arc<Machine>, Refused> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, machine| !machine.is_idle());
        if let Some(machine) = known.get(&key)
            && machine.join()
        {
            return Ok(Arc::clone(machine));
        }
        let watched = session.guard().zip(session.lender());
        let (guard, lender) =
            watched.ok_or_else(|| Refused::new("the guest cannot be watched", None))?;
        let machine = Machine::start(key.0, key.1, guard, lender, Arc::clone(&self.journal))
            .map_err(|error| Refused::new(format!("the broker has no thread: {error}"), None))?;
        known.insert(key, Arc::clone(&machine));
        Ok(machine)
    }
}

impl Guests for Machines {
    fn find(&self, selector: &str) -> Result<Found, Refused> {
        let vmm = proxied::find(selector)
            .map_err(|error| Refused::new(error.to_string(), error.hint()))?;
        let owner = owner(vmm.pid);
        Ok(Found {
            pid: vmm.pid,
            start_time: vmm.start_time,
            vmm: vmm.kind.to_string(),
            name: vmm.name,
            owner,
        })
    }

    fn obstacle(&self, found: &Found) -> Option<Refused> {
        let why = self.obstacles.of((found.pid, found.start_time), || {
            let vmm = proxied::find(&found.pid.to_string()).ok()?;
            // Another process has no bearing on this one, whose end is told elsewhere.
            let is_it = vmm.start_time == found.start_time;
            is_it.then(|| proxied::why_not_grafted(&vmm)).flatten()
        })?;
        Some(Refused::new(
            format!("memory of {} cannot be grafted: {why}", found.name),
            Some(ONLY_DIRECTLY.to_owned()),
        ))
    }

    fn attach(&self, found: &Found, patience: Duration) -> Result<Box<dyn Guest>, Refused> {
        let gone = || Refused::new(format!("process {} has ended", found.pid), None);
        let vmm = proxied::find(&found.pid.to_string())
            .map_err(|error| Refused::new(error.to_string(), error.hint()))?;
        if vmm.start_time != found.start_time {
            return Err(gone());
        }
        let session = Proxied::attach(&vmm, patience)
            .map_err(|error| Refused::new(with_causes(&error), error.hint()))?;
        let key = (found.pid, found.start_time, session.epoch());
        let machine = self.machine(key, &session)?;
        Ok(Box::new(Seat {
            session,
            machine,
            standings: Standings::default(),
            held: Vec::new(),
            left: Vec::new(),
        }))
    }

    fn list(&self) -> Vec<(Found, wire::Machine, Vec<RegionEntry>)> {
        let listed = machines::list().unwrap_or_else(|error| {
            tracing::warn!(%error, "VMs cannot be listed");
            Vec::new()
        });
        listed.into_iter().map(described).collect()
    }
}

fn described(view: MachineView) -> (Found, wire::Machine, Vec<RegionEntry>) {
    let MachineView {
        vmm,
        guest_os,
        agent,
        regions,
        ..
    } = view;
    let found = Found {
        pid: vmm.pid,
        start_time: vmm.start_time,
        vmm: vmm.kind.to_string(),
        name: vmm.name,
        owner: owner(vmm.pid),
    };
    // What is told of an agent is that it lives.
    let agent = agent.filter(|agent| agent.state == AgentState::Seen);
    let boot_id = agent.as_ref().and_then(|agent| agent.boot_id);
    let machine = wire::Machine {
        pid: found.pid,
        start_time: found.start_time,
        vmm: found.vmm.clone(),
        name: found.name.clone(),
        ram_bytes: vmm.ram_bytes,
        guest_os,
        agent: agent.and_then(|agent| agent.version),
        boot_id: boot_id.unwrap_or_default(),
    };
    (found, machine, regions)
}

/// The user that a process runs as.
fn owner(pid: u32) -> Option<u32> {
    // A process that is not dumpable is shown as root's: such a one belongs to nobody else.
    std::fs::metadata(format!("/proc/{pid}"))
        .ok()
        .map(|facts| facts.uid())
}

/// An error with what is behind it, each told once.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let words = next.to_string();
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        cause = next.source();
    }
    text
}

/// A client's session.
struct Seat {
    session: Proxied,
    machine: Arc<Machine>,
    standings: Standings,
    /// What was lent through it; a region as often as it was lent.
    held: Vec<(u64, Arc<OwnedFd>)>,
    /// What could not be taken back at once.
    left: Vec<u64>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        for (region, _) in std::mem::take(&mut self.held) {
            if !self.machine.take_back(region) {
                self.left.push(region);
            }
        }
        // The slot holds the pages until they are the guest's own again.
        loop {
            let machine = &self.machine;
            self.left.retain(|region| !machine.may_let_go(*region));
            if self.left.is_empty() {
                break;
            }
            std::thread::sleep(AGAIN);
            // Whatever it says: the guard decides.
            let _ = self.session.keep();
        }
        self.machine.leave();
    }
}

impl Seat {
    fn graft(session: &mut Proxied, granted: &RegionReply, how: Use) -> Result<OwnedFd, Refused> {
        let grafted = match how {
            Use::Write | Use::Read => session.graft(granted, LAYING_OUT),
            Use::ReadUnproved => session.graft_unproved(granted, LAYING_OUT),
        };
        // What would help is for who administers this host, and not for the program: it has no
        // other way to the memory.
        grafted.map_err(|error| Refused::new(error.to_string(), None))
    }
}

impl Guest for Seat {
    fn slot(&self) -> usize {
        self.session.slot()
    }

    fn keep(&mut self) -> Result<Condition, SessionEnd> {
        if let Some(end) = self.machine.over() {
            return Err(end);
        }
        if self
            .held
            .iter()
            .any(|(region, _)| self.machine.is_damaged(*region))
        {
            return Err(SessionEnd::PagesTaken);
        }
        // Somebody with more rights than the client's has undone it.
        if self.held.iter().any(|(_, file)| is_undone(file)) {
            return Err(SessionEnd::GraftUndone);
        }
        self.session.keep()
    }

    fn ask(&mut self, tag: u64, request: &Request) -> Result<bool, SessionEnd> {
        self.session.ask(tag, request)
    }

    fn tell(&mut self, request: &Request) -> Result<bool, SessionEnd> {
        self.session.tell(request)
    }

    fn answers(&mut self) -> Result<Vec<(u64, Reply)>, SessionEnd> {
        self.session.answers()
    }

    fn lend(&mut self, granted: &RegionReply, how: Use) -> Result<OwnedFd, Refused> {
        let region = granted.region;
        let id = self.session.graft_id(region);
        let id = id.ok_or_else(|| Refused::new("the session is over", None))?;
        let session = &mut self.session;
        let lent = self
            .machine
            .lend(region, id, || Self::graft(session, granted, how))?;
        self.held.push((region, Arc::clone(&lent)));
        self.standings.add(region);
        let failed = |error: io::Error| Refused::new(error.to_string(), None);
        match how {
            Use::Write => lent.try_clone().map_err(failed),
            Use::Read | Use::ReadUnproved => proxied::only_to_read(&lent).map_err(failed),
        }
        .inspect_err(|_| {
            self.take_back(region);
        })
    }

    fn take_back(&mut self, region: u64) -> bool {
        let Some(place) = self.held.iter().position(|one| one.0 == region) else {
            return true;
        };
        self.held.remove(place);
        if self.held.iter().all(|one| one.0 != region) {
            self.standings.remove(region);
        }
        let is_back = self.machine.take_back(region);
        if !is_back {
            self.left.push(region);
        }
        is_back
    }

    fn may_let_go(&self, region: u64) -> bool {
        self.machine.may_let_go(region)
    }

    fn over(&mut self) -> Vec<(u64, EndCause)> {
        self.standings.look(&self.session)
    }

    fn regions(&mut self) -> Result<Vec<RegionEntry>, SessionEnd> {
        self.session.regions()
    }
}
