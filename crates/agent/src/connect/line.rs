//! The agent's end of a serial line: one connection at a time, by the frames of
//! `vmshm_link::rendezvous::serial`. It never waits.
//!
//! Whoever waits for it calls [`Line::tend`] before, which knocks, says that this side is
//! alive, and notices a silence of the other.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{ControlModes, OptionalActions};
use vmshm_link::rendezvous::serial::{
    ALIVE_SECONDS, Decoder, FLUSH, Frame, KNOCK_SECONDS, Kind, SILENCE_SECONDS,
};

/// Time between two knocks.
const KNOCK: Duration = Duration::from_secs(KNOCK_SECONDS);
/// Time between two signs of life.
const ALIVE: Duration = Duration::from_secs(ALIVE_SECONDS);
/// After so long a silence the listener is gone.
const SILENCE: Duration = Duration::from_secs(SILENCE_SECONDS);
/// What is thrown away of what stood on the line before.
const MOST_STALE: usize = 64 << 10;

/// A connection over a serial line.
#[derive(Debug)]
pub(super) struct Line {
    wire: OwnedFd,
    number: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    decoder: Decoder,
    /// A frame of data, and how much of it was read.
    data: Option<(Frame, usize)>,
    /// What the line has not taken yet.
    waiting: Vec<u8>,
    /// When something of this connection came last; nothing came before.
    heard: Option<Instant>,
    /// When the next knock or sign of life is due.
    due: Instant,
    is_closed: bool,
}

