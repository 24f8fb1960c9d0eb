//! The agent: announces the guest, serves hosts over their session slots, and hands
//! regions to commands and programs of the guest.
//!
//! It holds no memory of its own: all of it is the keeper's, so that a killed agent
//! leaves nothing dangling and the next one goes on. It refuses to be the second.

mod announce;
mod bench;
mod creation;
#[cfg(test)]
mod flood_tests;
#[cfg(test)]
mod hold_tests;
#[cfg(test)]
mod link_tests;
mod links;
pub(crate) mod local_protocol;
mod locals;
mod openers;
mod pattern;
mod presences;
#[cfg(test)]
mod program_limit_tests;
#[cfg(test)]
mod program_linger_tests;
mod program_reader;
mod program_requests;
#[cfg(test)]
mod program_simulation;
mod program_socket;
#[cfg(test)]
mod program_tests;
mod programs;
pub(crate) mod regions;
mod requests;
mod rules;
#[cfg(test)]
mod rules_tests;
mod screens;
mod service;
#[cfg(test)]
mod service_tests;
mod sessions;
#[cfg(test)]
mod simulation;
mod takeover;

use std::fs;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vmshm_link::Extent;
use vmshm_link::beacon::PAGE;
use vmshm_link::local::SOCKET;

use crate::connect::Listener;
use crate::facts::{self, FactsError};
use crate::keeper::client::{ClientError, Inventory};
use crate::keeper::launch::{self, LaunchError, Otherwise};
use crate::keeper::protocol::Summary;
use crate::pin::{Method, is_aligned};
use crate::run_directory::{self, AGENT_LOCK, AGENT_SOCKET, Lock, RunDirectoryError, Taken};
use crate::size::show;
use local_protocol::ReleaseInfo;
use locals::Locals;
use program_socket::ListenError;
use programs::Programs;
use rules::{Rules, RulesError};
use screens::{Offer, Screens};
use service::{Service, ServiceError};

/// How long an agent that was killed a moment ago may keep its lock.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
/// For how long `release` listens for hosts where no agent has listened before.
const LISTEN: Duration = Duration::from_secs(6);

/// What `run` was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The most bytes to pin.
    pub max_pinned: Option<u64>,
    /// Where to connect out to.
    pub connect: Option<Listener>,
    /// The only way to pin.
    pub pin_by: Option<Method>,
    /// The file of rules for programs, where it is not the default one.
    pub rules: Option<PathBuf>,
    /// Whether hosts see screens.
    pub screens: bool,
    /// Whether hosts may give input at screens.
    pub input: bool,
}

/// Why the agent did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// There is one.
    #[error("already running{}", .0.map_or_else(String::new, |pid| format!(" as pid {pid}")))]
    AlreadyRunning(Option<u32>),
    /// Neither an agent nor a keeper runs.
    #[error("no agent is running in this guest, and no keeper holds memory")]
    NotRunning,
    /// The meeting place cannot be used.
    #[error(transparent)]
    RunDirectory(#[from] RunDirectoryError),
    /// There is no keeper.
    #[error(transparent)]
    Launch(LaunchError),
    /// A fact about the guest is missing.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// The rules for programs cannot be used.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// Programs cannot be listened to.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Serving failed.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The system failed.
    #[error("cannot {what}: {error}")]
    System {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

impl From<LaunchError> for AgentError {
    fn from(error: LaunchError) -> Self {
        match error {
            LaunchError::Client(ClientError::Busy(pid)) => Self::AlreadyRunning(Some(pid)),
            LaunchError::NoKeeper => Self::NotRunning,
            other => Self::Launch(other),
        }
    }
}

impl AgentError {
    /// What the user can do.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::AlreadyRunning(_) => Some("`vmshm-agent status` shows what it does".to_owned()),
            Self::NotRunning => Some("start it with `vmshm-agent run`".to_owned()),
            Self::Rules(error) => error.hint(),
            Self::Launch(
                LaunchError::Failed { hint, .. }
                | LaunchError::Client(ClientError::Refused { hint, .. }),
            ) => hint.clone(),
            Self::Service(ServiceError::KeeperDied) => Some(
                "end the host programs that used this guest's memory, then start the agent again"
                    .to_owned(),
            ),
            Self::Service(ServiceError::Moved(_) | ServiceError::KeeperLeft) => {
                Some("start the agent again".to_owned())
            }
            _ => None,
        }
    }
}

