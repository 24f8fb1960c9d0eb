//! Why a link is over, in the same words on both sides.

use vmshm_link::LinkError;

/// Why nothing more will come over a link. All of these are final: reconnect to go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum End {
    /// The VMM's process has ended (seen on the host).
    #[error("VM gone: process {pid} has ended")]
    VmGone {
        /// The VMM's process.
        pid: u32,
    },
    /// The agent was killed.
    #[error("agent dead: vmshm-agent in the guest has died")]
    AgentDied,
    /// Another agent has taken over.
    #[error("agent restarted: another vmshm-agent serves this guest now")]
    AgentRestarted,
    /// The agent left in good order.
    #[error("agent stopped: vmshm-agent in the guest was shut down")]
    AgentLeft,
    /// The beacon is not there any more (seen on the host).
    #[error(
        "guest restarted: its beacon has gone, or its BIOS has started over (a reboot, or its keeper was killed)"
    )]
    GuestRestarted,
    /// A broker of this host kept the session, and has ended it; all that it lent is taken back.
    #[error("broker gone: vmshm-broker has ended the connection")]
    BrokerGone,
    /// Another host program puts other pages in the place of a region's (seen on the host).
    /// The region and what is in it stay.
    #[error("made way: another vmshm program grafts a region that this one uses")]
    MadeWay,
    /// Somebody removed the region.
    #[error("the region was removed")]
    RegionRemoved,
    /// Guest and host no longer see the same pages.
    #[error("the region is damaged: {0}")]
    RegionDamaged(String),
    /// What the memory or its other writer did.
    #[error("the link is broken: {0}")]
    Link(#[from] LinkError),
    /// This side closed it.
    #[error("the link was closed")]
    Closed,
}

impl End {
    /// What the user can do about it.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::AgentDied | Self::AgentLeft => {
                Some("start `vmshm-agent run` in the guest again, as root, then reconnect")
            }
            Self::AgentRestarted | Self::GuestRestarted | Self::MadeWay => Some("reconnect"),
            Self::BrokerGone => Some("sudo systemctl start vmshm-broker, then reconnect"),
            Self::RegionRemoved | Self::RegionDamaged(_) => Some("open the region anew"),
            Self::Link(LinkError::RolledBack { .. } | LinkError::Revoked) => Some("reconnect"),
            Self::Link(LinkError::Violation { .. }) => {
                Some("if reconnecting does not help, remove the region and open it anew")
            }
            Self::VmGone { .. } | Self::Link(_) | Self::Closed => None,
        }
    }
}
