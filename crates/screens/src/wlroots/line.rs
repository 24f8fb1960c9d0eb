//! A Wayland connection that never blocks: what cannot be sent now stays in the library's buffer,
//! and what has not come yet is asked for by the caller's poll.
//!
//! Refuses sockets that another user listens on (who forged a path in `/proc/net/unix` gets no
//! guest memory), and compositors that take no requests for [`STUCK`].

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use wayland_client::backend::WaylandError;
use wayland_client::{Connection, DispatchError, EventQueue};

/// How long a compositor may take no requests.
const STUCK: Duration = Duration::from_secs(15);
/// How long a listener's full queue is waited for.
const CONNECT: Duration = Duration::from_secs(2);
/// Reads in a row before the caller sees to others.
const READS: usize = 64;

/// Why there is no connection, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// No connection came to be.
    #[error("cannot connect to {path}: {error}")]
    Connect {
        /// Where.
        path: String,
        /// Why.
        error: Errno,
    },
    /// The listener is somebody else's.
    #[error("{path} belongs to user {owner}, not to user {own}")]
    Foreign {
        /// Where.
        path: String,
        /// Whose it is.
        owner: u32,
        /// Who asks.
        own: u32,
    },
    /// The compositor has closed it, or said that a request was wrong.
    #[error("the compositor has ended the connection: {0}")]
    Ended(String),
    /// The compositor takes no requests.
    #[error("the compositor takes no requests")]
    Stuck,
}

/// Connects to a socket of a process of this process's user.
pub fn connect(path: &str) -> Result<UnixStream, LineError> {
    let failed = |error| LineError::Connect {
        path: path.to_owned(),
        error,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(failed)?;
    // Paths through another mount namespace may be longer than an address can be.
    let (address, _directory) = match SocketAddrUnix::new(path) {
        Ok(address) => (address, None),
        Err(_) => {
            let (parent, name) = Path::new(path)
                .parent()
                .zip(Path::new(path).file_name())
                .ok_or_else(|| failed(Errno::INVAL))?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::open(parent, flags, Mode::empty()).map_err(failed)?;
            let number = std::os::fd::AsRawFd::as_raw_fd(&directory);
            let short = Path::new("/proc/self/fd").join(number.to_string());
            let address = SocketAddrUnix::new(short.join(name)).map_err(failed)?;
            (address, Some(directory))
        }
    };
    let deadline = Instant::now() + CONNECT;
    loop {
        match rustix::net::connect(&socket, &address) {
            Ok(()) => break,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(failed(error)),
        }
    }
    let owner = rustix::net::sockopt::socket_peercred(&socket)
        .map_err(failed)?
        .uid
        .as_raw();
    let own = rustix::process::geteuid().as_raw();
    if owner != own {
        let path = path.to_owned();
        return Err(LineError::Foreign { path, owner, own });
    }
    Ok(UnixStream::from(socket))
}

/// A connection, and the queue of its events for a state `S`.
#[derive(Debug)]
pub struct Line<S> {
    connection: Connection,
    queue: EventQueue<S>,
    blocked_since: Option<Instant>,
}

impl<S> Line<S> {
    /// Takes a connected socket.
    pub fn new(stream: UnixStream) -> Result<Self, LineError> {
        let connection =
            Connection::from_socket(stream).map_err(|error| LineError::Ended(error.to_string()))?;
        Ok(Self {
            queue: connection.new_event_queue(),
            connection,
            blocked_since: None,
        })
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// For making objects.
    pub fn handle(&self) -> wayland_client::QueueHandle<S> {
        self.queue.handle()
    }

    /// Whether the compositor does not take what it is sent: better send no more of it.
    pub const fn is_blocked(&self) -> bool {
        self.blocked_since.is_some()
    }

    /// What to poll for.
    pub const fn interest(&self) -> PollFlags {
        if self.is_blocked() {
            PollFlags::IN.union(PollFlags::OUT)
        } else {
            PollFlags::IN
        }
    }

    /// Sends as much as the socket takes now.
    pub fn flush(&mut self) -> Result<(), LineError> {
        match self.connection.flush() {
            Ok(()) => self.blocked_since = None,
            Err(WaylandError::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let since = *self.blocked_since.get_or_insert_with(Instant::now);
                if since.elapsed() > STUCK {
                    return Err(LineError::Stuck);
                }
            }
            // What the compositor said before it closed is still to be read.
            Err(WaylandError::Io(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            Err(error) => return Err(LineError::Ended(error.to_string())),
        }
        Ok(())
    }

    /// Reads what has come, and lets `state` know.
    pub fn dispatch(&mut self, state: &mut S) -> Result<(), LineError> {
        for _ in 0..READS {
            let ended = |error: DispatchError| LineError::Ended(error.to_string());
            self.queue.dispatch_pending(state).map_err(ended)?;
            let Some(guard) = self.queue.prepare_read() else {
                continue;
            };
            match guard.read() {
                Ok(_) => {}
                Err(WaylandError::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    break;
                }
                Err(error) => return Err(LineError::Ended(error.to_string())),
            }
        }
        Ok(())
    }
}

impl<S> AsFd for Line<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn sockets_are_reached_by_short_and_long_paths() {
        let directory = tempfile::tempdir().expect("succeeds");
        let deep = directory.path().join("x".repeat(120));
        std::fs::create_dir(&deep).expect("succeeds");
        let short = directory.path().join("wayland-1");
        let _listener = UnixListener::bind(&short).expect("succeeds");
        let long = deep.join("wayland-1");
        std::fs::rename(&short, &long).expect("succeeds");
        assert!(long.as_os_str().len() > 108);
        connect(long.to_str().expect("is text")).expect("succeeds");
        std::fs::rename(&long, &short).expect("succeeds");
        connect(short.to_str().expect("is text")).expect("succeeds");
    }

    #[test]
    fn a_missing_socket_is_named() {
        let error = connect("/nonexistent/wayland-0").expect_err("is refused");
        assert!(error.to_string().contains("/nonexistent/wayland-0"));
    }

    #[test]
    fn a_listener_that_accepts_nobody_is_not_waited_for_forever() {
        let directory = tempfile::tempdir().expect("succeeds");
        let path = directory.path().join("wayland-1");
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None);
        let socket = socket.expect("succeeds");
        let address = SocketAddrUnix::new(&path).expect("succeeds");
        rustix::net::bind(&socket, &address).expect("succeeds");
        rustix::net::listen(&socket, 0).expect("succeeds");
        let path = path.to_str().expect("is text");
        let mut held = Vec::new();
        let refused = loop {
            match connect(path) {
                Ok(stream) => held.push(stream),
                Err(error) => break error,
            }
        };
        assert!(matches!(
            refused,
            LineError::Connect {
                error: Errno::AGAIN,
                ..
            }
        ));
    }
}
