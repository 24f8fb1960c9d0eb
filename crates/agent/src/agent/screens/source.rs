//! One source: a compositor, a device or the test card, and the process that delivers its
//! screens while there is one. A process that fails is started again, ever less often; one
//! that does not read, or says what makes no sense, has failed.

use std::fmt;
use std::process::Child;

use tracing::{debug, warn};
use vmshm_channel::source::{FromSource, Kind, ToSource};
use vmshm_channel::{Channel, ChannelError};

use super::book::printable;
use super::input::InputQueue;
use super::looks;
use super::start::{Started, Starter};

/// A source's number.
pub(super) type SourceId = u64;

/// The longest message of a source process. Reading one costs the agent a millisecond.
const MESSAGE_LIMIT: usize = 256 << 10;
/// The most bytes that wait for a source process.
const BACKLOG_LIMIT: usize = 2 << 20;
/// From so many waiting bytes on, what hosts want is refused.
const BUSY: usize = 512 << 10;
/// The first pause before a process is started again, and the longest, in looks.
const PAUSES: (u64, u64) = (looks(1), looks(30));
/// A process that lived for so long counts as a success.
const SUCCESS: u64 = looks(30);
/// How long a process may take to say what screens there are, in looks.
pub(super) const START: u64 = looks(15);
/// For how long a process may leave what is sent to it unread, in looks.
const STUCK: u64 = looks(30);

/// What a source is, whatever process delivers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    /// The compositor at this socket.
    Compositor {
        /// What it is called.
        name: String,
        /// Whose it is.
        uid: u32,
        /// Its socket.
        socket: String,
    },
    /// A device.
    Framebuffer {
        /// Its path.
        device: String,
    },
    /// The test card.
    TestCard,
}

impl Key {
    /// Compositors come first in lists.
    pub(super) const fn rank(&self) -> u8 {
        match self {
            Self::Compositor { .. } => 0,
            Self::Framebuffer { .. } => 1,
            Self::TestCard => 2,
        }
    }

    /// Whether both are the same desktop or device, perhaps after a restart.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Compositor { name, uid, .. },
                Self::Compositor {
                    name: n, uid: u, ..
                },
            ) => name == n && uid == u,
            _ => self == other,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compositor { name, uid, socket } => {
                let (name, socket) = (printable(name), printable(socket));
                write!(formatter, "{name} of user {uid} at {socket}")
            }
            Self::Framebuffer { device } => formatter.write_str(&printable(device)),
            Self::TestCard => formatter.write_str("test card"),
        }
    }
}

/// A process that runs.
#[derive(Debug)]
struct Running {
    channel: Channel,
    child: Option<Child>,
    since: u64,
    /// It has said what screens there are.
    ready: bool,
    /// How much waited for it when that last became less, and when.
    unread: (usize, u64),
}

/// One source.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) key: Key,
    pub(super) kind: Kind,
    user: Option<(u32, u32)>,
    running: Option<Running>,
    /// The look from which on a process may be started.
    due: u64,
    pause: u64,
    /// Whether it can plug screens in.
    pub(super) can_add: bool,
    /// Its screens, by their numbers in the book.
    pub(super) listed: Vec<u64>,
    /// What failed last.
    pub(super) trouble: Option<String>,
    pub(super) input: InputQueue,
}

impl Source {
    /// No process delivers it yet.
    pub(super) fn new(key: Key, kind: Kind, user: Option<(u32, u32)>) -> Self {
        Self {
            key,
            kind,
            user,
            running: None,
            due: 0,
            pause: PAUSES.0,
            can_add: false,
            listed: Vec::new(),
            trouble: None,
            input: InputQueue::default(),
        }
    }

    /// Takes what a newer survey says of the same source.
    pub(super) fn renew(&mut self, kind: Kind, user: Option<(u32, u32)>) {
        self.kind = kind;
        self.user = user;
    }

    /// The way to its process.
    pub(super) fn channel(&self) -> Option<&Channel> {
        self.running.as_ref().map(|running| &running.channel)
    }

    /// Its process.
    pub(super) fn pid(&self) -> Option<u32> {
        let running = self.running.as_ref()?;
        running.child.as_ref().map(Child::id)
    }

