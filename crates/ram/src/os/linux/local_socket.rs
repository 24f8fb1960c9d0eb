//! A Unix socket that is connected to without ever waiting longer than asked: one whose
//! owner does not take the connection is refused at once, and one that never stops
//! talking is left when the time is over.

use std::io;
use std::path::Path;
use std::time::Instant;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv,
    send, socket_with,
};

/// How much is taken at once.
const CHUNK: usize = 16 << 10;

/// A connection to a local program.
#[derive(Debug)]
pub(crate) struct LocalSocket {
    socket: OwnedFd,
}

impl LocalSocket {
    /// Connects; `WouldBlock` where that would have to wait.
    pub(crate) fn connect(path: &Path) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self { socket })
    }

    /// The process that listens at the other end; 0 where it is out of our sight, in
    /// another pid namespace. (rustix has a type for this that cannot hold 0.)
    pub(crate) fn peer(&self) -> io::Result<u32> {
        let credentials = getsockopt(&self.socket, PeerCredentials)?;
        Ok(u32::try_from(credentials.pid()).unwrap_or(0))
    }

    /// Sends all of `bytes`.
    pub(crate) fn send(&self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            in_time(deadline)?;
            match send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, deadline)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Appends what comes next.
    pub(crate) fn receive(&self, into: &mut Vec<u8>, deadline: Instant) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        loop {
            in_time(deadline)?;
            match recv(&self.socket, &mut chunk, RecvFlags::empty()) {
                Ok((_, 0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((_, count)) => {
                    into.extend_from_slice(chunk.get(..count).unwrap_or_default());
                    return Ok(());
                }
                Err(Errno::AGAIN) => self.wait(PollFlags::IN, deadline)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn wait(&self, events: PollFlags, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut wanted = [PollFd::new(&self.socket, events)];
        match poll(&mut wanted, Some(&left)) {
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// A peer that keeps up the talk never makes anybody wait: the time has to be looked at
/// in any case.
fn in_time(deadline: Instant) -> io::Result<()> {
    if Instant::now() < deadline {
        Ok(())
    } else {
        Err(io::ErrorKind::TimedOut.into())
    }
}
