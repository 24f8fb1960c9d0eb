//! What `vmshm-agent status --json` tells.

use serde::Deserialize;

use crate::guest::Guest;

/// The parts of a status that the tests look at.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "the names are the agent's own")]
pub struct Status {
    pub state: String,
    pub agent_pid: Option<u32>,
    pub keeper_pid: u32,
    pub boot_id: String,
    pub beacon: u64,
    pub pinning: String,
    pub pinned_bytes: u64,
    pub directory: Memory,
    pub regions: Vec<Region>,
    pub sessions: Vec<Session>,
}

/// Where some memory lies, and the file through which the guest's root sees it.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "the names are the agent's own")]
pub struct Memory {
    pub extents: Vec<Extent>,
    pub memory: String,
}

/// A run of consecutive pages.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "the names are the agent's own")]
pub struct Extent {
    pub gpa: u64,
    pub length: u64,
}

/// A region.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "the names are the agent's own")]
pub struct Region {
    pub name: String,
    pub kind: String,
    pub size: u64,
    pub held_by: Vec<usize>,
    #[serde(flatten)]
    pub memory: Memory,
}

/// A host's session.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "the names are the agent's own")]
pub struct Session {
    pub slot: usize,
    pub state: String,
    pub host_pid: Option<u64>,
    pub silent_seconds: Option<u32>,
}

impl Status {
    /// Asks the guest.
    ///
    /// # Panics
    /// When it does not tell.
    #[track_caller]
    #[must_use]
    pub fn of(guest: &Guest) -> Self {
        let text = guest.check("vmshm-agent status --json");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The region of this name.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    #[must_use]
    pub fn region(&self, name: &str) -> &Region {
        let region = self.regions.iter().find(|region| region.name == name);
        region.unwrap_or_else(|| panic!("no region {name} in {self:?}"))
    }
}
