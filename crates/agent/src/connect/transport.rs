//! What carries the bytes of a connection. Nothing here ever waits; [`Patient`] does, as
//! long as it may and not past the agent's end.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::SendFlags;

use super::line::Line;
use crate::waker::Waker;
use vmshm_channel::timespec;

/// A connection's two directions.
#[derive(Debug)]
pub(super) enum Transport {
    /// A stream socket that does not block.
    Socket(OwnedFd),
    /// A serial line.
    Serial(Box<Line>),
}

impl Transport {
    /// Reads what is there; [`ErrorKind::WouldBlock`] where that is nothing, and zero bytes
    /// at the end.
    pub(super) fn receive(&self, space: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => Ok(rustix::io::read(socket, space)?),
            Self::Serial(line) => line.receive(space),
        }
    }

    /// Sends as much as is taken now; [`ErrorKind::WouldBlock`] where that is nothing.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => Ok(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)?),
            Self::Serial(line) => line.send(bytes),
        }
    }

    /// Tells the other side that this is the end, where the system does not do so.
    pub(super) fn close(&self) {
        if let Self::Serial(line) = self {
            line.close();
        }
    }

    /// Waits until it is readable (or writable, as `wanted` says), until `waker` is woken, or
    /// until `pause` has passed, or less.
    pub(super) fn wait(
        &self,
        wanted: PollFlags,
        waker: &Waker,
        pause: Option<Duration>,
    ) -> io::Result<()> {
        let mut wanted = wanted;
        let mut pause = pause;
        if let Self::Serial(line) = self {
            let (due, is_blocked) = line.tend()?;
            wanted.set(PollFlags::OUT, is_blocked);
            pause = Some(pause.map_or(due, |pause| pause.min(due)));
        }
        let mut fds = [PollFd::new(self, wanted), PollFd::new(waker, PollFlags::IN)];
        match rustix::event::poll(&mut fds, pause.map(timespec).as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Socket(socket) => socket.as_fd(),
            Self::Serial(line) => line.as_fd(),
        }
    }
}

/// Reads and writes that wait up to `limit` each, or until `stopping` says so.
pub(super) struct Patient<'a> {
    pub(super) transport: &'a Transport,
    pub(super) waker: &'a Waker,
    pub(super) stopping: &'a dyn Fn() -> bool,
    pub(super) limit: Duration,
}

impl Patient<'_> {
    fn until(
        &self,
        wanted: PollFlags,
        mut act: impl FnMut() -> io::Result<usize>,
    ) -> io::Result<usize> {
        let deadline = Instant::now() + self.limit;
        loop {
            match act() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => return other,
            }
            // Before the look: what comes afterwards wakes the wait.
            self.waker.clear();
            if (self.stopping)() {
                return Err(ErrorKind::ConnectionAborted.into());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.transport.wait(wanted, self.waker, Some(left))?;
        }
    }
}

impl Read for Patient<'_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        self.until(PollFlags::IN, || self.transport.receive(space))
    }
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.until(PollFlags::OUT, || self.transport.send(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
