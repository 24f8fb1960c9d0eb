//! The way to regions in a guest: the agent's socket.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use vmshm_endpoint::{
    Connection, Doorbell, End, Held, OpenError, RegionOptions, Right, Side, Wish,
};
use vmshm_link::LinkError;
use vmshm_link::control::{RefusalCode, RegionReply, Request};
use vmshm_link::directory::{MAX_NAME, is_valid_name};
use vmshm_link::fields::Text;
use vmshm_link::local::SOCKET;
use vmshm_shm::Mapping;

use crate::book::Answer;
use crate::deadline::Deadline;
use crate::session::{Session, Unanswered};
use crate::{memory, unreachable};

/// How long the agent may take for a hello, or to remove a region.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time between two attempts to find a region, or an agent that is being restarted.
const RETRY: Duration = Duration::from_millis(50);
/// A question that was open for less at its end says nothing: the agent may be slow.
const ANSWER: Duration = Duration::from_secs(1);

/// A connection to the agent that runs in this guest. Clones share it; it ends with the
/// last of them and of the links that came by it.
#[derive(Debug, Clone)]
pub struct Agent(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    session: Mutex<Arc<Session>>,
    /// Held by whoever makes a new session.
    reconnecting: Mutex<()>,
    holds: Mutex<Holds>,
}

/// What links hold, by numbers of our own: the agent's number of a region may come again in
/// a later session.
#[derive(Debug, Default)]
struct Holds {
    last: u64,
    held: HashMap<u64, (Arc<Session>, u64)>,
}

/// Rings for one region.
#[derive(Debug)]
struct Bell {
    session: Arc<Session>,
    region: u64,
}

impl Doorbell for Bell {
    fn ring(&self, _hold: u64) {
        self.session.ring(self.region);
    }
}

/// The right to write a region in the guest, whose memory is its own: nothing can take
/// it away.
#[derive(Debug, Clone, Copy)]
pub struct Owned;

impl Right for Owned {
    #[inline]
    fn verify(&self) -> Result<(), LinkError> {
        Ok(())
    }
}

impl Agent {
    /// Connects to the agent at its usual place.
    ///
    /// # Errors
    /// [`OpenError`] when no agent runs, or it lets this program not in.
    pub fn connect() -> Result<Self, OpenError> {
        Self::connect_at(SOCKET)
    }

    /// Connects to an agent that listens elsewhere.
    ///
    /// # Errors
    /// As [`Agent::connect`].
    pub fn connect_at(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref().to_owned();
        let session = Session::start(&path, Deadline::after(PATIENCE))?;
        Ok(Self(Arc::new(Shared {
            path,
            session: Mutex::new(session),
            reconnecting: Mutex::default(),
            holds: Mutex::default(),
        })))
    }

    /// A region by its name, to be opened or made.
    pub fn region(&self, name: &str) -> RegionOptions<Self> {
        RegionOptions::new(Arc::new(self.clone()), name)
    }

    /// Takes a region off the guest's list. Whoever holds it is told that it is over.
    ///
    /// # Errors
    /// [`OpenError`]: most often that there is none, or that this user has no right to it.
    pub fn remove(&self, name: &str) -> Result<(), OpenError> {
        Connection::remove(self, name, PATIENCE)
    }

    /// Makes a new session where the last one is over, and waits up to `timeout` for an
    /// agent that is being restarted. Links are opened again by their own `reconnect`.
    ///
    /// # Errors
    /// [`OpenError`]: why the last attempt failed.
    pub fn reconnect(&self, timeout: Duration) -> Result<(), OpenError> {
        Connection::reconnect(self, timeout)
    }

    /// Why the session is over, if it is: [`reconnect`](Self::reconnect) makes another.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.session().end()
    }

    /// Ends this connection with all links that came by it: whoever waits over them learns
    /// that they are closed. For another thread, such as one that handles signals.
    pub fn disconnect(&self) {
        self.session().hang_up();
    }

    fn holds(&self) -> MutexGuard<'_, Holds> {
        // Nothing that holds the lock can leave the table half changed.
        self.0.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self) -> Arc<Session> {
        Arc::clone(
            &self
                .0
                .session
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.session
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .hang_up();
    }
}

impl Connection for Agent {
    type Memory = Arc<Mapping>;
    type Right = Owned;
    const SIDE: Side = Side::Guest;

