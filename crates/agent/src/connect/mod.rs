//! `--connect`: a thread that connects out to `vmshm listen` on the host, so that the
//! host need not search this guest's memory for the beacon, and so that each side can wake
//! the other's sleepers.
//!
//! The thread never gets into the way of serving: it resolves, connects and waits by
//! itself, and tries again, ever less often, when nobody is there. Nothing is said to
//! whoever listens before it has greeted rightly, and nothing is believed of it before
//! it has shown that it reads this guest's memory.

mod line;
mod listener;
mod outgoing;
mod resolve;
mod talk;
#[cfg(test)]
mod tests;
mod transport;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use serde::{Deserialize, Serialize};
use vmshm_link::rendezvous::bells::Bells;
use vmshm_link::rendezvous::message::{Announce, BELLS_SINCE, Inbox, Incoming, Message};

use crate::waker::Waker;
use crate::window::Window;
pub(crate) use listener::Listener;
use outgoing::{Outgoing, Rest};
use talk::TalkError;
use transport::{Patient, Transport};
use vmshm_channel::timespec;

/// The first pause between two attempts, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(8));
/// How long the other side may take for each answer. Others may be served before us.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// How the connection stands, as `status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConnectionInfo {
    /// Where it leads.
    pub to: String,
    /// How it stands.
    pub state: ConnectionState,
    /// Why there is none.
    pub reason: Option<String>,
}

/// How a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ConnectionState {
    /// It is being made.
    Connecting,
    /// It is there, and the host has shown that it reads this guest's memory.
    Tied,
    /// It failed or ended, and is tried again.
    Waiting,
}

/// What thread and agent share.
#[derive(Debug)]
struct Shared {
    info: Mutex<ConnectionInfo>,
    /// The bells for the host, while it is tied and knows what bells are.
    outgoing: Mutex<Option<Outgoing>>,
    /// The bells from the host that the agent has not taken yet.
    incoming: Mutex<Bells>,
    /// Wakes the agent: there are incoming bells.
    arrived: Waker,
    /// Wakes the thread: outgoing bells are left, or it shall end.
    changed: Waker,
    stopping: AtomicBool,
}

/// The connecting thread; it ends when this is dropped. Readable while there are bells.
#[derive(Debug)]
pub(crate) struct Connector {
    shared: Arc<Shared>,
}

impl Connector {
    /// Starts connecting, with `tell` for what the user should know.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(
        listener: Listener,
        announce: Announce,
        directory: Arc<Window>,
        tell: fn(&str),
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            info: Mutex::new(ConnectionInfo {
                to: listener.to_string(),
                state: ConnectionState::Connecting,
                reason: None,
            }),
            outgoing: Mutex::default(),
            incoming: Mutex::default(),
            arrived: Waker::new()?,
            changed: Waker::new()?,
            stopping: AtomicBool::new(false),
        });
        let connection = Connection {
            listener,
            announce,
            directory,
            shared: Arc::clone(&shared),
            tell,
            told: None,
        };
        thread::Builder::new()
            .name("connect".to_owned())
            .spawn(move || connection.keep_up())?;
        Ok(Self { shared })
    }

    /// How the connection stands.
    pub(crate) fn info(&self) -> ConnectionInfo {
        lock(&self.shared.info).clone()
    }

    /// Rings for a region on the host, without waiting for anything. The bell is lost where
    /// nobody is tied, or where too many regions' bells wait.
    pub(crate) fn ring(&self, region: u64) {
        let mut outgoing = lock(&self.shared.outgoing);
        let Some(outgoing) = &mut *outgoing else {
            return;
        };
        outgoing.add(region);
        // The thread sees to the rest, and to errors.
        if !matches!(outgoing.flush(), Ok(Rest::Nothing)) {
            self.shared.changed.wake();
        }
    }

    /// The regions that the host has rung for since the last call: numbers that anybody may
    /// have made up, each once, and not many.
    pub(crate) fn take_bells(&self) -> Vec<u64> {
        self.shared.arrived.clear();
        let mut bells = lock(&self.shared.incoming);
        std::iter::from_fn(|| bells.take()).collect()
    }
}

impl AsFd for Connector {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.arrived.as_fd()
    }
}

