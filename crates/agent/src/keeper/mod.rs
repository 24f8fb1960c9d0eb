//! The keeper: a process of its own that holds all shared memory, its pins and the
//! beacon, so that the memory outlives the agent.
//!
//! A killed agent's pages would belong to the next allocator at once, while a host
//! still writes into them. So the keeper does as little as possible, is protected
//! from the out-of-memory killer, and depends on no terminal. It refuses to be the
//! second of its kind, and leaves only when nothing is announced any more and no
//! host holds a session slot.

mod announcement;
pub(crate) mod client;
pub(crate) mod launch;
pub(crate) mod protocol;
mod roster;
mod serve;
mod store;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::{Resource, Rlimit};
use serde::{Deserialize, Serialize};
use tracing::warn;
use vmshm_link::directory::DIRECTORY_SIZE;
use vmshm_shm::{MapError, Protection};

use crate::facts::{self, FactsError};
use crate::pin::{Method, NoMethod, Pinner};
use crate::run_directory::{self, KEEPER_LOCK, KEEPER_SOCKET, Lock, RunDirectoryError, Taken};
use crate::window::Window;
use announcement::{Announcement, AnnouncementError};
use protocol::Purpose;
use serve::{Keeper, Parts, ServeError};
use store::{Store, StoreError};

/// How long a keeper that is about to leave may keep its lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);

/// Why a keeper did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeeperError {
    /// The meeting place cannot be used.
    #[error(transparent)]
    RunDirectory(#[from] RunDirectoryError),
    /// There is one.
    #[error("a keeper is already running{}", .0.map_or_else(String::new, |pid| format!(" as pid {pid}")))]
    AlreadyRunning(Option<u32>),
    /// This system cannot pin.
    #[error(transparent)]
    NoMethod(#[from] NoMethod),
    /// Beacon or directory could not be had.
    #[error("cannot make the {what}: {error}")]
    Memory {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        error: StoreError,
    },
    /// The directory could not be mapped.
    #[error("cannot map the directory: {0}")]
    Map(#[from] MapError),
    /// The beacon could not be written.
    #[error(transparent)]
    Announcement(#[from] AnnouncementError),
    /// A fact about the guest is missing.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// Running failed.
    #[error(transparent)]
    Serve(#[from] ServeError),
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

impl KeeperError {
    /// What the user can do.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::NoMethod(error) => Some(error.hint().to_owned()),
            Self::Memory { error, .. } => error.hint().map(str::to_owned),
            Self::RunDirectory(RunDirectoryError::Unsafe(path)) => {
                Some(format!("remove {}, it is made anew", path.display()))
            }
            _ => None,
        }
    }
}

/// What a starting keeper tells the agent that started it, as one line of JSON.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Started {
    /// It listens.
    Ready,
    /// It could not start.
    Failed {
        /// Why.
        message: String,
        /// What the user can do.
        hint: Option<String>,
    },
}

/// The keeper's whole life.
pub(crate) fn run(only: Option<Method>) -> Result<(), KeeperError> {
    let started = start(only);
    let line = match &started {
        Ok(_) => Started::Ready,
        Err(error) => Started::Failed {
            message: error.to_string(),
            hint: error.hint(),
        },
    };
    tell(&line);
    let (keeper, lock) = started?;
    detach();
    let result = keeper.serve();
    // While the lock is held, so that the socket of a successor is not removed.
    let _ = fs::remove_file(KEEPER_SOCKET);
    drop(lock);
    Ok(result?)
}

fn start(only: Option<Method>) -> Result<(Keeper, Lock), KeeperError> {
    let system = |what| move |error| KeeperError::System { what, error };
    // A keeper that was started from a terminal leaves it. Fails harmlessly where a
    // service manager has made it a session leader already.
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/").map_err(system("enter /"))?;
    protect();
    run_directory::prepare()?;
    let lock = match Lock::take(KEEPER_LOCK, LOCK_PATIENCE)? {
        Taken::Ours(lock) => lock,
        Taken::Theirs(pid) => return Err(KeeperError::AlreadyRunning(pid)),
    };
    let (receiver, sender) = UnixStream::pair().map_err(system("make a socket pair"))?;
    receiver
        .set_nonblocking(true)
        .map_err(system("make a socket pair"))?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGTERM, sender)
        .map_err(system("handle signals"))?;

    let mut store = Store::new(Pinner::choose(only)?).map_err(system("read its page table"))?;
    let mut quiet = || {};
    let memory = |what| move |error| KeeperError::Memory { what, error };
    let beacon = store
        .allocate(Purpose::Beacon, "beacon", 1, &mut quiet)
        .map_err(memory("beacon"))?;
    let directory = store
        .allocate(Purpose::Directory, "directory", DIRECTORY_SIZE, &mut quiet)
        .map_err(memory("directory"))?;
    let (Some(beacon), Some(directory)) = (store.get(beacon), store.get(directory)) else {
        return Err(memory("beacon")(StoreError::Unknown(0)));
    };
    let announcement = Announcement::start(beacon)?;
    let directory = Window::open(directory, 0, DIRECTORY_SIZE, Protection::Read)?;
    let keeper = Keeper::new(Parts {
        listener: run_directory::listen(KEEPER_SOCKET)?,
        termination: receiver,
        announcement,
        store,
        directory,
        epoch: facts::random_word()?,
    });
    Ok((keeper, lock))
}

/// Keeps the out-of-memory killer and the limit of locked memory away. In a container
/// that forbids it, the keeper works without.
fn protect() {
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "-1000") {
        warn!(%error, "the keeper is not protected from the out-of-memory killer: were it killed, a host's writes could hit foreign memory");
    }
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    // Root with CAP_IPC_LOCK is not limited anyway.
    let _ = rustix::process::setrlimit(Resource::Memlock, unlimited);
}

/// Tells the starting agent, if one listens, how the start went.
fn tell(line: &Started) {
    let text = serde_json::to_string(line).unwrap_or_default();
    let mut output = io::stdout();
    let _ = writeln!(output, "{text}").and_then(|()| output.flush());
}

/// Gives up the standard streams: the terminal that they may lead to can close.
fn detach() {
    if let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}
