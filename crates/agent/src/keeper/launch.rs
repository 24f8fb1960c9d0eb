//! Finding the keeper, or starting one: this same program again, with the hidden
//! command `keeper`.

use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Started;
use super::client::{Client, ClientError, Inventory};
use crate::pin::Method;
use vmshm_channel::ChannelError;

/// For how long keepers are tried that leave at the very moment.
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(20);

/// Why there is no keeper.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    /// The one that runs does not serve us.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The program could not be started.
    #[error("cannot start the keeper: {0}")]
    Spawn(io::Error),
    /// It started, and gave up.
    #[error("{message}")]
    Failed {
        /// Why.
        message: String,
        /// What the user can do.
        hint: Option<String>,
    },
    /// None runs, and none was to be started.
    #[error("no keeper is running in this guest")]
    NoKeeper,
    /// It ended without a word.
    #[error("the keeper ended while it started")]
    Silent,
}

/// What to do where no keeper runs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Otherwise {
    /// Start one, pinning by this way only.
    Start(Option<Method>),
    /// Give up.
    GiveUp,
}

/// Becomes the agent of the keeper that runs, or else of a new one. The caller holds
/// the agents' lock.
pub(crate) fn become_agent(otherwise: Otherwise) -> Result<(Client, Inventory), LaunchError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt(otherwise) {
            // The keeper was about to leave, or has left no place for its successor yet;
            // or it has not noticed yet that the last agent, who has lost the lock, died.
            Err(
                LaunchError::Client(
                    ClientError::Channel(ChannelError::Closed) | ClientError::Busy(_),
                )
                | LaunchError::Silent,
            ) if Instant::now() < deadline => std::thread::sleep(RETRY),
            result => return result,
        }
    }
}

fn attempt(otherwise: Otherwise) -> Result<(Client, Inventory), LaunchError> {
    let mut client = match (Client::connect()?, otherwise) {
        (Some(client), _) => client,
        (None, Otherwise::GiveUp) => return Err(LaunchError::NoKeeper),
        (None, Otherwise::Start(only)) => {
            start(only)?;
            Client::connect()?.ok_or(LaunchError::Silent)?
        }
    };
    let inventory = client.become_agent()?;
    Ok((client, inventory))
}

/// Starts a keeper and waits until it listens.
fn start(only: Option<Method>) -> Result<(), LaunchError> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("vmshm-agent")
        .arg("keeper")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    if let Some(method) = only {
        command.arg("--pin-by").arg(method.to_string());
    }
    let mut child = command.spawn().map_err(LaunchError::Spawn)?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output)
            .read_line(&mut line)
            .map_err(LaunchError::Spawn)?;
    }
    match serde_json::from_str(&line) {
        Ok(Started::Ready) => Ok(()),
        Ok(Started::Failed { message, hint }) => {
            let _ = child.wait();
            Err(LaunchError::Failed { message, hint })
        }
        Err(_) => {
            let _ = child.wait();
            Err(LaunchError::Silent)
        }
    }
}