    fn open(&self, wish: &Wish) -> Result<Held<Self>, OpenError> {
        let until = Deadline::after(wish.timeout);
        let request = Request::Link {
            kind: wish.kind,
            size: wish.size,
            name: valid_name(&wish.name)?,
            record: wish.record,
            role: wish.role,
        };
        let session = self.session();
        let mut missing = None;
        loop {
            let asked = Instant::now();
            match session.ask(request, until) {
                Ok(Answer::Region {
                    reply,
                    file,
                    tether,
                }) => {
                    let memory = match take_memory(&reply, file, wish) {
                        Ok(memory) => memory,
                        Err(error) => {
                            session.release(reply.region);
                            return Err(error);
                        }
                    };
                    let region = reply.region;
                    let mut holds = self.holds();
                    holds.last += 1;
                    let number = holds.last;
                    holds.held.insert(number, (Arc::clone(&session), region));
                    return Ok(Held {
                        region: number,
                        memory,
                        right: Owned,
                        tether,
                        doorbell: Some(Arc::new(Bell { session, region })),
                    });
                }
                // Somebody else may make it: also where a size is given, but this user may
                // not. At the end the reason is told, which needs time for one more answer.
                Ok(Answer::Refused {
                    code: RefusalCode::NotFound,
                    explanation,
                }) if until.left() > 2 * RETRY => {
                    missing = Some(explanation);
                    until.pause(RETRY);
                }
                Ok(Answer::Refused { code, explanation }) => {
                    return Err(OpenError::Refused {
                        code,
                        explanation,
                        hint: None,
                    });
                }
                Ok(Answer::Done | Answer::Strange) => return Err(strange()),
                Err(Unanswered::Over(end)) => return Err(OpenError::Ended(end)),
                Err(Unanswered::Late) => {
                    return Err(match missing {
                        Some(explanation) if asked.elapsed() < ANSWER => OpenError::Refused {
                            code: RefusalCode::NotFound,
                            explanation,
                            hint: None,
                        },
                        _ => OpenError::NoHost {
                            name: wish.name.clone(),
                            waited: wish.timeout,
                        },
                    });
                }
            }
        }
    }

    fn close(&self, hold: u64) {
        let held = self.holds().held.remove(&hold);
        if let Some((session, region)) = held {
            session.release(region);
        }
    }

    fn remove(&self, name: &str, timeout: Duration) -> Result<(), OpenError> {
        let name = valid_name(name)?;
        match self
            .session()
            .ask(Request::Remove { name }, Deadline::after(timeout))
        {
            Ok(Answer::Done) => Ok(()),
            Ok(Answer::Refused { code, explanation }) => Err(OpenError::Refused {
                code,
                explanation,
                hint: None,
            }),
            Ok(_) => Err(strange()),
            Err(Unanswered::Over(end)) => Err(OpenError::Ended(end)),
            Err(Unanswered::Late) => Err(OpenError::Timeout {
                what: "the agent removed nothing",
                waited: timeout,
            }),
        }
    }

    fn reconnect(&self, timeout: Duration) -> Result<(), OpenError> {
        let until = Deadline::after(timeout);
        // Whoever comes second finds the session that the first one made.
        let _turn = loop {
            match self.0.reconnecting.try_lock() {
                Ok(turn) => break turn,
                Err(TryLockError::Poisoned(turn)) => break turn.into_inner(),
                Err(TryLockError::WouldBlock) if !until.has_passed() => until.pause(RETRY),
                Err(TryLockError::WouldBlock) => {
                    return Err(OpenError::Timeout {
                        what: "another thread is reconnecting: there was no new session",
                        waited: timeout,
                    });
                }
            }
        };
        if self.session().end().is_none() {
            return Ok(());
        }
        loop {
            match Session::start(&self.0.path, until) {
                Ok(session) => {
                    let place = self.0.session.lock();
                    *place.unwrap_or_else(PoisonError::into_inner) = session;
                    return Ok(());
                }
                Err(OpenError::Unreachable { .. }) if !until.has_passed() => until.pause(RETRY),
                Err(error) => return Err(error),
            }
        }
    }
}

/// The region's bytes, if its file is one that can be trusted not to kill this process.
fn take_memory(
    reply: &RegionReply,
    file: Option<OwnedFd>,
    wish: &Wish,
) -> Result<Arc<Mapping>, OpenError> {
    if !reply.ready {
        return Err(strange());
    }
    let file = file.ok_or_else(|| unreachable::file(&wish.name, memory::FileError::Missing))?;
    memory::map(file, reply.size, wish.role).map_err(|error| unreachable::file(&wish.name, error))
}

fn valid_name(name: &str) -> Result<Text<MAX_NAME>, OpenError> {
    if is_valid_name(name) {
        Ok(Text::new(name))
    } else {
        Err(OpenError::BadName(name.to_owned()))
    }
}

/// An answer that does not fit its question.
fn strange() -> OpenError {
    OpenError::Ended(
        LinkError::Violation {
            what: "the kind of the agent's answer",
            value: 0,
        }
        .into(),
    )
}
