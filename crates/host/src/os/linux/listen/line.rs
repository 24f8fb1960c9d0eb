//! A serial line as a source of connections: a Unix socket that a VMM offers for a guest's
//! serial port, or a terminal device. See `vmshm_link::rendezvous::serial` for what goes
//! over it.
//!
//! There is one connection at a time. It is handed out as one end of a socket pair, so that
//! the rest of the listener sees a stream like any other. Nothing waits for either side;
//! what a guest can cost is bounded by what is read in a second, by what is kept to be
//! sent, and by how often a knock is answered.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::termios::{ControlModes, OptionalActions};
use vmshm_link::rendezvous::serial::{
    Decoder, FLUSH, Frame, Kind, MAX_CHUNK, MAX_FRAME, SILENCE_SECONDS,
};

use super::budget::Budget;
use super::source::Connection;
use crate::listen::Address;

/// The most bytes that are read within a second: less than of a peer, so that what is
/// passed on is always taken.
const READ_PER_SECOND: usize = 64 << 10;
/// Reads in one turn, so that the others get theirs.
const READS_PER_TURN: usize = 8;
/// Where so many bytes wait to be sent, no more are taken.
const MOST_WAITING: usize = 2048;
/// Time between two knocks that are answered.
const KNOCK_PAUSE: Duration = Duration::from_millis(100);
/// Time between two attempts to open a line that was lost.
const OPEN_PAUSE: Duration = Duration::from_secs(1);
/// After so long a silence the agent is gone.
const SILENCE: Duration = Duration::from_secs(SILENCE_SECONDS);

/// A serial line.
#[derive(Debug)]
pub(super) struct Line {
    path: PathBuf,
    /// The line itself, unless it was lost.
    wire: Option<OwnedFd>,
    next_open: Instant,
    decoder: Decoder,
    /// What the line has not taken yet.
    waiting: Vec<u8>,
    connection: Option<Inner>,
    /// The other end of a connection that nobody has taken yet.
    arrived: Option<UnixStream>,
    next_knock: Instant,
    budget: Budget,
}

/// The connection, as the line sees it.
#[derive(Debug)]
struct Inner {
    number: u32,
    socket: UnixStream,
    heard: Instant,
}