/// `vmshm-agent run`.
pub(crate) fn run(options: Options) -> Result<(), AgentError> {
    let signals = catch_signals()?;
    let _lock = lock()?;
    let rules = Rules::read(options.rules.as_deref())?;
    let limit = match options.max_pinned {
        Some(limit) => limit,
        None => facts::total_memory()? / 4,
    };
    let (client, inventory) = launch::become_agent(Otherwise::Start(options.pin_by))?;
    let ready = describe(&inventory, limit);
    let notes = notes(&inventory.summary, options.pin_by);
    let locals = Locals::new(Some(run_directory::listen(AGENT_SOCKET)?));
    let listener = program_socket::listen(Path::new(SOCKET))?;
    let programs = Programs::new(Some(listener), rules).map_err(no_waker)?;
    let screens = Screens::of_this_guest(Offer {
        screens: options.screens,
        input: options.input,
    })
    .map_err(no_waker)?;
    let mut service = Service::take_over(client, inventory, locals, programs, screens, limit)?;
    service.announce()?;
    tell(&ready);
    notes.iter().for_each(|note| tell(note));
    if let Some(listener) = options.connect {
        service.connect_to(listener, tell)?;
    }

    let served = service.serve(&signals);
    // While the lock is held, so that a successor's socket is not removed.
    let _ = fs::remove_file(AGENT_SOCKET);
    let _ = fs::remove_file(SOCKET);
    let left = match &served {
        Err(ServiceError::KeeperDied | ServiceError::KeeperLeft) => Ok(()),
        _ => service.leave(),
    };
    served?;
    Ok(left?)
}

/// `vmshm-agent release` where no agent runs: frees what hosts have let go of and, with
/// force, what silent ones hold; the keeper leaves when that is all.
pub(crate) fn release_without_agent(force: bool) -> Result<ReleaseInfo, AgentError> {
    let _lock = lock()?;
    let (client, inventory) = launch::become_agent(Otherwise::GiveUp)?;
    let programs = Programs::new(None, Rules::none()).map_err(no_waker)?;
    let locals = Locals::new(None);
    let screens = Screens::of_this_guest(Offer::NONE).map_err(no_waker)?;
    let mut service = Service::take_over(client, inventory, locals, programs, screens, 0)?;
    let deadline = Instant::now() + LISTEN;
    let mut info = service.release(false)?;
    while !(info.live == 0 && info.silent.is_empty()) && Instant::now() < deadline {
        service.listen()?;
        let freed = std::mem::take(&mut info.freed);
        info = service.release(force)?;
        info.freed.splice(0..0, freed);
    }
    service.leave()?;
    Ok(info)
}

fn no_waker(error: io::Error) -> AgentError {
    AgentError::System {
        what: "wait for programs",
        error,
    }
}

fn lock() -> Result<Lock, AgentError> {
    run_directory::prepare()?;
    match Lock::take(AGENT_LOCK, LOCK_PATIENCE)? {
        Taken::Ours(lock) => Ok(lock),
        Taken::Theirs(pid) => Err(AgentError::AlreadyRunning(pid)),
    }
}

/// A socket that becomes readable when the agent shall end. A closing terminal is no
/// reason to die without a word either.
fn catch_signals() -> Result<UnixStream, AgentError> {
    let system = |error| AgentError::System {
        what: "handle signals",
        error,
    };
    let (receiver, sender) = UnixStream::pair().map_err(system)?;
    receiver.set_nonblocking(true).map_err(system)?;
    for signal in [
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGHUP,
    ] {
        let sender = sender.try_clone().map_err(system)?;
        signal_hook::low_level::pipe::register(signal, sender).map_err(system)?;
    }
    Ok(receiver)
}

/// The line that says that the agent is ready.
fn describe(inventory: &Inventory, limit: u64) -> String {
    use crate::keeper::protocol::Purpose;
    let beacon = inventory
        .find(Purpose::Beacon)
        .map(|holding| holding.allocation.extents())
        .unwrap_or_default();
    let start = beacon.first().map_or(0, |extent: &Extent| extent.start.0);
    let place = if is_aligned(&beacon) {
        "2 MiB-aligned"
    } else {
        "not 2 MiB-aligned: a host has to look at every 4 KiB page to find it"
    };
    let summary = &inventory.summary;
    debug_assert!(start.is_multiple_of(PAGE));
    format!(
        "ready: beacon at {start:#x} ({place}), pinning by {}, at most {}, keeper {}",
        summary.method,
        show(limit),
        summary.keeper_pid
    )
}

/// What is missing on this system, and what the user wanted in vain.
fn notes(summary: &Summary, wanted: Option<Method>) -> Vec<String> {
    let mut notes: Vec<String> = summary
        .notes
        .iter()
        .map(|note| format!("note: {note}"))
        .collect();
    if wanted.is_some_and(|wanted| wanted != summary.method) {
        notes.push(format!(
            "note: the keeper that runs already pins by {}; --pin-by has no effect on it",
            summary.method
        ));
    }
    notes
}

/// Tells the user something. Whoever started us may have closed the other end.
fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
