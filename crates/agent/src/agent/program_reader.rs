//! One thread for each connection of a program: it receives what the program sends, and
//! closes the socket.
//!
//! Both may wait for as long as the program likes. A datagram can carry a descriptor, and
//! whoever drops the last reference to that one closes it: a TCP connection that lingers
//! over unread data keeps its closer waiting. So the agent's loop neither receives from such
//! a socket nor drops one. It takes datagrams out of a queue, sends without waiting, and
//! has only weak references. Whoever sends a descriptor is hung up.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags, Shutdown};
use vmshm_link::local::MAX_DATAGRAM;

use crate::waker::Waker;

/// Datagrams of one program that wait for the loop.
const QUEUE: usize = 8;
/// A thread needs little: it calls the system and copies datagrams.
const STACK: usize = 128 << 10;
/// Time between two attempts to take the socket from a loop that is sending.
const RETRY: Duration = Duration::from_millis(1);

/// A datagram.
#[derive(Debug)]
pub(super) struct Received {
    bytes: [u8; MAX_DATAGRAM + 1],
    length: usize,
}

impl Received {
    /// The datagram; longer than any is allowed to be where it was cut short.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// What comes next from a program.
#[derive(Debug)]
pub(super) enum Next {
    Datagram(Box<Received>),
    /// Nothing at the moment.
    Nothing,
    /// Nothing any more.
    End,
}

/// A thread of this module; over when its socket is closed.
#[derive(Debug)]
pub(super) struct Running(Weak<()>);

impl Running {
    /// Whether it has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.0.strong_count() == 0
    }
}

#[derive(Debug, Default)]
struct Inbox {
    datagrams: VecDeque<Box<Received>>,
    /// A datagram may be on its way from the socket to here.
    busy: bool,
    /// How often the thread has begun to receive.
    begun: u64,
    /// Nothing comes any more.
    ended: bool,
    /// The loop wants nothing any more.
    unwanted: bool,
}

#[derive(Debug, Default)]
struct Shared {
    inbox: Mutex<Inbox>,
    room: Condvar,
}

impl Shared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        // Nothing that holds the lock can leave the inbox half changed.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anybody wants what is received now.
    fn begin(&self) -> bool {
        let mut inbox = self.inbox();
        inbox.busy = true;
        inbox.begun = inbox.begun.wrapping_add(1);
        !inbox.unwanted
    }

    /// Leaves a datagram for the loop, once there is room.
    fn put(&self, received: Option<Box<Received>>) {
        let full = |inbox: &mut Inbox| inbox.datagrams.len() >= QUEUE && !inbox.unwanted;
        let waited = self.room.wait_while(self.inbox(), full);
        let mut inbox = waited.unwrap_or_else(PoisonError::into_inner);
        inbox.datagrams.extend(received);
        inbox.busy = false;
    }
}

/// The loop's side of a connection. Dropping it hangs up, and leaves the closing to the
/// thread.
#[derive(Debug)]
pub(super) struct Reader {
    shared: Arc<Shared>,
    socket: Weak<OwnedFd>,
    running: Weak<()>,
}

impl Reader {
    /// Begins to receive; `waker` tells the loop that there is something.
    ///
    /// # Errors
    /// The socket, where the system gives no thread: it must not be dropped here.
    pub(super) fn start(socket: OwnedFd, waker: &Arc<Waker>) -> Result<Self, Arc<OwnedFd>> {
        let socket = Arc::new(socket);
        let weak = Arc::downgrade(&socket);
        let shared = Arc::new(Shared::default());
        let (inbox, waker) = (Arc::clone(&shared), Arc::clone(waker));
        let running = spawn(socket, move |socket| {
            read(socket, &inbox, &waker);
            inbox.inbox().ended = true;
            waker.wake();
        })?;
        Ok(Self {
            shared,
            socket: weak,
            running: running.0,
        })
    }

    /// The next datagram. Never waits.
    pub(super) fn take(&self) -> Next {
        let mut inbox = self.shared.inbox();
        match inbox.datagrams.pop_front() {
            Some(datagram) => {
                self.shared.room.notify_one();
                Next::Datagram(datagram)
            }
            None if inbox.ended => Next::End,
            None => Next::Nothing,
        }
    }

