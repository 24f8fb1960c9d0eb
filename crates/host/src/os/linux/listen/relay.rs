//! The way of bells between tied agents and programs of this user: a Unix socket in the
//! user's own directory, which nobody else may enter.
//!
//! A program registers for a VM that is tied; from then on each bell of that VM's guest
//! goes to it, and its bells go to that guest. Nothing waits for a program: of one that
//! does not read, a bounded number of regions is remembered, and of one that sends too much,
//! a bounded number of datagrams is read in a second. A program that sends what it may not
//! is let go, and so are all of a VM whose agent has gone.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};
use vmshm_link::rendezvous::bells::Bells;

use super::budget::Budget;
use crate::os::linux::doorbell::wire::{Datagram, MAX_DATAGRAM, Vmm};

/// Programs at once.
pub(super) const MOST_CLIENTS: usize = 64;
/// How long a program may take to say which VM it means.
const REGISTER_LIMIT: Duration = Duration::from_secs(2);
/// Datagrams of a program that are read in one turn, so that the others get theirs.
const DATAGRAMS_PER_TURN: usize = 16;
/// Datagrams of a program that are read in a second.
const DATAGRAMS_PER_SECOND: usize = 16384;

/// The socket and the programs that have connected to it.
#[derive(Debug)]
pub(super) struct Relay {
    socket: OwnedFd,
    path: PathBuf,
    clients: Vec<Client>,
}

/// A program.
#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    since: Instant,
    /// The VM that it has registered for.
    vmm: Option<Vmm>,
    /// Bells that it has not taken yet.
    waiting: Bells,
    budget: Budget,
}

/// A program is of no use any more.
struct Gone;

impl Relay {
    /// Listens at `path`, in a directory that is this user's alone.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        // One that is there is of a process of this number that has ended.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let kind = SocketType::SEQPACKET;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&socket, 16)?;
        Ok(Self {
            socket,
            path: path.to_owned(),
            clients: Vec::new(),
        })
    }

    /// What has to be polled: the socket first, then the programs.
    pub(super) fn poll_fds(&self, now: Instant) -> impl Iterator<Item = PollFd<'_>> {
        let clients = self.clients.iter().map(move |client| {
            let mut wanted = PollFlags::empty();
            wanted.set(PollFlags::IN, client.budget.spent_until(now).is_none());
            wanted.set(PollFlags::OUT, !client.waiting.is_empty());
            PollFd::new(&client.socket, wanted)
        });
        std::iter::once(PollFd::new(&self.socket, PollFlags::IN)).chain(clients)
    }

    /// When something has to be done without anybody asking.
    pub(super) fn next_duty(&self, now: Instant) -> Option<Instant> {
        let duty = |client: &Client| match client.vmm {
            None => Some(client.since + REGISTER_LIMIT),
            Some(_) => client.budget.spent_until(now),
        };
        self.clients.iter().filter_map(duty).min()
    }

    /// Serves the programs that are `ready`, in the order of [`Relay::poll_fds`], as far as
    /// they mean VMs that are tied. Gives what they ring.
    pub(super) fn turn(
        &mut self,
        ready: &[bool],
        is_tied: &dyn Fn(Vmm) -> bool,
    ) -> Vec<(Vmm, u64)> {
        let mut rung = Vec::new();
        let now = Instant::now();
        let mut ready = ready.iter().copied();
        let knocks = ready.next().unwrap_or(false);
        self.clients.retain_mut(|client| {
            let served = match ready.next() {
                Some(true) => client.serve(is_tied, &mut rung),
                _ => Ok(()),
            };
            let is_slow = client.vmm.is_none() && now >= client.since + REGISTER_LIMIT;
            served.is_ok() && !is_slow
        });
        if knocks {
            self.accept(now);
        }
        rung
    }

    fn accept(&mut self, now: Instant) {
        for _ in 0..DATAGRAMS_PER_TURN {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = match rustix::net::accept_with(&self.socket, flags) {
                Ok(socket) => socket,
                Err(Errno::WOULDBLOCK | Errno::INTR) => return,
                Err(error) => {
                    tracing::debug!(%error, "a program cannot be taken");
                    // Where descriptors have run out, this must not become a busy loop.
                    std::thread::sleep(super::AFTER_FAILURE);
                    return;
                }
            };
            let own = rustix::process::geteuid();
            let is_own = sockopt::socket_peercred(&socket)
                .is_ok_and(|peer| peer.uid == own || peer.uid.is_root());
            if self.clients.len() < MOST_CLIENTS && is_own {
                self.clients.push(Client {
                    socket,
                    since: now,
                    vmm: None,
                    waiting: Bells::default(),
                    budget: Budget::new(DATAGRAMS_PER_SECOND, now),
                });
            }
        }
    }

    /// Passes on a bell from this VM's guest.
    pub(super) fn ring(&mut self, vmm: Vmm, region: u64) {
        self.clients.retain_mut(|client| {
            if client.vmm != Some(vmm) {
                return true;
            }
            client.waiting.add(region);
            client.flush().is_ok()
        });
    }

    /// Lets go of the programs of other VMs than these.
    pub(super) fn keep(&mut self, is_tied: &dyn Fn(Vmm) -> bool) {
        self.clients.retain(|client| client.vmm.is_none_or(is_tied));
    }

    #[cfg(test)]
    pub(super) fn clients(&self) -> usize {
        self.clients.len()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Nobody answers at one that stays.
        let _ = fs::remove_file(&self.path);
    }
}

impl Client {
    fn serve(
        &mut self,
        is_tied: &dyn Fn(Vmm) -> bool,
        rung: &mut Vec<(Vmm, u64)>,
    ) -> Result<(), Gone> {
        self.flush()?;
        for _ in 0..DATAGRAMS_PER_TURN {
            // One byte more than any datagram has, to see that there is more.
            let mut space = [0; MAX_DATAGRAM + 1];
            let flags = RecvFlags::DONTWAIT;
            let count = match rustix::net::recv(&self.socket, &mut space[..], flags) {
                Ok((_, 0)) => return Err(Gone),
                Ok((_, count)) => count.min(space.len()),
                Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(()),
                Err(_) => return Err(Gone),
            };
            let is_last = !self.budget.spend(1);
            match (Datagram::decode(&space[..count]).ok_or(Gone)?, self.vmm) {
                (Datagram::Register(vmm), None) if is_tied(vmm) => {
                    self.vmm = Some(vmm);
                    let answer = Datagram::Registered.encode();
                    send(&self.socket, &answer)?;
                }
                (Datagram::Bell(region), Some(vmm)) => rung.push((vmm, region)),
                _ => return Err(Gone),
            }
            if is_last {
                break;
            }
        }
        Ok(())
    }

    /// Sends the bells that it takes now.
    fn flush(&mut self) -> Result<(), Gone> {
        while let Some(region) = self.waiting.take() {
            if !send(&self.socket, &Datagram::Bell(region).encode())? {
                self.waiting.add(region);
                break;
            }
        }
        Ok(())
    }
}

/// Whether the datagram was taken.
fn send(socket: impl AsFd, datagram: &[u8]) -> Result<bool, Gone> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match rustix::net::send(socket, datagram, flags) {
        Ok(_) => Ok(true),
        Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(false),
        Err(_) => Err(Gone),
    }
}