impl Line {
    /// Opens the line at `path`, with `random` for the connection's number.
    pub(super) fn open(path: &Path, random: u64) -> io::Result<Self> {
        let wire = open(path)?;
        let mut stale = [0; 512];
        for _ in 0..MOST_STALE / stale.len() {
            match rustix::io::read(&wire, &mut stale) {
                Ok(1..) => {}
                // The end says that nobody has the other end; that may change.
                Ok(0) | Err(_) => break,
            }
        }
        // Zero would mean all.
        let number = u32::try_from(random >> 32).unwrap_or(1).max(1);
        Ok(Self {
            wire,
            number,
            state: Mutex::new(State {
                decoder: Decoder::default(),
                data: None,
                waiting: FLUSH.to_vec(),
                heard: None,
                due: Instant::now(),
                is_closed: false,
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What is behind the lock is whole at any time.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what the listener has sent; zero bytes at the end of the connection.
    pub(super) fn receive(&self, space: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state();
        let now = Instant::now();
        loop {
            if let Some((frame, read)) = &mut state.data {
                let rest = frame.payload().get(*read..).unwrap_or_default();
                let count = rest.len().min(space.len());
                if let (Some(space), Some(rest)) = (space.get_mut(..count), rest.get(..count)) {
                    space.copy_from_slice(rest);
                }
                *read += count;
                if *read >= frame.payload().len() {
                    state.data = None;
                }
                if count > 0 {
                    return Ok(count);
                }
            }
            if state.is_closed {
                return Ok(0);
            }
            if let Some(frame) = state.decoder.take() {
                let is_ours = frame.connection == self.number;
                match frame.kind {
                    Kind::Close if is_ours || frame.connection == 0 => state.is_closed = true,
                    Kind::Data if is_ours => state.data = Some((frame, 0)),
                    Kind::Alive if is_ours => {}
                    // Another connection's, or our own, come back from a line that echoes.
                    _ => continue,
                }
                state.heard = Some(now);
                continue;
            }
            match rustix::io::read(&self.wire, state.decoder.space()) {
                Ok(0) if state.heard.is_none() => {
                    let nobody = "nobody has the other end of the line";
                    return Err(io::Error::new(ErrorKind::NotConnected, nobody));
                }
                Ok(0) => return Ok(0),
                Ok(count) => state.decoder.filled(count),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends as much as is taken now.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.state();
        self.flush(&mut state)?;
        if !state.waiting.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let frame = Frame::new(Kind::Data, self.number, bytes);
        state.waiting.extend(frame.as_bytes());
        self.flush(&mut state)?;
        Ok(frame.payload().len())
    }

    /// Says what is due; how long until something is due again, and whether the line must
    /// take bytes before.
    pub(super) fn tend(&self) -> io::Result<(Duration, bool)> {
        let mut state = self.state();
        let now = Instant::now();
        let silent_since = state.heard.unwrap_or(now);
        if now.saturating_duration_since(silent_since) >= SILENCE {
            return Err(ErrorKind::TimedOut.into());
        }
        self.flush(&mut state)?;
        if now >= state.due {
            let (kind, pause) = match state.heard {
                None => (Kind::Knock, KNOCK),
                Some(_) => (Kind::Alive, ALIVE),
            };
            state.due = now + pause;
            // A line that takes nothing need not take it twice.
            if state.waiting.len() <= FLUSH.len() {
                let frame = Frame::new(kind, self.number, &[]);
                state.waiting.extend(frame.as_bytes());
                self.flush(&mut state)?;
            }
        }
        let pause = state.due.saturating_duration_since(now);
        Ok((pause, !state.waiting.is_empty()))
    }

    /// Ends the connection, as far as the line takes that now.
    pub(super) fn close(&self) {
        let mut state = self.state();
        if !state.is_closed {
            state.is_closed = true;
            let frame = Frame::new(Kind::Close, self.number, &[]);
            state.waiting.extend(frame.as_bytes());
            // A listener that does not hear it notices the silence.
            let _ = self.flush(&mut state);
        }
    }

    fn flush(&self, state: &mut State) -> io::Result<()> {
        while !state.waiting.is_empty() {
            match rustix::io::write(&self.wire, &state.waiting) {
                Ok(count) => drop(state.waiting.drain(..count)),
                Err(Errno::WOULDBLOCK | Errno::INTR) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wire.as_fd()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.close();
    }
}

/// Opens a serial device. A terminal passes bytes as they are from then on, and no other
/// vmshm program takes it meanwhile; a port of virtio is no terminal, and does so by itself.
fn open(path: &Path) -> io::Result<OwnedFd> {
    if !fs::metadata(path)?.file_type().is_char_device() {
        return Err(io::Error::other("it is no serial device"));
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let device = rustix::fs::open(path, flags, Mode::empty())?;
    match rustix::termios::tcgetattr(&device) {
        Ok(mut modes) => {
            modes.make_raw();
            modes.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD;
            lock(&device)?;
            rustix::termios::tcsetattr(&device, OptionalActions::Now, &modes)?;
        }
        Err(Errno::NOTTY) => {}
        Err(error) => return Err(error.into()),
    }
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

#[cfg(test)]
mod tests {
    use rustix::pty::OpenptFlags;

    use super::*;

    /// A line, and its other end.
    fn line() -> (Line, OwnedFd) {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let theirs = rustix::pty::openpt(flags).expect("a terminal");
        rustix::io::ioctl_fionbio(&theirs, true).expect("set");
        rustix::pty::grantpt(&theirs).expect("granted");
        rustix::pty::unlockpt(&theirs).expect("unlocked");
        let name = rustix::pty::ptsname(&theirs, Vec::new()).expect("named");
        let path = name.to_str().expect("text");
        let path = Path::new(path);
        let line = Line::open(path, 7 << 32).expect("opens");
        let error = Line::open(path, 1).expect_err("one at a time");
        assert_eq!(error.kind(), ErrorKind::ResourceBusy);
        (line, theirs)
    }

    fn frames(theirs: &OwnedFd, decoder: &mut Decoder) -> Vec<(Kind, u32, Vec<u8>)> {
        let mut out = Vec::new();
        loop {
            while let Some(frame) = decoder.take() {
                out.push((frame.kind, frame.connection, frame.payload().to_vec()));
            }
            match rustix::io::read(theirs, decoder.space()) {
                Ok(count @ 1..) => decoder.filled(count),
                _ => return out,
            }
        }
    }

    fn say(theirs: &OwnedFd, kind: Kind, number: u32, payload: &[u8]) {
        let frame = Frame::new(kind, number, payload);
        let sent = rustix::io::write(theirs, frame.as_bytes());
        assert_eq!(sent, Ok(frame.as_bytes().len()));
    }

    #[test]
    fn it_knocks_and_hears_its_own_connection_only() {
        let (line, theirs) = line();
        let mut decoder = Decoder::default();
        let (pause, is_blocked) = line.tend().expect("well");
        assert!(pause <= KNOCK && !is_blocked);
        let heard = frames(&theirs, &mut decoder);
        assert_eq!(heard, [(Kind::Knock, 7, Vec::new())]);

        let every: Vec<u8> = (0..=255).collect();
        for (kind, number, payload) in [
            (Kind::Data, 8, &every[..100]),
            (Kind::Close, 8, &[]),
            (Kind::Knock, 7, &[]),
            (Kind::Data, 7, &[]),
            (Kind::Data, 7, &every[..128]),
            (Kind::Data, 7, &every[128..]),
        ] {
            say(&theirs, kind, number, payload);
        }
        let mut bytes: Vec<u8> = Vec::new();
        let mut space = [0; 50];
        while bytes.len() < every.len() {
            match line.receive(&mut space) {
                Ok(count) => bytes.extend(&space[..count]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        assert_eq!(bytes, every);
        // Knocked and answered: what is due next is a sign of life.
        line.state().due = Instant::now();
        line.tend().expect("well");
        assert_eq!(line.send(&every).ok(), Some(160));
        let heard = frames(&theirs, &mut decoder);
        assert_eq!(
            heard,
            [
                (Kind::Alive, 7, Vec::new()),
                (Kind::Data, 7, every[..160].to_vec())
            ]
        );
        say(&theirs, Kind::Close, 0, &[]);
        assert_eq!(line.receive(&mut space).ok(), Some(0), "closed with all");
        drop(line);
        assert!(frames(&theirs, &mut decoder).is_empty());
    }

    #[test]
    fn a_listener_that_falls_silent_is_noticed_and_one_that_is_left_hears_of_it() {
        let (line, theirs) = line();
        say(&theirs, Kind::Alive, 7, &[]);
        assert!(line.receive(&mut [0; 9]).is_err());
        assert!(line.tend().is_ok());
        line.state().heard = Instant::now().checked_sub(SILENCE);
        let error = line.tend().expect_err("silent");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        drop(line);
        let last = frames(&theirs, &mut Decoder::default()).pop();
        assert_eq!(last, Some((Kind::Close, 7, Vec::new())));
    }

    #[test]
    fn a_line_that_takes_nothing_costs_a_bounded_room() {
        let (line, _theirs) = line();
        let mut sent = 0;
        while line.send(&[1; 100]).is_ok() {
            sent += 1;
            assert!(sent < 100_000, "all of it is taken");
        }
        for _ in 0..1000 {
            line.state().due = Instant::now();
            line.tend().expect("well");
        }
        assert!(line.state().waiting.len() < 1000);
    }

    #[test]
    fn what_is_no_serial_device_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let error = Line::open(file.path(), 1).expect_err("refused");
        assert!(error.to_string().contains("no serial device"), "{error}");
        assert!(Line::open(Path::new("/no/such/line"), 1).is_err());
    }
}