impl Drop for Connector {
    fn drop(&mut self) {
        // release: connect-stop
        self.shared.stopping.store(true, Ordering::Release);
        // The agent may end before the thread does.
        if let Some(outgoing) = &*lock(&self.shared.outgoing) {
            outgoing.close();
        }
        self.shared.changed.wake();
    }
}

/// What is behind the lock is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread's side.
struct Connection {
    listener: Listener,
    announce: Announce,
    directory: Arc<Window>,
    shared: Arc<Shared>,
    tell: fn(&str),
    /// What was said last, to say nothing twice in a row.
    told: Option<String>,
}

impl Connection {
    /// Connects again and again until it is told to stop.
    fn keep_up(mut self) {
        let mut pause = PAUSES.0;
        loop {
            self.set(ConnectionState::Connecting, None);
            let error = match self.connect() {
                Ok(()) => TalkError::Closed,
                Err(error) => error,
            };
            *lock(&self.shared.outgoing) = None;
            if lock(&self.shared.info).state == ConnectionState::Tied {
                pause = PAUSES.0;
            }
            if self.is_stopping() {
                return;
            }
            self.set(ConnectionState::Waiting, Some(error.to_string()));
            let line = format!("not connected to {}: {error}; trying again", self.listener);
            self.say(line);
            if self.stops_within(pause) {
                return;
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    fn is_stopping(&self) -> bool {
        // acquire: connect-stop
        self.shared.stopping.load(Ordering::Acquire)
    }

    /// Waits for `pause`, unless the agent leaves.
    fn stops_within(&self, pause: Duration) -> bool {
        let deadline = Instant::now() + pause;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.is_stopping() || left.is_zero() {
                return self.is_stopping();
            }
            let mut fds = [PollFd::new(&self.shared.changed, PollFlags::IN)];
            if rustix::event::poll(&mut fds, Some(&timespec(left))).is_err() {
                // Only a signal may do that; this must not become a busy loop.
                thread::sleep(Duration::from_millis(10));
            }
            self.shared.changed.clear();
        }
    }

    fn set(&self, state: ConnectionState, reason: Option<String>) {
        let mut info = lock(&self.shared.info);
        // The reason of the last failure stands until there is news.
        if state != ConnectionState::Connecting {
            info.reason = reason;
        }
        info.state = state;
    }

    fn say(&mut self, line: String) {
        if self.told.as_ref() != Some(&line) {
            (self.tell)(&line);
            self.told = Some(line);
        }
    }

    /// One attempt, and the whole life of its connection.
    fn connect(&mut self) -> Result<(), TalkError> {
        let transport = Arc::new(self.listener.connect()?);
        let stopping = || self.is_stopping();
        let patient = Patient {
            transport: &transport,
            waker: &self.shared.changed,
            stopping: &stopping,
            limit: ANSWER_LIMIT,
        };
        let (inbox, version) = talk::tie(patient, &self.announce, &*self.directory)?;
        if version.minor >= BELLS_SINCE.minor {
            let outgoing = Outgoing::new(Arc::clone(&transport));
            *lock(&self.shared.outgoing) = Some(outgoing);
        }
        self.set(ConnectionState::Tied, None);
        let line = format!("connected to {}: tied to this guest's host", self.listener);
        self.say(line);
        self.stay(&transport, inbox)
    }

    /// Keeps a tied connection until its end, and carries bells. Whatever else comes is for a
    /// later version.
    fn stay(&self, transport: &Transport, mut inbox: Inbox) -> Result<(), TalkError> {
        while !self.is_stopping() {
            while let Some(incoming) = inbox.take()? {
                if let Incoming::Message(Message::Bell { region }) = incoming {
                    lock(&self.shared.incoming).add(region);
                    self.shared.arrived.wake();
                }
            }
            self.shared.changed.clear();
            let rest = match &mut *lock(&self.shared.outgoing) {
                Some(outgoing) => outgoing.flush()?,
                None => Rest::Nothing,
            };
            let (wanted, pause) = match rest {
                Rest::Nothing => (PollFlags::IN, None),
                Rest::Room => (PollFlags::IN | PollFlags::OUT, None),
                Rest::Pause(pause) => (PollFlags::IN, Some(pause)),
            };
            match transport.receive(inbox.space()) {
                Ok(0) => return Err(TalkError::Closed),
                Ok(count) => inbox.filled(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    transport.wait(wanted, &self.shared.changed, pause)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