    pub(super) const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Whether it has said which screens there are.
    pub(super) fn is_ready(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.ready)
    }

    /// Whether it is about to say so.
    pub(super) fn is_starting(&self) -> bool {
        self.running.as_ref().is_some_and(|running| !running.ready)
    }

    pub(super) fn set_ready(&mut self) {
        if let Some(running) = &mut self.running {
            running.ready = true;
        }
        self.trouble = None;
    }

    /// Starts a process if it is time to; whether that failed.
    pub(super) fn start(&mut self, starter: &mut dyn Starter, input: bool, now: u64) -> bool {
        if self.running.is_some() || now < self.due {
            return false;
        }
        self.trouble = None;
        let started = starter.start(&self.kind, self.user);
        match started {
            Ok(Started { mut channel, child }) => {
                channel.set_limits(MESSAGE_LIMIT, BACKLOG_LIMIT);
                debug!(source = %self.key, "a source process starts");
                self.running = Some(Running {
                    channel,
                    child,
                    since: now,
                    ready: false,
                    unread: (0, now),
                });
                let kind = self.kind.clone();
                !self.send(&ToSource::Start { kind, input })
            }
            Err(error) => {
                self.fail(
                    &format!("its source process cannot be started: {error}"),
                    now,
                );
                true
            }
        }
    }

    /// Notes a failure; the process, if there was one, is the caller's to end.
    pub(super) fn fail(&mut self, reason: &str, now: u64) -> Option<Child> {
        let running = self.running.take();
        let lived = running.as_ref().map_or(0, |running| now - running.since);
        if lived >= SUCCESS {
            self.pause = PAUSES.0;
        }
        self.due = now + self.pause;
        self.pause = (2 * self.pause).min(PAUSES.1);
        self.can_add = false;
        self.input.clear();
        // What the process itself said is better than how it ended.
        if self.trouble.is_none() {
            self.trouble = Some(printable(reason));
        }
        warn!(source = %self.key, reason = self.trouble, "a source of screens has ended");
        running?.child
    }

    /// Sends, or queues; a process that cannot be reached is found by its silence.
    pub(super) fn send(&mut self, message: &ToSource) -> bool {
        self.send_with(message, None)
    }

    /// Sends with a descriptor.
    pub(super) fn send_with(
        &mut self,
        message: &ToSource,
        file: Option<std::os::fd::BorrowedFd<'_>>,
    ) -> bool {
        let Some(running) = &mut self.running else {
            return false;
        };
        let sent = running.channel.send(message, file);
        if let Err(error) = &sent {
            debug!(source = %self.key, %error, "a source cannot be told");
        }
        sent.is_ok()
    }

    /// The next thing that its process says.
    pub(super) fn receive(&mut self) -> Result<Option<FromSource>, ChannelError> {
        let Some(running) = &mut self.running else {
            return Ok(None);
        };
        running.channel.flush()?;
        Ok(running.channel.receive()?.map(|(message, _)| message))
    }

    /// Whether so much waits for it already that hosts have to wait.
    pub(super) fn is_busy(&self) -> bool {
        self.backlog() > BUSY
    }

    /// Bytes that wait for its process.
    pub(super) fn backlog(&self) -> usize {
        self.channel().map_or(0, Channel::backlog)
    }

    /// Why its process has to go, if it has: it says nothing, or reads nothing.
    pub(super) fn overdue(&mut self, now: u64) -> Option<&'static str> {
        let running = self.running.as_mut()?;
        if !running.ready && now > running.since + START {
            return Some("its source process has not told its screens");
        }
        let unread = running.channel.backlog();
        if unread == 0 || unread < running.unread.0 {
            running.unread = (unread, now);
        } else if now > running.unread.1 + STUCK {
            return Some("its source process does not read what it is told");
        } else {
            running.unread.0 = unread;
        }
        None
    }

    /// Ends its process in good order: the closed channel tells it.
    pub(super) fn stop(&mut self) -> Option<Child> {
        self.can_add = false;
        self.input.clear();
        self.running.take()?.child
    }
}
