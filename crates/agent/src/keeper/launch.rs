//! Finding the keeper, or starting one: this same program again, with the hidden
//! command `keeper`.

use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Started;
use super::client::{Client, ClientError, Inventory};
use crate::channel::ChannelError;
use crate::pin::Method;

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
    /// It ended without a word.
    #[error("the keeper ended while it started")]
    Silent,
}

/// Becomes the agent of the keeper that runs, or of a new one.
pub(crate) fn become_agent(only: Option<Method>) -> Result<(Client, Inventory), LaunchError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt(only) {
            // It was about to leave, or left no place for its successor yet.
            Err(
                LaunchError::Client(ClientError::Channel(ChannelError::Closed))
                | LaunchError::Silent,
            ) if Instant::now() < deadline => {
                std::thread::sleep(RETRY);
            }
            result => return result,
        }
    }
}

fn attempt(only: Option<Method>) -> Result<(Client, Inventory), LaunchError> {
    let mut client = match Client::connect()? {
        Some(client) => client,
        None => {
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
