//! What the agent, and the commands that only look, say to the keeper, and what it
//! answers. Both sides are the same program as root; another version of it is
//! refused with both numbers named.

use serde::{Deserialize, Serialize};
use vmshm_link::beacon::KeeperState;
use vmshm_link::{Extent, GuestPhysical};

use crate::pin::Method;

/// Raised with every change of these messages.
pub(crate) const PROTOCOL: u32 = 3;

/// Longest name of an allocation in bytes.
pub(crate) const NAME_LIMIT: usize = 64;
/// Longest description of an allocation in bytes.
pub(crate) const DESCRIPTION_LIMIT: usize = 64 << 10;

/// What the keeper is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub(crate) enum Request {
    /// Become the agent. Answered by every allocation, then `Summary`; or by `Busy`.
    Serve {
        /// [`PROTOCOL`] of the asking side.
        protocol: u32,
    },
    /// The directory is complete: say that the agent is alive. No answer.
    Serving,
    /// Allocate and pin memory for a region. Answered by `Allocation` or `Refused`.
    Allocate {
        /// What its file is called.
        name: String,
        /// Bytes.
        size: u64,
    },
    /// Hold the memory of a framebuffer device, which the guest draws into and which does not
    /// move. Answered by `Allocation` or `Refused`.
    AllocateDevice {
        /// What it is called.
        name: String,
        /// The device: `/dev/fb0`.
        path: String,
        /// Bytes.
        size: u64,
    },
    /// Keep this text with an allocation, for the next agent. No answer.
    Describe {
        /// The allocation.
        id: u64,
        /// The text.
        description: String,
    },
    /// Unpin an allocation and give it back. No answer.
    Free {
        /// The allocation.
        id: u64,
    },
    /// Tell everything. Answered by every allocation, then `Summary`.
    List {
        /// [`PROTOCOL`] of the asking side.
        protocol: u32,
    },
    /// The agent leaves in good order: remove the brand, and leave when no host holds
    /// a slot. Answered by `Withdrawn`.
    Withdraw,
}

/// What the keeper answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub(crate) enum Reply {
    /// One memory; its file comes along.
    Allocation(Allocation),
    /// The end of a list.
    Summary(Summary),
    /// There is an agent already.
    Busy {
        /// Its process.
        pid: u32,
    },
    /// The request failed.
    Refused {
        /// Why.
        message: String,
        /// What the user can do.
        hint: Option<String>,
    },
    /// The brand is gone.
    Withdrawn,
    /// An allocation is not any more what was announced: pages of its file were
    /// punched out, or moved. Sent without a request, once to each agent. A region's
    /// pages stay pinned where the host sees them until it is freed, and all else goes
    /// on; of the beacon or the directory, it is the end.
    Moved {
        /// The allocation.
        id: u64,
        /// What happened to which page.
        message: String,
    },
}

/// What a memory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Purpose {
    /// The beacon's page.
    Beacon,
    /// The directory.
    Directory,
    /// A region.
    Region,
}

/// A memory that the keeper holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Allocation {
    /// Number that no other memory of this keeper has or had; never zero.
    pub id: u64,
    /// What it is for.
    pub purpose: Purpose,
    /// What its file is called.
    pub name: String,
    /// Where it starts in its file.
    pub offset: u64,
    /// Its size in bytes.
    pub length: u64,
    /// What it takes of the guest's RAM in bytes.
    pub cost: u64,
    /// Where its pages lie: guest-physical start and length of each run, in order.
    pub extents: Vec<(u64, u64)>,
    /// The number of its file in the keeper (`/proc/PID/fd/N`).
    pub descriptor: i32,
    /// What the agent keeps with it.
    pub description: Option<String>,
}

impl Allocation {
    /// Where its pages lie.
    pub(crate) fn extents(&self) -> Vec<Extent> {
        self.extents
            .iter()
            .map(|(start, length)| Extent {
                start: GuestPhysical(*start),
                length: *length,
            })
            .collect()
    }
}

/// The keeper itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// [`PROTOCOL`] of the keeper.
    pub protocol: u32,
    /// The keeper's version.
    pub version: String,
    /// Its process.
    pub keeper_pid: u32,
    /// The agent's process, if one serves.
    pub agent_pid: Option<u32>,
    /// What the beacon says.
    pub state: State,
    /// Random number of this keeper's life.
    pub epoch: u64,
    /// How many agents have come.
    pub generation: u64,
    /// How it pins.
    pub method: Method,
    /// In what unit allocations count.
    pub unit: u64,
    /// What is missing on this system, with its cost.
    pub notes: Vec<String>,
}

/// [`KeeperState`] as these messages and users name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// No agent has served yet.
    Starting,
    /// An agent serves.
    Alive,
    /// The agent is gone.
    Dead,
    /// The agent has left in good order.
    Withdrawn,
}

impl From<KeeperState> for State {
    fn from(state: KeeperState) -> Self {
        match state {
            KeeperState::Starting => Self::Starting,
            KeeperState::AgentAlive => Self::Alive,
            KeeperState::AgentDead => Self::Dead,
            KeeperState::Withdrawn => Self::Withdrawn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire() {
        let reply = Reply::Allocation(Allocation {
            id: 7,
            purpose: Purpose::Region,
            name: "data".to_owned(),
            offset: 0,
            length: 8192,
            cost: 8192,
            extents: vec![(0x1000, 0x1000), (0x8000, 0x1000)],
            descriptor: 9,
            description: None,
        });
        let text = serde_json::to_string(&reply).expect("succeeds");
        assert_eq!(
            serde_json::from_str::<Reply>(&text).expect("succeeds"),
            reply
        );
        let text = r#"{"request":"allocate","name":"x","size":-1}"#;
        assert!(serde_json::from_str::<Request>(text).is_err());
    }
}
