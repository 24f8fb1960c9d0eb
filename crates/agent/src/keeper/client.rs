//! Talking to the keeper, from the agent and from commands that only look.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::PollFlags;

use super::protocol::{Allocation, PROTOCOL, Purpose, Reply, Request, Summary};
use crate::run_directory::KEEPER_SOCKET;
use vmshm_channel::{Channel, ChannelError};

/// How long the keeper may take for an answer; it may just be pinning a large region.
const PATIENCE: Duration = Duration::from_secs(30);

/// A memory that the keeper holds, with its file.
#[derive(Debug)]
pub(crate) struct Holding {
    /// What the keeper says of it.
    pub allocation: Allocation,
    /// Its file.
    pub file: OwnedFd,
}

/// Everything that a keeper holds.
#[derive(Debug)]
pub(crate) struct Inventory {
    /// All memory, by ascending number.
    pub holdings: Vec<Holding>,
    /// The keeper.
    pub summary: Summary,
}

impl Inventory {
    /// The one memory for a purpose.
    pub(crate) fn find(&self, purpose: Purpose) -> Result<&Holding, ClientError> {
        self.holdings
            .iter()
            .find(|holding| holding.allocation.purpose == purpose)
            .ok_or(ClientError::Unexpected)
    }
}

/// Why the keeper could not be talked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The connection.
    #[error("cannot talk to the keeper: {0}")]
    Channel(#[from] ChannelError),
    /// It cannot be reached at all.
    #[error("cannot reach the keeper at {KEEPER_SOCKET}: {0}")]
    Connect(io::Error),
    /// There is an agent already.
    #[error("already running as pid {0}")]
    Busy(u32),
    /// It refused.
    #[error("{message}")]
    Refused {
        /// Why.
        message: String,
        /// What the user can do.
        hint: Option<String>,
    },
    /// An answer to a question that was not asked.
    #[error("the keeper gave an answer that does not fit")]
    Unexpected,
}

/// A connection to the keeper.
#[derive(Debug)]
pub(crate) struct Client {
    channel: Channel,
}

impl Client {
    /// Connects; nothing where no keeper runs.
    pub(crate) fn connect() -> Result<Option<Self>, ClientError> {
        match UnixStream::connect(KEEPER_SOCKET) {
            Ok(socket) => Ok(Some(Self::over(socket)?)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(ClientError::Connect(error)),
        }
    }

    /// Talks over a connected socket.
    pub(crate) fn over(socket: UnixStream) -> Result<Self, ClientError> {
        let channel = Channel::new(socket).map_err(ClientError::Connect)?;
        Ok(Self { channel })
    }

    /// Everything that the keeper holds.
    pub(crate) fn list(&mut self) -> Result<Inventory, ClientError> {
        self.inventory(&Request::List { protocol: PROTOCOL })
    }

    /// Becomes the agent, and takes over everything that the keeper holds.
    pub(crate) fn become_agent(&mut self) -> Result<Inventory, ClientError> {
        self.inventory(&Request::Serve { protocol: PROTOCOL })
    }

    fn inventory(&mut self, request: &Request) -> Result<Inventory, ClientError> {
        self.channel.send(request, None)?;
        let mut holdings = Vec::new();
        loop {
            match self.channel.next(PATIENCE)? {
                (Reply::Allocation(allocation), Some(file)) => {
                    holdings.push(Holding { allocation, file });
                }
                (Reply::Summary(summary), None) => return Ok(Inventory { holdings, summary }),
                (Reply::Busy { pid }, _) => return Err(ClientError::Busy(pid)),
                (Reply::Refused { message, hint }, _) => {
                    return Err(ClientError::Refused { message, hint });
                }
                _ => return Err(ClientError::Unexpected),
            }
        }
    }

    /// Sends a request whose answer, if any, comes through [`Client::poll`].
    pub(crate) fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        Ok(self.channel.send(request, None)?)
    }

    /// Waits until everything sent has left this process, so that it reaches the
    /// keeper even if this process dies now.
    pub(crate) fn drain(&mut self) -> Result<(), ClientError> {
        Ok(self.channel.drain(PATIENCE)?)
    }

    /// The next answer, if one is there.
    pub(crate) fn poll(&mut self) -> Result<Option<(Reply, Option<OwnedFd>)>, ClientError> {
        self.channel.flush()?;
        Ok(self.channel.receive()?)
    }

    /// What to poll for.
    pub(crate) fn interest(&self) -> PollFlags {
        self.channel.interest()
    }

    /// Removes the brand; the keeper leaves when the last slot is free.
    pub(crate) fn withdraw(&mut self) -> Result<(), ClientError> {
        self.send(&Request::Withdraw)?;
        loop {
            // Answers to earlier requests may come first.
            if let (Reply::Withdrawn, _) = self.channel.next(PATIENCE)? {
                return Ok(());
            }
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}