impl Line {
    /// Opens the line at `path`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let now = Instant::now();
        let mut line = Self {
            path: path.to_owned(),
            wire: None,
            next_open: now,
            decoder: Decoder::default(),
            waiting: Vec::new(),
            connection: None,
            arrived: None,
            next_knock: now,
            budget: Budget::new(READ_PER_SECOND, now),
        };
        line.start(open(path)?);
        Ok(line)
    }

    pub(super) fn address(&self) -> Address {
        Address::Serial(self.path.clone())
    }

    pub(super) fn add_to_poll<'a>(&'a self, fds: &mut Vec<PollFd<'a>>, now: Instant) {
        let Some(wire) = &self.wire else { return };
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, self.budget.spent_until(now).is_none());
        wanted.set(PollFlags::OUT, !self.waiting.is_empty());
        fds.push(PollFd::new(wire, wanted));
        if let Some(connection) = &self.connection
            && self.waiting.len() < MOST_WAITING
        {
            fds.push(PollFd::new(&connection.socket, PollFlags::IN));
        }
    }

    /// When something has to be done without anybody asking.
    pub(super) fn next_duty(&self, now: Instant) -> Option<Instant> {
        if self.wire.is_none() {
            return Some(self.next_open);
        }
        let silent = self.connection.as_ref().map(|inner| inner.heard + SILENCE);
        silent.into_iter().chain(self.budget.spent_until(now)).min()
    }

    /// Carries what there is, both ways.
    pub(super) fn tend(&mut self, now: Instant) {
        if self.wire.is_none() && now >= self.next_open {
            self.next_open = now + OPEN_PAUSE;
            match open(&self.path) {
                Ok(wire) => self.start(wire),
                Err(error) => tracing::debug!(%error, "a serial line is still lost"),
            }
        }
        let carried = self.carry(now);
        if let Err(error) = carried {
            tracing::debug!(%error, "a serial line is lost");
            self.wire = None;
            self.connection = None;
            self.next_open = now + OPEN_PAUSE;
        }
    }

    /// The connection that was made last, if nobody has taken it.
    pub(super) fn accept(&mut self) -> Option<Connection> {
        let socket = self.arrived.take()?;
        Some(Connection {
            socket: socket.into(),
            from: self.address(),
        })
    }

    /// Begins anew on a line that was just opened.
    fn start(&mut self, wire: OwnedFd) {
        self.wire = Some(wire);
        self.decoder = Decoder::default();
        self.waiting = FLUSH.to_vec();
        self.say(Kind::Close, 0, &[]);
    }

    fn say(&mut self, kind: Kind, number: u32, payload: &[u8]) {
        let frame = Frame::new(kind, number, payload);
        self.waiting.extend(frame.as_bytes());
    }

    fn carry(&mut self, now: Instant) -> io::Result<()> {
        // One look, however much was read: it may be the end.
        for turn in 0..READS_PER_TURN {
            let Some(wire) = &self.wire else {
                return Ok(());
            };
            if turn > 0 && self.budget.spent_until(now).is_some() {
                break;
            }
            match rustix::io::read(wire, self.decoder.space()) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.budget.spend(count);
                    self.decoder.filled(count);
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => break,
                Err(error) => return Err(error.into()),
            }
            while let Some(frame) = self.decoder.take() {
                self.take(&frame, now)?;
            }
        }
        let silent = |inner: &Inner| now.saturating_duration_since(inner.heard) >= SILENCE;
        if let Some(inner) = self.connection.take_if(|inner| silent(inner)) {
            self.say(Kind::Close, inner.number, &[]);
        }
        self.send_on();
        self.flush()
    }

    fn take(&mut self, frame: &Frame, now: Instant) -> io::Result<()> {
        let number = frame.connection;
        let is_known = |inner: &Inner| inner.number == number;
        if frame.kind == Kind::Close {
            self.connection
                .take_if(|inner| is_known(inner) || number == 0);
            return Ok(());
        }
        match self.connection.as_mut().filter(|inner| is_known(inner)) {
            Some(inner) => inner.heard = now,
            None if frame.kind == Kind::Knock => {
                // The agent knocks again where that is too soon.
                if number != 0 && now >= self.next_knock {
                    self.next_knock = now + KNOCK_PAUSE;
                    self.connect(number, now)?;
                }
                return Ok(());
            }
            None => {
                if self.waiting.len() < MOST_WAITING {
                    self.say(Kind::Close, number, &[]);
                }
                return Ok(());
            }
        }
        match frame.kind {
            Kind::Alive if self.waiting.len() < MOST_WAITING => {
                self.say(Kind::Alive, number, &[]);
            }
            Kind::Data => {
                let socket = self.connection.as_ref().map(|inner| &inner.socket);
                // Whoever does not take it has gone.
                if !socket.is_some_and(|socket| is_taken(socket, frame.payload())) {
                    self.connection = None;
                    self.say(Kind::Close, number, &[]);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn connect(&mut self, number: u32, now: Instant) -> io::Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        self.connection = Some(Inner {
            number,
            socket: ours,
            heard: now,
        });
        self.arrived = Some(theirs);
        Ok(())
    }

    /// Frames what the connection sends, as far as there is room.
    fn send_on(&mut self) {
        while self.waiting.len() < MOST_WAITING {
            let Some(inner) = &self.connection else {
                return;
            };
            let number = inner.number;
            let mut chunk = [0; MAX_CHUNK];
            match rustix::io::read(&inner.socket, &mut chunk) {
                Ok(count @ 1..) => self.say(Kind::Data, number, &chunk[..count]),
                Err(Errno::WOULDBLOCK | Errno::INTR) => return,
                Ok(0) | Err(_) => {
                    self.connection = None;
                    self.say(Kind::Close, number, &[]);
                }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(wire) = &self.wire else {
            return Ok(());
        };
        while !self.waiting.is_empty() {
            match put(wire, &self.waiting) {
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(Errno::WOULDBLOCK | Errno::INTR) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // An agent that does not hear it notices the silence.
        if let Some(inner) = self.connection.take() {
            self.say(Kind::Close, inner.number, &[]);
            let _ = self.flush();
        }
    }
}

fn is_taken(socket: &UnixStream, bytes: &[u8]) -> bool {
    rustix::net::send(socket, bytes, SendFlags::NOSIGNAL) == Ok(bytes.len())
}

/// Writes to a socket, or to whatever else a line is.
fn put(wire: &OwnedFd, bytes: &[u8]) -> Result<usize, Errno> {
    match rustix::net::send(wire, bytes, SendFlags::NOSIGNAL) {
        Err(Errno::NOTSOCK) => rustix::io::write(wire, bytes),
        other => other,
    }
}

/// Opens a Unix socket or a terminal device; the latter passes bytes as they are from then
/// on, and no other vmshm program takes it meanwhile.
fn open(path: &Path) -> io::Result<OwnedFd> {
    let kind = fs::metadata(path)?.file_type();
    if kind.is_socket() {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        return Ok(socket);
    }
    let neither = || io::Error::other("it is neither a Unix socket nor a terminal device");
    if !kind.is_char_device() {
        return Err(neither());
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let device = rustix::fs::open(path, flags, Mode::empty())?;
    let mut modes = rustix::termios::tcgetattr(device.as_fd()).map_err(|_| neither())?;
    modes.make_raw();
    modes.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD;
    lock(&device)?;
    rustix::termios::tcsetattr(&device, OptionalActions::Now, &modes)?;
    Ok(device)
}

/// Locks a device for as long as it is open: unlike a terminal's own exclusive mode, that
/// ends with a process that is killed.
fn lock(device: &OwnedFd) -> io::Result<()> {
    match rustix::fs::flock(device, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {
            let taken = "another program uses the line";
            Err(io::Error::new(ErrorKind::ResourceBusy, taken))
        }
        other => Ok(other?),
    }
}

const _: () = assert!(MOST_WAITING > 2 * MAX_FRAME);
