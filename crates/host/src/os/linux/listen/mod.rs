//! `vmshm listen`: agents connect, and each connection is tied to the VM whose memory shows
//! the nonce that was sent over it. Tied agents and programs of this user ring each other
//! through it.
//!
//! One thread serves all connections by turns; nothing waits for a peer. What a stranger
//! can cost is bounded: how many connections that have proved nothing there are, how
//! long each may take, how much each may send, and how often the VMs are looked at. It
//! only reads guest memory, and never scans it.

mod budget;
mod line;
mod peer;
mod relay;
mod source;
#[cfg(test)]
mod tests;
mod vsock;

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, Timespec};
use rustix::io::Errno;
use vmshm_link::rendezvous::message::Announce;

use crate::identity::start_time;
use crate::listen::{Address, Departure, Event, ListenError, Looked, Lookout, Machine, Refusal};
use crate::os::linux::doorbell::wire;
use crate::os::linux::doorbell::wire::Vmm;
use crate::ties::{self, Record, Tie, TiesError};
use crate::user_directory;
use peer::Peer;
use relay::Relay;
use source::{Connection, Source};

/// Connections at once that have proved nothing.
const MOST_STRANGERS: usize = 32;
/// Tied connections at once.
const MOST_TIED: usize = 512;
/// Connections that are taken in one turn, so that the others get theirs.
const ACCEPTS_PER_TURN: usize = 16;
/// The pause after a connection that could not be taken.
const AFTER_FAILURE: Duration = Duration::from_millis(20);
/// How often the VMs of tied connections are looked for.
const CHECK_EVERY: Duration = Duration::from_millis(500);

/// A listener with its connections.
pub struct Listener {
    sources: Vec<Source>,
    /// The oldest first.
    peers: VecDeque<Peer>,
    lookout: Box<dyn Lookout>,
    /// How long a peer may take until it is tied.
    limit: Duration,
    next_look: Instant,
    next_check: Instant,
    record: Option<Record>,
    relay: Option<Relay>,
}

/// Who has something to say.
struct Ready {
    sources: bool,
    /// As the relay gave them.
    relay: Vec<bool>,
    peers: Vec<bool>,
}

