//! One connection to a listener: from a stranger of whom nothing is known to an agent
//! that is tied to a VM. It holds one message at most, and a bounded number of regions that
//! are to be rung, and sends 64 bytes at most before it is tied.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::SendFlags;
use vmshm_link::rendezvous::bells::Bells;
use vmshm_link::rendezvous::message::{Announce, Encoded, Inbox, Incoming, Message, greeting};
use vmshm_link::rendezvous::{self, Nonce};

use super::budget::Budget;
use super::source::Connection;
use crate::listen::{Address, Lookout, Machine, Refusal, Suspect};
use crate::os::linux::doorbell::wire::Vmm;

/// The most bytes of a peer that are read within a second: of one that is tied no more are
/// read until that is over, another one is sent away.
pub(super) const FLOOD: usize = 128 << 10;
/// What a look at a peer costs at least, in bytes: one that sends them one by one does not
/// get more of them.
const LOOK: usize = 16;

/// How far a peer has come.
enum State {
    /// It was greeted.
    Stranger,
    /// It has greeted, too.
    Greeted,
    /// It waits for the look at the VMs.
    Announced(Announce),
    /// It was sent a nonce.
    Challenged(Announce, Nonce, Vec<Suspect>),
    /// It is tied.
    Tied(Announce, Machine),
}

/// A connection.
pub(super) struct Peer {
    socket: OwnedFd,
    pub(super) address: Address,
    pub(super) since: Instant,
    inbox: Inbox,
    state: State,
    budget: Budget,
    /// The regions that its guest has rung for and nobody has heard of yet.
    rung: Bells,
    /// The regions that its guest is to be rung for.
    bells: Bells,
    /// A bell of which the connection has taken a part, and how long that is.
    begun: Option<(Encoded, usize)>,
}

