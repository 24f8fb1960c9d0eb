//! Asking the agent that runs in this guest, over its socket.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::agent::local_protocol::{Answer, PROTOCOL, Question, Wish};
use crate::run_directory::AGENT_SOCKET;
use vmshm_channel::{Channel, ChannelError};

/// How long the agent may take for an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Why the agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// Nobody listens.
    #[error("no agent is running in this guest")]
    NotRunning,
    /// The socket cannot be reached.
    #[error("cannot reach the agent at {AGENT_SOCKET}: {0}")]
    Connect(io::Error),
    /// The connection failed.
    #[error("cannot talk to the agent: {0}")]
    Channel(#[from] ChannelError),
    /// It refused.
    #[error("{message}")]
    Refused {
        /// Why.
        message: String,
        /// What the user can do.
        hint: Option<String>,
    },
    /// An answer to another question.
    #[error("the agent gave an answer that does not fit")]
    Unexpected,
}

impl AskError {
    /// What the user can do.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::NotRunning => Some("start it with `vmshm-agent run`".to_owned()),
            Self::Refused { hint, .. } => hint.clone(),
            _ => None,
        }
    }
}

/// Connects to the agent.
pub(crate) fn connect() -> Result<Channel, AskError> {
    let socket = UnixStream::connect(AGENT_SOCKET).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => AskError::NotRunning,
        _ => AskError::Connect(error),
    })?;
    Channel::new(socket).map_err(AskError::Connect)
}

/// Asks, without waiting for the answer.
pub(crate) fn send(channel: &mut Channel, wish: Wish) -> Result<(), AskError> {
    let question = Question {
        protocol: PROTOCOL,
        wish,
    };
    Ok(channel.send(&question, None)?)
}

/// Waits for the answer.
pub(crate) fn answer(
    channel: &mut Channel,
    patience: Duration,
) -> Result<(Answer, Option<OwnedFd>), AskError> {
    match channel.next(patience)? {
        (Answer::Refused { message, hint }, _) => Err(AskError::Refused { message, hint }),
        other => Ok(other),
    }
}

/// Asks and waits.
pub(crate) fn ask(wish: Wish) -> Result<Answer, AskError> {
    let mut channel = connect()?;
    send(&mut channel, wish)?;
    Ok(answer(&mut channel, PATIENCE)?.0)
}