    /// Has `send` use the socket, which must not wait.
    pub(super) fn with_socket(
        &self,
        send: impl FnOnce(&OwnedFd) -> rustix::io::Result<()>,
    ) -> rustix::io::Result<()> {
        // The thread closes it only when it has the one reference that is left.
        let socket = self.socket.upgrade().ok_or(Errno::PIPE)?;
        send(&socket)
    }

    /// While the thread is in the system with a datagram: the number of that datagram.
    pub(super) fn receiving(&self) -> Option<u64> {
        let inbox = self.shared.inbox();
        let is_receiving = inbox.busy && inbox.datagrams.len() < QUEUE && !inbox.ended;
        is_receiving.then_some(inbox.begun)
    }

    /// What tells when the socket is closed.
    pub(super) fn running(&self) -> Running {
        Running(Weak::clone(&self.running))
    }

    /// Whether everything that has been sent is here, or as much as there is room for.
    #[cfg(test)]
    pub(super) fn is_settled(&self) -> bool {
        let socket = self.socket.upgrade();
        // Before the look at the inbox: what is not in the socket any more is on its way.
        let is_readable = socket.is_some_and(|socket| {
            let mut fds = [PollFd::new(&*socket, PollFlags::IN)];
            let now = rustix::event::Timespec::default();
            rustix::event::poll(&mut fds, Some(&now)) != Ok(0)
        });
        let inbox = self.shared.inbox();
        inbox.ended || inbox.datagrams.len() >= QUEUE || !(is_readable || inbox.busy)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.inbox().unwanted = true;
        self.shared.room.notify_one();
        // Wakes the thread. What fails here was over before.
        let _ = self.with_socket(|socket| rustix::net::shutdown(socket, Shutdown::Both));
    }
}

/// Closes a socket in a thread of its own.
///
/// # Errors
/// The socket, where the system gives no thread.
pub(super) fn close(socket: Arc<OwnedFd>) -> Result<Running, Arc<OwnedFd>> {
    spawn(socket, |_| ())
}

/// Has a thread work with a socket and close it then.
fn spawn(
    socket: Arc<OwnedFd>,
    work: impl FnOnce(&OwnedFd) + Send + 'static,
) -> Result<Running, Arc<OwnedFd>> {
    let token = Arc::new(());
    let running = Running(Arc::downgrade(&token));
    // Where there is no thread, its part is dropped here, and must not be the last one.
    let kept = Arc::clone(&socket);
    let run = move || {
        work(&socket);
        let mut socket = socket;
        let last = loop {
            match Arc::try_unwrap(socket) {
                Ok(last) => break last,
                Err(shared) => socket = shared,
            }
            thread::sleep(RETRY);
        };
        drop(last);
        drop(token);
    };
    let builder = thread::Builder::new().name("program".to_owned());
    match builder.stack_size(STACK).spawn(run) {
        Ok(_) => Ok(running),
        Err(_) => Err(kept),
    }
}

/// Receives until the connection is over or nobody wants more of it.
fn read(socket: &OwnedFd, shared: &Shared, waker: &Waker) {
    let mut was_reset = false;
    loop {
        match rustix::event::poll(&mut [PollFd::new(socket, PollFlags::IN)], None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
        if !shared.begin() {
            return;
        }
        match receive(socket) {
            Ok(Some(received)) => {
                shared.put(Some(received));
                waker.wake();
            }
            Err(Errno::AGAIN | Errno::INTR) => shared.put(None),
            // It went without reading our last words; its own come after this.
            Err(Errno::CONNRESET) if !was_reset => was_reset = true,
            Ok(None) | Err(_) => return,
        }
    }
}

/// The next datagram; nothing at the end, and where a descriptor comes along. An empty
/// datagram cannot be told from the end, and is none of the protocol.
fn receive(socket: &OwnedFd) -> rustix::io::Result<Option<Box<Received>>> {
    let mut received = Box::new(Received {
        bytes: [0; MAX_DATAGRAM + 1],
        length: 0,
    });
    // With no room for descriptors the system drops them, and says so.
    let message = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut received.bytes)],
        &mut RecvAncillaryBuffer::default(),
        RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
    )?;
    received.length = message.bytes;
    let is_plain = !message.flags.contains(ReturnFlags::CTRUNC);
    Ok((is_plain && message.bytes > 0).then_some(received))
}
