//! The VMs of this host, as users see and name them.

pub(crate) mod by_broker;

use std::path::Path;

use vmshm_link::directory::RegionEntry;
use vmshm_ram::{DumpError, FindError, StoredDump, Vmm, find_all, find_by_pid};

use crate::look;
use crate::sighting::Where;

pub use by_broker::{list_with_broker, see_by_broker};

/// How an agent appears to somebody who only reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentState {
    /// Its heartbeat moves.
    Seen,
    /// Its heartbeat stands still.
    Silent,
    /// Its keeper says that it died.
    Dead,
    /// A VM runs inside the VM, and its agent lives.
    Nested,
    /// It speaks another major version of the protocol.
    Incompatible,
}

impl AgentState {
    /// The word that scripts see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::Silent => "silent",
            Self::Dead => "dead",
            Self::Nested => "nested",
            Self::Incompatible => "incompatible",
        }
    }
}

/// An agent as seen from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentView {
    /// Its version; nothing where it cannot be read.
    pub version: Option<String>,
    /// How it appears.
    pub state: AgentState,
    /// The guest's boot id; nothing where it cannot be read.
    pub boot_id: Option<[u8; 16]>,
}

/// A VM with everything that looking shows.
#[derive(Debug, Clone)]
pub struct MachineView {
    /// The VM.
    pub vmm: Vmm,
    /// The guest's operating system and its release.
    pub guest_os: Option<String>,
    /// Its agent, if there is a beacon.
    pub agent: Option<AgentView>,
    /// Its regions; where a broker told of it, those that it would give.
    pub regions: Vec<RegionEntry>,
    /// Whether a broker told of it, since this process may not look into it.
    pub brokered: bool,
}

impl MachineView {
    /// A VM of which nothing else is known.
    pub(crate) const fn bare(vmm: Vmm) -> Self {
        Self {
            vmm,
            guest_os: None,
            agent: None,
            regions: Vec::new(),
            brokered: false,
        }
    }
}

/// Why a VM could not be named.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// The search failed.
    #[error(transparent)]
    Find(#[from] FindError),
    /// No VM is called so.
    #[error("no VM is called {0:?}")]
    Unknown(String),
    /// A stored dump was named where a running VM is needed.
    #[error("{0} is a stored dump, not a running VM")]
    OnlyStored(String),
    /// The stored dump cannot be read.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// Several are.
    #[error("{name:?} names several VMs: processes {}", comma_separated(.pids))]
    Ambiguous {
        /// The name.
        name: String,
        /// Their processes.
        pids: Vec<u32>,
    },
}

fn comma_separated(pids: &[u32]) -> String {
    let texts: Vec<_> = pids.iter().map(u32::to_string).collect();
    texts.join(", ")
}

impl SelectError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Find(error) => error.hint(),
            Self::Dump(error) => error.hint(),
            Self::OnlyStored(_) => Some(
                "`read`, `search`, `translate`, `inspect` and `dump` work on stored dumps"
                    .to_owned(),
            ),
            Self::Unknown(_) => Some("`vmshm list` shows the VMs that are running".to_owned()),
            Self::Ambiguous { .. } => {
                Some("name it by its process number, or as vmm:name".to_owned())
            }
        }
    }
}

/// What can be read: a running VM or a stored dump.
#[derive(Debug, Clone)]
pub enum Subject {
    /// A VM that runs.
    Running(Vmm),
    /// `dump:FILE`.
    Stored(StoredDump),
}

impl Subject {
    /// What it is called.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Running(vmm) => vmm.name.clone(),
            Self::Stored(dump) => format!("{DUMP}{}", dump.path().display()),
        }
    }
}

/// What a selector of a stored dump starts with.
const DUMP: &str = "dump:";
/// What follows that where the file is raw whatever it begins with.
const RAW: &str = "raw:";

/// Finds what `selector` names, for looking only: as [`find`], or `dump:FILE`,
/// or `dump:raw:FILE` for a file that is raw memory whatever it begins with.
///
/// # Errors
/// [`SelectError`].
pub fn find_subject(selector: &str) -> Result<Subject, SelectError> {
    let Some(path) = selector.strip_prefix(DUMP) else {
        return Ok(Subject::Running(find(selector)?));
    };
    let dump = match path.strip_prefix(RAW) {
        // A file that is called so is meant.
        Some(raw) if Path::new(path).symlink_metadata().is_err() => {
            StoredDump::open_raw(Path::new(raw))
        }
        _ => StoredDump::open(Path::new(path)),
    };
    Ok(Subject::Stored(dump?))
}

/// Finds the VM that `selector` names: a process number, a name, or `vmm:name`.
///
/// # Errors
/// [`SelectError`].
pub fn find(selector: &str) -> Result<Vmm, SelectError> {
    if selector.starts_with(DUMP) {
        return Err(SelectError::OnlyStored(selector.to_owned()));
    }
    if let Ok(pid) = selector.parse() {
        return Ok(find_by_pid(pid)?);
    }
    let (kind, name) = match selector.split_once(':') {
        Some((kind, name)) => (Some(kind), name),
        None => (None, selector),
    };
    let named = |vmm: &Vmm| match kind {
        Some(kind) => vmm.kind.to_string() == kind && vmm.name == name,
        None => vmm.name == name,
    };
    let mut found: Vec<_> = find_all()?.into_iter().filter(named).collect();
    match found.len() {
        0 => Err(SelectError::Unknown(selector.to_owned())),
        1 => Ok(found.remove(0)),
        _ => Err(SelectError::Ambiguous {
            name: selector.to_owned(),
            pids: found.iter().map(|vmm| vmm.pid).collect(),
        }),
    }
}

/// Every VM of this host with what looking at it shows. Nothing is written anywhere.
///
/// # Errors
/// [`FindError`] when processes cannot be listed at all.
pub fn list() -> Result<Vec<MachineView>, FindError> {
    list_by(Where::Scan)
}

/// As [`list`], with agents looked for only where `place` says. Without scanning, a guest
/// whose agent is not seen is not searched for its operating system either.
///
/// # Errors
/// [`FindError`] when processes cannot be listed at all.
pub fn list_by(place: Where) -> Result<Vec<MachineView>, FindError> {
    Ok(look_by(find_all()?, place))
}

/// What looking at these VMs shows. All are looked at at the same time.
#[must_use]
pub fn look_at(vmms: Vec<Vmm>) -> Vec<MachineView> {
    look_by(vmms, Where::Scan)
}

/// As [`look_at`], with agents looked for only where `place` says.
#[must_use]
pub fn look_by(vmms: Vec<Vmm>, place: Where) -> Vec<MachineView> {
    look::look_at(vmms, place)
        .into_iter()
        .map(|look| look.view)
        .collect()
}