impl Listener {
    /// Listens at each of these: `[tcp:]HOST:PORT` (at every address of a name),
    /// `vsock:[CID:]PORT`, `serial:PATH`. Peers have `limit` to prove themselves.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn bind<T: AsRef<str>>(
        addresses: &[T],
        limit: Duration,
        lookout: Box<dyn Lookout>,
    ) -> Result<Self, ListenError> {
        let mut sources = Vec::new();
        for address in addresses {
            sources.extend(Source::bind(address.as_ref())?);
        }
        let now = Instant::now();
        Ok(Self {
            sources,
            peers: VecDeque::new(),
            lookout,
            limit,
            next_look: now,
            next_check: now,
            record: None,
            relay: None,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        self.sources.iter().filter_map(Source::address).collect()
    }

    /// From now on lets this user's other commands know which VM's beacon lies where.
    ///
    /// # Errors
    /// [`TiesError`].
    pub fn record_ties(&mut self) -> Result<(), TiesError> {
        let record = Record::open()?;
        record.write(&self.ties())?;
        self.record = Some(record);
        Ok(())
    }

    /// From now on carries bells between tied agents and this user's programs, which find it
    /// by what [`Listener::record_ties`] leaves.
    ///
    /// # Errors
    /// [`TiesError`].
    pub fn relay_bells(&mut self) -> Result<(), TiesError> {
        let candidates = user_directory::candidates();
        self.relay_bells_in(ties::own_directory(&candidates)?)
    }

    fn relay_bells_in(&mut self, directory: &Path) -> Result<(), TiesError> {
        let path = wire::socket_in(directory, std::process::id());
        let relay = Relay::open(&path).map_err(|source| TiesError::Write { path, source })?;
        self.relay = Some(relay);
        Ok(())
    }

    /// Which VM's beacon lies where.
    #[must_use]
    pub fn ties(&self) -> Vec<Tie> {
        self.peers
            .iter()
            .filter_map(|peer| {
                let (machine, announce) = (peer.machine()?, peer.announced()?);
                Some(Tie {
                    pid: machine.pid,
                    start_time: machine.start_time,
                    beacon: announce.beacon,
                })
            })
            .collect()
    }

    /// Serves whoever wants something, or waits up to `patience` for that. A signal cuts
    /// the wait short.
    ///
    /// # Errors
    /// [`ListenError::Wait`].
    pub fn turn(
        &mut self,
        patience: Duration,
        tell: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), ListenError> {
        let before = self.ties();
        let ready = self.wait(patience)?;
        // From the end, so that the places of those before stay right.
        for place in (0..ready.peers.len()).rev() {
            if ready.peers.get(place) == Some(&true) {
                self.serve(place, tell, Peer::hear);
            }
        }
        self.carry_bells(&ready.relay, tell);
        let now = Instant::now();
        self.sources.iter_mut().for_each(|source| source.tend(now));
        if ready.sources {
            self.accept(tell);
        }
        self.look(tell);
        self.drop_the_slow(tell);
        self.check_machines(tell);
        self.remember(&before, tell);
        Ok(())
    }

    /// Waits until somebody has something to say, or something has to be done.
    fn wait(&self, patience: Duration) -> Result<Ready, ListenError> {
        let now = Instant::now();
        let peers = self
            .peers
            .iter()
            .map(|peer| PollFd::from_borrowed_fd(peer.as_fd(), peer.interest(now)));
        let mut fds = Vec::new();
        for source in &self.sources {
            source.add_to_poll(&mut fds, now);
        }
        let sources = fds.len();
        if let Some(relay) = &self.relay {
            fds.extend(relay.poll_fds(now));
        }
        let relay = fds.len() - sources;
        fds.extend(peers);
        let patience = patience.min(self.next_duty(now));
        let timeout = Timespec {
            tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: patience.subsec_nanos().into(),
        };
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {
                let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
                Ok(Ready {
                    sources: ready.by_ref().take(sources).fold(false, |a, b| a | b),
                    relay: ready.by_ref().take(relay).collect(),
                    peers: ready.collect(),
                })
            }
            Err(error) => Err(ListenError::Wait(error.into())),
        }
    }

    /// How long until something has to be done without anybody asking.
    fn next_duty(&self, now: Instant) -> Duration {
        let strangers = self.peers.iter().filter(|peer| peer.machine().is_none());
        let slow = strangers.map(|peer| peer.since + self.limit);
        let look = self.peers.iter().any(Peer::waits_for_look);
        let look = look.then_some(self.next_look);
        let check = self
            .peers
            .iter()
            .any(|peer| peer.machine().is_some())
            .then_some(self.next_check);
        let heard = self.peers.iter().filter_map(|peer| peer.heard_again(now));
        let relay = self.relay.as_ref().and_then(|relay| relay.next_duty(now));
        let sources = self
            .sources
            .iter()
            .filter_map(|source| source.next_duty(now));
        slow.chain(look)
            .chain(check)
            .chain(heard)
            .chain(relay)
            .chain(sources)
            .min()
            .map_or(Duration::MAX, |due| due.saturating_duration_since(now))
    }

    fn accept(&mut self, tell: &mut dyn FnMut(Event<'_>)) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(connection) = self.next_connection() else {
                return;
            };
            let peer = connection.from.clone();
            let is_stranger = |peer: &Peer| peer.machine().is_none();
            if self.peers.iter().filter(|peer| is_stranger(peer)).count() >= MOST_STRANGERS
                && let Some(oldest) = self.peers.iter().position(is_stranger)
            {
                self.refuse(oldest, Refusal::Displaced, tell);
            }
            match Peer::welcome(connection) {
                Ok(peer) => self.peers.push_back(peer),
                Err(why) => tell(Event::Refused { peer, why }),
            }
        }
    }

    fn next_connection(&mut self) -> Option<Connection> {
        for source in &mut self.sources {
            match source.accept() {
                Ok(None) => {}
                Ok(connection) => return connection,
                Err(error) => {
                    // Where descriptors have run out, this must not become a busy loop.
                    tracing::debug!(%error, "a connection cannot be taken");
                    std::thread::sleep(AFTER_FAILURE);
                }
            }
        }
        None
    }

    /// Passes bells on, both ways.
    fn carry_bells(&mut self, ready: &[bool], tell: &mut dyn FnMut(Event<'_>)) {
        let Some(mut relay) = self.relay.take() else {
            for peer in &mut self.peers {
                while peer.take_rung().is_some() {}
            }
            return;
        };
        for peer in &mut self.peers {
            while let Some(region) = peer.take_rung() {
                if let Some(vmm) = peer.vmm() {
                    relay.ring(vmm, region);
                }
            }
        }
        let rung = relay.turn(ready, &|vmm| self.place_of(vmm).is_some());
        self.relay = Some(relay);
        for (vmm, region) in rung {
            // Those who leave meanwhile leave their places.
            if let Some(place) = self.place_of(vmm) {
                self.serve(place, tell, |peer| peer.ring(region).map(|()| false));
            }
        }
    }

    /// The place of the agent that is tied to this VM.
    fn place_of(&self, vmm: Vmm) -> Option<usize> {
        self.peers.iter().position(|peer| peer.vmm() == Some(vmm))
    }

    /// Looks at the VMs for the one who has waited longest. Afterwards the listener rests
    /// as long as that took: announcing costs little, and looking must not cost all.
    fn look(&mut self, tell: &mut dyn FnMut(Event<'_>)) {
        let start = Instant::now();
        if start < self.next_look {
            return;
        }
        let Some(place) = self.peers.iter().position(Peer::waits_for_look) else {
            return;
        };
        let mut lookout = std::mem::replace(&mut self.lookout, Box::new(Nowhere));
        self.serve(place, tell, |peer| peer.look(&mut *lookout));
        self.lookout = lookout;
        self.next_look = Instant::now() + start.elapsed();
    }

    /// Does something for a peer, and what follows from it.
    fn serve(
        &mut self,
        place: usize,
        tell: &mut dyn FnMut(Event<'_>),
        act: impl FnOnce(&mut Peer) -> Result<bool, Refusal>,
    ) {
        let Some(peer) = self.peers.get_mut(place) else {
            return;
        };
        match act(peer) {
            Ok(false) => {}
            Ok(true) => self.tied(place, tell),
            Err(why) => self.refuse(place, why, tell),
        }
    }

    fn tied(&mut self, place: usize, tell: &mut dyn FnMut(Event<'_>)) {
        let Some(peer) = self.peers.get(place) else {
            return;
        };
        let (Some(machine), Some(announce)) = (peer.machine(), peer.announced()) else {
            return;
        };
        let tied = |peer: &Peer| peer.machine().is_some();
        if self.peers.iter().filter(|peer| tied(peer)).count() > MOST_TIED {
            let why = Refusal::Full(MOST_TIED);
            let peer = peer.address.clone();
            self.peers.remove(place);
            return tell(Event::Refused { peer, why });
        }
        // Whoever hears of it may use it at once.
        self.write_ties();
        tell(Event::Tied {
            peer: peer.address.clone(),
            machine,
            announce,
        });
        let pid = machine.pid;
        // One memory, one agent: an earlier connection of the same VM is a dead one.
        let mut others = self.peers.iter().enumerate();
        let earlier = others.find(|(at, peer)| {
            *at != place && peer.machine().is_some_and(|machine| machine.pid == pid)
        });
        if let Some((earlier, _)) = earlier {
            self.depart(earlier, Departure::Replaced, tell);
        }
    }

    /// Writes what is known; a failure is told at the end of the turn.
    fn write_ties(&self) {
        if let Some(record) = &self.record
            && let Err(error) = record.write(&self.ties())
        {
            tracing::debug!(%error, "what is known cannot be written yet");
        }
    }

    /// Ends a connection, and says which kind of end that is.
    fn refuse(&mut self, place: usize, why: Refusal, tell: &mut dyn FnMut(Event<'_>)) {
        let Some(peer) = self.peers.get(place) else {
            return;
        };
        if peer.machine().is_some() {
            return self.depart(place, Departure::Peer(why), tell);
        }
        let peer = peer.address.clone();
        self.peers.remove(place);
        tell(Event::Refused { peer, why });
    }

    fn depart(&mut self, place: usize, why: Departure, tell: &mut dyn FnMut(Event<'_>)) {
        let Some(peer) = self.peers.remove(place) else {
            return;
        };
        if let Some(machine) = peer.machine() {
            self.write_ties();
            tell(Event::Left {
                peer: peer.address.clone(),
                machine,
                why,
            });
        }
    }

    fn drop_the_slow(&mut self, tell: &mut dyn FnMut(Event<'_>)) {
        let limit = self.limit;
        let is_slow = |peer: &Peer| peer.machine().is_none() && peer.since.elapsed() >= limit;
        while let Some(place) = self.peers.iter().position(is_slow) {
            self.refuse(place, Refusal::Slow(limit), tell);
        }
    }

    fn check_machines(&mut self, tell: &mut dyn FnMut(Event<'_>)) {
        if Instant::now() < self.next_check {
            return;
        }
        self.next_check = Instant::now() + CHECK_EVERY;
        let is_gone =
            |machine: &Machine| start_time(u64::from(machine.pid)) != Some(machine.start_time);
        while let Some(place) = self
            .peers
            .iter()
            .position(|peer| peer.machine().is_some_and(is_gone))
        {
            self.depart(place, Departure::VmGone, tell);
        }
    }

    fn remember(&mut self, before: &[Tie], tell: &mut dyn FnMut(Event<'_>)) {
        let now = self.ties();
        if now == before {
            return;
        }
        if let Some(relay) = &mut self.relay {
            // They look for whoever is tied to their VM now.
            relay.keep(&|vmm| {
                let is_meant = |tie: &Tie| tie.pid == vmm.pid && tie.start_time == vmm.start_time;
                now.iter().any(is_meant)
            });
        }
        if let Some(record) = &self.record
            && let Err(error) = record.write(&now)
        {
            tell(Event::NotRecorded(error));
        }
    }
}

/// Stands in while the lookout is lent to a peer.
struct Nowhere;

impl Lookout for Nowhere {
    fn look(&mut self, _: &Announce) -> Result<Looked, vmshm_ram::FindError> {
        Ok(Looked::default())
    }
}
