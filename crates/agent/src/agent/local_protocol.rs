//! What the agent's own commands (`status`, `pipe`, `release`) ask it, and what it
//! answers. Both sides are the same program as root.

use serde::{Deserialize, Serialize};
use vmshm_link::control::Role;

use crate::connect::ConnectionInfo;

/// Raised with every change of these messages.
pub(crate) const PROTOCOL: u32 = 4;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Question {
    /// [`PROTOCOL`] of the asking side.
    pub protocol: u32,
    /// What is wanted.
    pub wish: Wish,
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wish {
    /// Tell the sessions.
    Sessions,
    /// Tell how the connection out of the guest stands.
    Connection,
    /// Tell the connected programs.
    Programs,
    /// Tell how screens stand.
    Screens,
    /// Free what nobody uses any more; with force, also what silent hosts hold.
    Release {
        /// Whether silent hosts lose what they hold.
        force: bool,
    },
    /// Take the guest's end of a pipe, and make the pipe if it is not there. The end is
    /// held as long as the connection.
    Pipe {
        /// Its name.
        name: String,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// To `Sessions`.
    Sessions(Vec<SessionInfo>),
    /// To `Connection`; nothing where none was asked for.
    Connection(Option<ConnectionInfo>),
    /// To `Programs`.
    Programs(Vec<ProgramInfo>),
    /// To `Screens`.
    Screens(ScreensInfo),
    /// To `Release`.
    Released(ReleaseInfo),
    /// To `Pipe`, with the region's file, once a host has proved the pages.
    PipeReady {
        /// Its size in bytes.
        size: u64,
    },
    /// To anything.
    Refused {
        /// Why.
        message: String,
        /// What the user can do.
        hint: Option<String>,
    },
}

/// One session slot in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionInfo {
    /// The slot.
    pub slot: usize,
    /// For how many seconds its host has not been heard.
    pub silent_seconds: u32,
    /// What its host did against the protocol, if it did: it is not served any more.
    pub broken: Option<String>,
}

/// One connected program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProgramInfo {
    /// Its user.
    pub uid: u32,
    /// Its process when it connected.
    pub pid: u32,
    /// What it holds, and what it waits for.
    pub held: Vec<HeldInfo>,
}

/// A region that a program holds, or waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeldInfo {
    /// Its name.
    pub region: String,
    /// What the program does there.
    pub role: RoleName,
    /// Whether it is not there yet.
    pub waits: bool,
}

/// [`Role`] as users see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RoleName {
    /// It has this side's end.
    End,
    /// It only reads.
    Watch,
}

impl From<Role> for RoleName {
    fn from(role: Role) -> Self {
        match role {
            Role::End => Self::End,
            Role::Watch => Self::Watch,
        }
    }
}

/// How screens stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ScreensInfo {
    /// Whether hosts get any.
    pub offered: bool,
    /// Whether hosts may give input.
    pub input: bool,
    /// How many are watched.
    pub watched: usize,
    /// What delivers them, as far as somebody has asked.
    pub sources: Vec<SourceInfo>,
}

/// A source of screens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceInfo {
    /// What it is.
    pub title: String,
    /// Its process, while it has one.
    pub pid: Option<u32>,
    /// The names of its screens.
    pub screens: Vec<String>,
    /// What failed last.
    pub trouble: Option<String>,
}

/// What came of a release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReleaseInfo {
    /// Slots that are free now.
    pub freed: Vec<usize>,
    /// Slots of silent hosts that were left alone.
    pub silent: Vec<usize>,
    /// How many slots live hosts use.
    pub live: usize,
}
