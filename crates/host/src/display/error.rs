//! Why a screen cannot be shown, in words for the user, with what would help. It decides
//! nothing.

use std::time::Duration;

use vmshm_channel::ChannelError;
use vmshm_link::control::RefusalCode;

use crate::attach::AttachError;
use crate::brokered::ADD_A_RULE;
use crate::ending::SessionEnd;
use crate::machines::SelectError;
use crate::reaching::ReachError;
use crate::session::RequestError;

/// What was asked for when the agent refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Listing or choosing a screen.
    Choosing,
    /// Plugging one in.
    Adding,
    /// Setting a mode.
    SettingMode,
    /// Holding its frames.
    Watching,
}

/// Why a screen cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum DisplayError {
    /// The VM cannot be named.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// The VM cannot be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// There is no session with it, by a broker either.
    #[error(transparent)]
    Reach(ReachError),
    /// The agent did not answer, or its session ended.
    #[error(transparent)]
    Request(RequestError),
    /// The agent is older than screens are.
    #[error("vmshm-agent in {vm} knows no screens")]
    TooOld {
        /// The VM.
        vm: String,
    },
    /// The agent refused.
    #[error("{explanation}")]
    Refused {
        /// What it was asked for.
        doing: Doing,
        /// The kind of reason.
        code: RefusalCode,
        /// Its own words.
        explanation: String,
        /// Modes that can be had, where that was the question.
        modes: Option<String>,
    },
    /// The screen that was shown is not there any more.
    #[error("the screen {name} is gone")]
    Gone {
        /// Its name in the guest.
        name: String,
    },
    /// What the guest writes as frames is none.
    #[error("the guest sends no valid frames: {0}")]
    BadFrames(String),
    /// No picture came in time.
    #[error("no picture came within {} s{}", .waited.as_secs_f32(), .because.as_ref().map_or_else(String::new, |why| format!(": {why}")))]
    NoPicture {
        /// How long was waited.
        waited: Duration,
        /// What is known of the reason.
        because: Option<String>,
    },
    /// The process that shows the screen said why it cannot go on.
    #[error("{message}")]
    Monitor {
        /// Its own words.
        message: String,
        /// What would help, in its own words.
        hint: Option<String>,
    },
    /// The process that shows the screen has ended without a word.
    #[error("the process that shows the screen has ended")]
    MonitorGone,
    /// The process that shows the screen did not say that it can.
    #[error("the process that shows the screen was not ready within {0} s")]
    MonitorSilent(u64),
    /// The connection to that process failed.
    #[error("the process that shows the screen cannot be talked to: {0}")]
    Channel(ChannelError),
    /// The system refused.
    #[error("{doing}: {error}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// What the system says.
        error: std::io::Error,
    },
}

impl DisplayError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Select(error) => return error.hint(),
            Self::Attach(error) => return error.hint(),
            Self::Reach(error) => return error.hint(),
            Self::Request(error) => return error.hint(),
            Self::Monitor { hint, .. } => return hint.clone(),
            Self::Refused {
                doing, code, modes, ..
            } => return refusal_hint(*doing, *code, modes.as_deref()),
            Self::TooOld { .. } => "update vmshm-agent in the guest",
            Self::BadFrames(_) => "use the same release of vmshm on both sides",
            Self::NoPicture { .. } => "--timeout SECONDS waits longer",
            Self::MonitorSilent(_) => "is the host's display very busy, or gone?",
            Self::Gone { .. } | Self::MonitorGone | Self::Channel(_) | Self::System { .. } => {
                return None;
            }
        };
        Some(text.to_owned())
    }

    /// Whether the session is over with this.
    pub(super) const fn ends_session(&self) -> bool {
        matches!(self, Self::Request(RequestError::Ended(_)))
    }

    /// What the agent's refusal means while `doing`; other failures stay what they are.
    pub(super) fn from_request(error: RequestError, doing: Doing, vm: &str) -> Self {
        match error {
            RequestError::Refused {
                code: RefusalCode::Unsupported,
                ..
            } => Self::TooOld { vm: vm.to_owned() },
            RequestError::Refused { code, explanation } => Self::Refused {
                doing,
                code,
                explanation,
                modes: None,
            },
            other => Self::Request(other),
        }
    }
}

fn refusal_hint(doing: Doing, code: RefusalCode, modes: Option<&str>) -> Option<String> {
    let text = match (doing, code) {
        (_, RefusalCode::Forbidden) => {
            "start vmshm-agent in the guest without `--no-screens` (or `--no-input`)"
        }
        (_, RefusalCode::Denied) => ADD_A_RULE,
        (_, RefusalCode::OverBudget) => {
            "start the agent with a larger `--max-pinned SIZE`, or remove regions"
        }
        (Doing::Adding, RefusalCode::Unable) => "`--screen N` shows an existing screen",
        (Doing::SettingMode, _) => {
            return modes.map(|modes| format!("it can have {modes}"));
        }
        (Doing::Choosing, RefusalCode::NotFound) => {
            "`--list` shows the guest's screens; `--add WxH` plugs one in; `--screen test-card` needs none"
        }
        _ => return None,
    };
    Some(text.to_owned())
}

impl From<ReachError> for DisplayError {
    fn from(error: ReachError) -> Self {
        match error {
            ReachError::Select(error) => Self::Select(error),
            ReachError::Attach(error) => Self::Attach(error),
            other => Self::Reach(other),
        }
    }
}

impl From<SessionEnd> for DisplayError {
    fn from(end: SessionEnd) -> Self {
        Self::Request(end.into())
    }
}

impl From<ChannelError> for DisplayError {
    fn from(error: ChannelError) -> Self {
        match error {
            ChannelError::Closed => Self::MonitorGone,
            other => Self::Channel(other),
        }
    }
}
