//! How a session with a guest can end, and what a guest that does not answer is
//! doing. It only names things; `watch` finds them out.

use vmshm_endpoint::End;
use vmshm_link::LinkError;

/// Why nothing more will come over this session. All of these are final: attach
/// again to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionEnd {
    /// The VMM's process has ended.
    #[error("VM gone: process {pid} has ended")]
    VmGone {
        /// The VMM's process.
        pid: u32,
    },
    /// The agent was killed; its keeper says so.
    #[error("agent dead: vmshm-agent in the guest has died (its keeper holds the memory)")]
    AgentDied,
    /// Another agent has taken over.
    #[error("agent restarted: another vmshm-agent serves this guest now")]
    AgentRestarted,
    /// The agent left in good order.
    #[error("agent stopped: vmshm-agent in the guest was shut down")]
    AgentLeft,
    /// The beacon is not there any more: the guest rebooted, or its keeper died.
    #[error(
        "guest restarted: its beacon has gone, or its BIOS has started over (a reboot, or its keeper was killed)"
    )]
    GuestRestarted,
    /// A broker kept the session, and is not there any more.
    #[error("broker gone: vmshm-broker has ended the connection")]
    BrokerGone,
    /// The guest's keeper did not beat, and the broker has made the memory the guest's own
    /// again.
    #[error(
        "guest silent: its keeper's heartbeat stood still, so the broker has taken the memory back (a reboot, a pause, or its keeper was killed)"
    )]
    TakenBack,
    /// A holder of a region's file has taken pages out of it.
    #[error("region damaged: a holder of its file has taken pages out of it")]
    PagesTaken,
    /// A region that it uses is no longer grafted: its pages are the VM's own again.
    #[error("region moved: its graft was undone, and its bytes are elsewhere in the VM's memory")]
    GraftUndone,
    /// Another program of this host puts other pages in the place of what this one uses,
    /// and has asked it to leave.
    #[error("made way: another vmshm program grafts a region that this one uses")]
    MadeWay,
    /// What the memory or its writer did.
    #[error("session ended: {0}")]
    Link(LinkError),
}

impl SessionEnd {
    /// What the user can do about it.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::AgentDied | Self::AgentLeft => {
                Some("start `vmshm-agent run` in the guest again, as root")
            }
            Self::AgentRestarted
            | Self::GuestRestarted
            | Self::TakenBack
            | Self::PagesTaken
            | Self::GraftUndone
            | Self::MadeWay => Some("run the command again"),
            Self::BrokerGone => Some("is it running? sudo systemctl start vmshm-broker"),
            Self::VmGone { .. } | Self::Link(_) => None,
        }
    }
}

impl From<LinkError> for SessionEnd {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

/// What a link hears of a graft that was undone under it.
pub(crate) fn graft_undone() -> End {
    End::RegionDamaged("its graft was undone; open it again".to_owned())
}

/// The same in the words that applications get on both sides.
impl From<SessionEnd> for End {
    fn from(end: SessionEnd) -> Self {
        match end {
            SessionEnd::VmGone { pid } => Self::VmGone { pid },
            SessionEnd::AgentDied => Self::AgentDied,
            SessionEnd::AgentRestarted => Self::AgentRestarted,
            SessionEnd::AgentLeft => Self::AgentLeft,
            SessionEnd::GuestRestarted | SessionEnd::TakenBack => Self::GuestRestarted,
            SessionEnd::BrokerGone => Self::BrokerGone,
            SessionEnd::PagesTaken => Self::RegionDamaged(
                "a holder of its file on the host has taken pages out of it".to_owned(),
            ),
            SessionEnd::GraftUndone => graft_undone(),
            SessionEnd::MadeWay => Self::MadeWay,
            SessionEnd::Link(error) => Self::Link(error),
        }
    }
}

/// What a guest whose session has not ended is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Its heartbeat moves.
    Running,
    /// The VMM's process is stopped (by a signal, a debugger, or because somebody suspended it).
    Stopped,
    /// The VMM runs, but no heartbeat has come for longer than it should.
    Silent,
}
