//! What can go wrong when a link is opened or used.

use std::error::Error as StdError;
use std::time::Duration;

use vmshm_link::LinkError;
use vmshm_link::control::RefusalCode;
use vmshm_shm::Fault;

use crate::ending::End;

/// Why a link could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The agent refused, or who stands before it.
    #[error("{explanation}")]
    Refused {
        /// The kind of reason.
        code: RefusalCode,
        /// The agent's own words.
        explanation: String,
        /// What would help, where that depends on who refused.
        hint: Option<&'static str>,
    },
    /// The name cannot be a region's.
    #[error("{0:?} cannot be a region's name")]
    BadName(String),
    /// The size cannot be that of such a link.
    #[error("{0}")]
    BadSize(String),
    /// The other side did not do its part in time.
    #[error("{what} within {} s", .waited.as_secs_f32())]
    Timeout {
        /// What did not happen.
        what: &'static str,
        /// How long was waited.
        waited: Duration,
    },
    /// No host has opened the region, whose pages are of use only once one has seen them
    /// (in a guest).
    #[error("no host program has opened `{name}` within {} s", .waited.as_secs_f32())]
    NoHost {
        /// The region.
        name: String,
        /// How long was waited.
        waited: Duration,
    },
    /// A word of the region's own is still in use, which a new session must not share.
    #[error("the word at {offset:#x} is still in use")]
    WordInUse {
        /// Its offset in bytes.
        offset: u64,
    },
    /// The session is over.
    #[error(transparent)]
    Ended(#[from] End),
    /// The VM or the agent cannot be reached.
    #[error("{what}")]
    Unreachable {
        /// What was tried.
        what: String,
        /// The reason.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
        /// What the user can do.
        hint: Option<String>,
    },
}

impl OpenError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Refused {
                hint: Some(hint), ..
            } => hint,
            Self::Refused { code, .. } => match code {
                RefusalCode::OverBudget => {
                    "start the agent with a larger `--max-pinned SIZE`, or remove regions"
                }
                RefusalCode::NotFound => {
                    "start the program that makes it, or give a size, so that it is made here"
                }
                RefusalCode::Busy => "one process of each side has the end of a link",
                RefusalCode::Proving => "wait longer, or end that process if it hangs",
                RefusalCode::WrongKind => "use another name, or remove that region first",
                RefusalCode::Denied => {
                    "the guest's administrator gives access, in the agent's file of rules"
                }
                _ => return None,
            },
            Self::BadName(_) => "names are 1 to 64 letters, digits, dots, dashes and underscores",
            Self::NoHost { .. } => {
                "start the host's program: a region is of use here once one there has opened it"
            }
            Self::Timeout { .. } => "start the other side, or wait longer",
            Self::Ended(end) => return end.hint().map(str::to_owned),
            Self::Unreachable { hint, .. } => return hint.clone(),
            Self::WordInUse { .. } => "drop the words of this region before reconnecting",
            Self::BadSize(_) => return None,
        };
        Some(text.to_owned())
    }
}

/// Why something could not be sent, received or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkFailure {
    /// The link is over.
    #[error(transparent)]
    Ended(#[from] End),
    /// A record that the link could never carry, or a buffer that is too short for it.
    #[error("{length} bytes do not fit: at most {limit}")]
    TooLong {
        /// Its length in bytes.
        length: u64,
        /// The most that fits.
        limit: u64,
    },
    /// A place that the caller named is not inside the region, or is no word.
    #[error(transparent)]
    Misplaced(Fault),
    /// A word that this program writes in another place already.
    #[error("the word at offset {offset:#x} has a writer in this program already")]
    WordTaken {
        /// Its offset in bytes.
        offset: u64,
    },
    /// The program that this stream is tied to has gone. What it had sent was received.
    #[error("the other side's program is gone: {0}")]
    PeerGone(Gone),
    /// The stream was finished by this side.
    #[error("this side has finished the stream")]
    Finished,
    /// The other side did nothing in time.
    #[error("nothing came within {} s", .0.as_secs_f32())]
    Timeout(Duration),
}

/// Two directions that are not of one link.
#[derive(Debug, thiserror::Error)]
#[error("these two directions are not of one link")]
pub struct NotJoined<S, R> {
    /// Both, as they were given.
    pub halves: Box<(S, R)>,
}

impl<S, R> NotJoined<S, R> {
    pub(crate) fn new(one: S, other: R) -> Self {
        Self {
            halves: Box::new((one, other)),
        }
    }
}

/// How the other side's program has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Gone {
    /// It closed its end.
    #[error("it closed its end")]
    Left,
    /// It died, or lost its session.
    #[error("it died or lost its session")]
    Lost,
    /// Another one has the end now.
    #[error("another has taken its place")]
    Replaced,
}

impl LinkFailure {
    /// What the user can do about it.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Ended(end) => end.hint(),
            Self::PeerGone(_) => Some("reconnect, and start the other side again"),
            _ => None,
        }
    }
}

impl From<LinkError> for LinkFailure {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::TooLong { length, limit } => Self::TooLong { length, limit },
            other => Self::Ended(End::Link(other)),
        }
    }
}