impl Peer {
    /// Greets whoever has connected.
    pub(super) fn welcome(connection: Connection) -> Result<Self, Refusal> {
        let now = Instant::now();
        let peer = Self {
            socket: connection.socket,
            address: connection.from,
            since: now,
            inbox: Inbox::default(),
            state: State::Stranger,
            budget: Budget::new(FLOOD, now),
            rung: Bells::default(),
            bells: Bells::default(),
            begun: None,
        };
        peer.send_all(&greeting())?;
        Ok(peer)
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// What it is to be polled for.
    pub(super) fn interest(&self, now: Instant) -> PollFlags {
        let mut wanted = PollFlags::empty();
        // One that waits for its look is not heard meanwhile.
        let is_heard = !self.waits_for_look() && self.budget.spent_until(now).is_none();
        wanted.set(PollFlags::IN, is_heard);
        let has_more = self.begun.is_some() || !self.bells.is_empty();
        wanted.set(PollFlags::OUT, has_more);
        wanted
    }

    /// When it is heard again, if it has sent too much for now.
    pub(super) fn heard_again(&self, now: Instant) -> Option<Instant> {
        self.budget.spent_until(now)
    }

    /// The process of the VM that it is tied to.
    pub(super) fn vmm(&self) -> Option<Vmm> {
        self.machine().map(|machine| Vmm {
            pid: machine.pid,
            start_time: machine.start_time,
        })
    }

    /// Takes a region that its guest has rung for.
    pub(super) fn take_rung(&mut self) -> Option<u64> {
        self.rung.take()
    }

    /// Rings its guest, as soon as the connection takes that.
    pub(super) fn ring(&mut self, region: u64) -> Result<(), Refusal> {
        self.bells.add(region);
        self.flush()
    }

    /// Sends the bells that the connection takes now.
    fn flush(&mut self) -> Result<(), Refusal> {
        loop {
            if let Some((bell, sent)) = &mut self.begun {
                let rest = bell.as_bytes().get(*sent..).unwrap_or_default();
                match rustix::net::send(&self.socket, rest, SendFlags::NOSIGNAL) {
                    Ok(count) if count < rest.len() => {
                        *sent += count;
                        continue;
                    }
                    Ok(_) => self.begun = None,
                    Err(Errno::WOULDBLOCK) => return Ok(()),
                    Err(Errno::INTR) => continue,
                    Err(error) => return Err(io::Error::from(error).into()),
                }
            }
            let Some(region) = self.bells.take() else {
                return Ok(());
            };
            self.begun = Some((Message::Bell { region }.encode(), 0));
        }
    }

    /// The VM that it is tied to.
    pub(super) fn machine(&self) -> Option<&Machine> {
        match &self.state {
            State::Tied(_, machine) => Some(machine),
            _ => None,
        }
    }

    /// What it announced, once it is tied.
    pub(super) fn announced(&self) -> Option<&Announce> {
        match &self.state {
            State::Tied(announce, _) => Some(announce),
            _ => None,
        }
    }

    /// Whether the VMs have to be looked at for it.
    pub(super) fn waits_for_look(&self) -> bool {
        matches!(self.state, State::Announced(_))
    }

    /// Reads once, and does what was asked for. Whether it was tied by that.
    pub(super) fn hear(&mut self) -> Result<bool, Refusal> {
        self.flush()?;
        let space = self.inbox.space();
        if space.is_empty() {
            return Ok(false);
        }
        match rustix::io::read(&self.socket, space) {
            Ok(0) => return Err(Refusal::Closed),
            Ok(count) => {
                self.inbox.filled(count);
                if !self.budget.spend(count.max(LOOK)) && self.machine().is_none() {
                    return Err(Refusal::Flood);
                }
            }
            Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(false),
            Err(error) => return Err(io::Error::from(error).into()),
        }
        self.go_on()
    }

    fn go_on(&mut self) -> Result<bool, Refusal> {
        let mut is_new = false;
        // What comes after an announcement waits until the VMs were looked at.
        while !self.waits_for_look() {
            let Some(incoming) = self.inbox.take()? else {
                break;
            };
            is_new |= self.take(incoming)?;
        }
        Ok(is_new)
    }

    fn take(&mut self, incoming: Incoming) -> Result<bool, Refusal> {
        self.state = match (
            std::mem::replace(&mut self.state, State::Stranger),
            incoming,
        ) {
            (State::Stranger, Incoming::Greeting(_)) => State::Greeted,
            (State::Greeted, Incoming::Message(Message::Announce(announce))) => {
                State::Announced(announce)
            }
            (State::Challenged(announce, nonce, suspects), Incoming::Message(Message::Shown)) => {
                let (machine, secret) = identify(suspects, nonce, announce.epoch)?;
                let countersign = rendezvous::countersign(nonce, secret);
                self.send_all(Message::Tied(countersign).encode().as_bytes())?;
                self.state = State::Tied(announce, machine);
                return Ok(true);
            }
            (tied @ State::Tied(..), Incoming::Message(Message::Bell { region })) => {
                self.rung.add(region);
                tied
            }
            _ => return Err(Refusal::Disorder),
        };
        Ok(false)
    }

    /// Looks for what it announced, and sends it a nonce if that is there. Whether it was
    /// tied by what it had sent already.
    pub(super) fn look(&mut self, lookout: &mut dyn Lookout) -> Result<bool, Refusal> {
        let State::Announced(announce) = self.state else {
            return Ok(false);
        };
        let looked = lookout.look(&announce)?;
        if looked.suspects.is_empty() {
            return Err(Refusal::NoBeacon {
                address: announce.beacon,
                unreadable: looked.unreadable,
            });
        }
        let mut nonce = Nonce([0; 16]);
        getrandom::fill(&mut nonce.0)
            .map_err(|error| Refusal::System(io::Error::other(error.to_string())))?;
        self.send_all(Message::Challenge(nonce).encode().as_bytes())?;
        self.state = State::Challenged(announce, nonce, looked.suspects);
        self.go_on()
    }

    /// Sends what fits an empty socket; who does not take that is gone.
    fn send_all(&self, bytes: &[u8]) -> Result<(), Refusal> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match rustix::net::send(&self.socket, rest, SendFlags::NOSIGNAL) {
                Ok(0) => return Err(Refusal::Closed),
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Ok(())
    }
}

/// The one VM in whose memory the answer to the nonce stands.
fn identify(
    suspects: Vec<Suspect>,
    nonce: Nonce,
    epoch: u64,
) -> Result<(Machine, rendezvous::Secret), Refusal> {
    let names = |machines: &mut dyn Iterator<Item = &Machine>| {
        machines
            .map(|machine| format!("{} (process {})", machine.name, machine.pid))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut shown = Vec::new();
    let mut silent = Vec::new();
    for Suspect { machine, directory } in suspects {
        // Memory that cannot be read any more shows nothing.
        match rendezvous::look(&&*directory, nonce, epoch) {
            Ok(Some(secret)) => shown.push((machine, secret)),
            _ => silent.push(machine),
        }
    }
    if shown.len() > 1 {
        return Err(Refusal::Ambiguous {
            machines: names(&mut shown.iter().map(|(machine, _)| machine)),
        });
    }
    shown.pop().ok_or_else(|| Refusal::NotShown {
        machines: names(&mut silent.iter()),
    })
}
