//! The doorbell of a host program: through a running `vmshm listen` of the same user, it
//! wakes sleepers in a guest, and is woken by that guest.
//!
//! A bell is a hint. It may be lost, come late, come for nothing, and name any number: the
//! guest may be hostile. Everything works without it, because every sleeper looks again by
//! itself. Only the doorbell's own thread ever waits for a listener.

pub(crate) mod wire;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use vmshm_endpoint::Doorbell;

use crate::deadline::Deadline;
use crate::identity::start_time;
use crate::ties::listeners_of;
use crate::user_directory;
use wire::{Datagram, MAX_DATAGRAM, Vmm};

/// How long a listener may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// The first pause between two looks for a listener, where none is found, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(8));

/// A connection to a listener that is tied to one VM's agent. While there is none (the
/// listener or the agent has ended, or is yet to be started) bells are lost, and one is
/// looked for now and then.
#[derive(Debug)]
pub struct Doorbells {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    vmm: Vmm,
    /// Where listeners leave their notes.
    directories: Vec<PathBuf>,
    /// The connection, while there is one.
    socket: Mutex<Option<Arc<OwnedFd>>>,
    /// Wakes the thread when it shall end.
    changed: OwnedFd,
    stopping: AtomicBool,
}

impl Doorbells {
    /// Looks for a listener of this user that is tied to the agent of the VM whose VMM is
    /// process `pid`, on a thread of its own, which this does not wait for. Once there is
    /// one, `woken` is called on that thread with each region that the guest rings for:
    /// with any number, many times a second if the guest wants that, and until this is
    /// dropped.
    ///
    /// Nothing where there is no such process, or the system gives no thread.
    #[must_use]
    pub fn connect(pid: u32, woken: impl Fn(u64) + Send + 'static) -> Option<Arc<Self>> {
        let start_time = start_time(u64::from(pid))?;
        let vmm = Vmm { pid, start_time };
        Self::connect_in(user_directory::candidates(), vmm, woken)
    }

    pub(crate) fn connect_in(
        directories: Vec<PathBuf>,
        vmm: Vmm,
        woken: impl Fn(u64) + Send + 'static,
    ) -> Option<Arc<Self>> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let shared = Arc::new(Shared {
            vmm,
            directories,
            socket: Mutex::default(),
            changed: rustix::event::eventfd(0, flags).ok()?,
            stopping: AtomicBool::new(false),
        });
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("doorbell".to_owned())
            .spawn(move || of_thread.keep_up(&woken))
            .ok()?;
        Some(Arc::new(Self {
            shared,
            thread: Some(thread),
        }))
    }

    /// Whether there is a connection to a listener now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.shared.socket().is_some()
    }
}

impl Doorbell for Doorbells {
    fn ring(&self, region: u64) {
        if let Some(socket) = self.shared.socket() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            // The thread notices what has ended; what is not taken is lost.
            let _ = rustix::net::send(&*socket, &Datagram::Bell(region).encode(), flags);
        }
    }
}

impl Drop for Doorbells {
    fn drop(&mut self) {
        // release: doorbell-stop
        self.shared.stopping.store(true, Ordering::Release);
        let _ = rustix::io::write(&self.shared.changed, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take()
            // The callback itself may drop the last handle.
            && thread.thread().id() != thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

/// Why the thread turns to something else.
enum Turn {
    /// The listener has let go.
    Lost,
    /// The handle was dropped.
    Stop,
}

impl Shared {
    fn socket(&self) -> Option<Arc<OwnedFd>> {
        // What is behind the lock is whole at any time.
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        socket.clone()
    }

    fn set(&self, socket: Option<Arc<OwnedFd>>) {
        *self.socket.lock().unwrap_or_else(PoisonError::into_inner) = socket;
    }

    fn is_stopping(&self) -> bool {
        // acquire: doorbell-stop
        self.stopping.load(Ordering::Acquire)
    }

    /// Registers with a listener that is tied to the VM.
    fn find(&self) -> Option<Arc<OwnedFd>> {
        listeners_of(&self.directories, self.vmm.pid, self.vmm.start_time)
            .into_iter()
            .find_map(|(directory, listener)| {
                let path = wire::socket_in(&directory, listener);
                match self.register(&path) {
                    Ok(socket) => Some(Arc::new(socket)),
                    Err(error) => {
                        tracing::debug!(listener, %error, "a listener does not take bells");
                        None
                    }
                }
            })
    }

    /// Connects to a listener's socket and says which VM is meant.
    fn register(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let kind = SocketType::SEQPACKET;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        let register = Datagram::Register(self.vmm).encode();
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        rustix::net::send(&socket, &register, flags)?;
        let deadline = Deadline::after(ANSWER_LIMIT);
        loop {
            match receive(&socket) {
                Ok(Some(Datagram::Registered)) => return Ok(socket),
                Ok(_) => return Err(io::ErrorKind::ConnectionRefused.into()),
                Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            // Whoever drops the handle waits for the thread, not for the listener.
            if self.is_stopping() || deadline.has_passed() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            wait_for(&[&socket, &self.changed], deadline.left());
        }
    }

    /// Hears one listener after the other.
    fn keep_up(&self, woken: &dyn Fn(u64)) {
        let mut pause = PAUSES.0;
        loop {
            // A VM that has ended has no listener any more, and nobody takes its place.
            if let Some(socket) = self.find() {
                self.set(Some(Arc::clone(&socket)));
                if matches!(self.hear(&socket, woken), Turn::Stop) {
                    return;
                }
                self.set(None);
                pause = PAUSES.0;
            }
            if self.stops_within(pause) {
                return;
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Passes on what one listener says, until that ends.
    fn hear(&self, socket: &OwnedFd, woken: &dyn Fn(u64)) -> Turn {
        loop {
            match receive(socket) {
                Ok(Some(Datagram::Bell(region))) => woken(region),
                // Nothing else is said to who has registered.
                Ok(_) => return Turn::Lost,
                Err(Errno::WOULDBLOCK) => {
                    let mut fds = [
                        PollFd::new(socket, PollFlags::IN),
                        PollFd::new(&self.changed, PollFlags::IN),
                    ];
                    match rustix::event::poll(&mut fds, None) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(_) => return Turn::Lost,
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => return Turn::Lost,
            }
            if self.is_stopping() {
                return Turn::Stop;
            }
        }
    }

    fn stops_within(&self, pause: Duration) -> bool {
        wait_for(&[&self.changed], pause);
        self.is_stopping()
    }
}

/// Waits until one of `fds` is readable, or `limit` has passed, or less.
fn wait_for(fds: &[&OwnedFd], limit: Duration) {
    let timeout = Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    };
    let fds = fds.iter();
    let mut fds: Vec<_> = fds.map(|fd| PollFd::new(*fd, PollFlags::IN)).collect();
    if matches!(rustix::event::poll(&mut fds, Some(&timeout)), Err(error) if error != Errno::INTR) {
        // Where that fails, this must not become a busy loop.
        thread::sleep(limit.min(Duration::from_millis(100)));
    }
}

/// The next datagram; nothing for the end and for what is none.
fn receive(socket: &OwnedFd) -> Result<Option<Datagram>, Errno> {
    let mut space = [0; MAX_DATAGRAM + 1];
    let (_, count) = rustix::net::recv(socket, &mut space[..], RecvFlags::DONTWAIT)?;
    Ok(Datagram::decode(&space[..count.min(space.len())]))
}
