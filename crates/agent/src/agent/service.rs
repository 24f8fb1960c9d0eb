//! The agent's loop, and everything it knows: slots, regions, and who waits for what.
//!
//! One thread looks at all slots, seldom while nothing happens and often while it
//! does. The looks read shared memory only; the one system call of an idle round is
//! the sleep.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use tracing::debug;
use vmshm_link::LinkError;
use vmshm_link::directory::Budget;
use vmshm_link::duplex::mark_lost;
use vmshm_link::slot::SlotEvent;
use vmshm_shm::{MapError, PAGE_SIZE, Protection};

use super::announce::{AnnounceError, Announcement, IDLE_POLL_MICROS};
use super::bench::Bench;
use super::creation::Creation;
use super::locals::Locals;
use super::pattern::PatternError;
use super::programs::Programs;
use super::regions::{Description, LostEnd, Regions};
use super::screens::Screens;
use super::sessions::{self, Session};
use crate::connect::{Connector, Listener};
use crate::facts::FactsError;
use crate::keeper::client::{Client, ClientError};
use crate::keeper::protocol::{Reply, Request};
use crate::window::Window;
use vmshm_channel::{ChannelError, timespec};

/// Time between two looks while nothing happens.
const IDLE: Duration = Duration::from_micros(IDLE_POLL_MICROS);
/// Time between two looks while something does.
const BUSY: Duration = Duration::from_micros(500);
/// Time between two looks while a user is at a screen, so that what he types next is not late.
const ATTENTIVE: Duration = Duration::from_millis(5);
/// Busy rounds after the last event: 100 ms.
const BUSY_ROUNDS: u32 = 200;
/// Attentive rounds after the last input, if nothing else happens: 2 s.
const ATTENTIVE_ROUNDS: u32 = 400;

const _: () = assert!(IDLE_POLL_MICROS * sessions::LOOKS_PER_SECOND as u64 == 1_000_000);
/// Rounds in a row that messages may cut short before one is slept out.
const ROUNDS_CUT_SHORT: u32 = 4;
/// The most requests of one host that are served before the others get their turn.
const REQUESTS_PER_TURN: usize = 16;

/// Why the agent could not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceError {
    /// Memory cannot be announced.
    #[error(transparent)]
    Announce(#[from] AnnounceError),
    /// The keeper is gone.
    #[error(
        "the keeper has died, and with it the pins: a host that still writes may hit memory that belongs to somebody else now"
    )]
    KeeperDied,
    /// The keeper was asked to end.
    #[error("the keeper was asked to end, and has withdrawn the beacon")]
    KeeperLeft,
    /// Pages moved although they were pinned.
    #[error("shared memory is not where it was announced: {0}; nothing is shared any more")]
    Moved(String),
    /// The keeper cannot be talked to.
    #[error(transparent)]
    Client(ClientError),
    /// Shared memory is not as it was left.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A region's pages cannot be prepared.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A region cannot be mapped.
    #[error("cannot map a region: {0}")]
    Map(#[from] MapError),
    /// A fact about the guest is missing.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// The system failed.
    #[error("cannot wait for events: {0}")]
    System(#[from] io::Error),
}

impl From<ClientError> for ServiceError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Channel(ChannelError::Closed) => Self::KeeperDied,
            other => Self::Client(other),
        }
    }
}

/// The running agent.
#[derive(Debug)]
pub(crate) struct Service {
    pub(super) client: Client,
    pub(super) announcement: Announcement,
    pub(super) sessions: Vec<Session>,
    pub(super) regions: Regions,
    pub(super) files: BTreeMap<u64, OwnedFd>,
    pub(super) benches: BTreeMap<u64, Bench>,
    /// Regions to be made; the first one is in the keeper's hands.
    pub(super) creations: VecDeque<Creation>,
    pub(super) locals: Locals,
    pub(super) programs: Programs,
    pub(super) screens: Screens,
    /// The beacon's memory and the directory's, without which nothing goes on.
    pub(super) foundations: BTreeSet<u64>,
    /// Whether memory is taken in huge pages.
    pub(super) hugetlb: bool,
    /// The connection to `vmshm listen`, where one is wanted.
    pub(super) connector: Option<Connector>,
    /// What the keeper knows of each region.
    pub(super) described: BTreeMap<u64, Description>,
    /// Session numbers start at the generation, so that none comes twice in an epoch.
    pub(super) last_session: u64,
    pub(super) fixed_cost: u64,
    pub(super) limit: u64,
    pub(super) unit: u64,
}

impl Service {
    /// Serves until a signal arrives. Time is counted in rounds: reading the clock is a
    /// system call under user-mode Linux, and a paused guest's hosts must not age.
    pub(crate) fn serve(&mut self, signals: &UnixStream) -> Result<(), ServiceError> {
        let mut busy_rounds = 0_u32;
        let mut attentive_rounds = 0_u32;
        // Time since the last look at silence, as far as it was slept through.
        let mut unlooked = IDLE;
        let mut cut_short = 0;
        // Something may have been sent before the first sleep.
        let mut woken = true;
        loop {
            self.announcement.beat()?;
            let mut active = self.poll_slots()?;
            if woken {
                if io::Read::read(&mut &*signals, &mut [0; 16]).is_ok_and(|count| count > 0) {
                    return Ok(());
                }
                active |= self.poll_keeper()?;
                active |= self.poll_locals()?;
                active |= self.poll_programs()?;
                active |= self.poll_bells();
            }
            if woken || self.screens.is_unheard() {
                active |= self.poll_screens()?;
            }
            self.serve_pipes()?;
            if active || woken {
                self.serve_waiting()?;
                self.settle_screens()?;
            }
            if active {
                busy_rounds = BUSY_ROUNDS;
            }
            if self.screens.took_input() {
                attentive_rounds = ATTENTIVE_ROUNDS;
            }
            if unlooked >= IDLE {
                unlooked = Duration::ZERO;
                sessions::look_at_all(&mut self.sessions)?;
                self.programs.look_at_all();
                self.look_at_screens()?;
                self.reap_benches()?;
                self.announcement.look_at_ram()?;
            }
            // Programs that keep the agent awake do not keep it from counting.
            let heeds_programs = cut_short < ROUNDS_CUT_SHORT;
            let pause = if busy_rounds > 0 || !heeds_programs {
                BUSY
            } else if attentive_rounds > 0 {
                ATTENTIVE
            } else {
                IDLE
            };
            woken = self.sleep(signals, pause, heeds_programs)?;
            self.programs.count_round();
            cut_short = if woken && heeds_programs {
                cut_short + 1
            } else {
                0
            };
            if busy_rounds == 0 {
                attentive_rounds = attentive_rounds.saturating_sub(1);
            }
            busy_rounds = busy_rounds.saturating_sub(1);
            // A round that was cut short does not count.
            if !woken {
                unlooked += pause;
            }
        }
    }

    /// Connects out to a host, beside everything else.
    pub(crate) fn connect_to(
        &mut self,
        listener: Listener,
        tell: fn(&str),
    ) -> Result<(), ServiceError> {
        let announce = self.announcement.for_connection();
        let directory = Arc::clone(self.announcement.directory());
        self.connector = Some(Connector::start(listener, announce, directory, tell)?);
        Ok(())
    }

    /// Takes what the host has rung for; whether that was anything.
    fn poll_bells(&mut self) -> bool {
        let bells = self.connector.as_ref().map(Connector::take_bells);
        let bells = bells.unwrap_or_default();
        bells.iter().for_each(|region| self.bell(*region));
        !bells.is_empty()
    }

    /// Counts the silence of hosts once more, without serving anybody.
    pub(crate) fn listen(&mut self) -> Result<(), ServiceError> {
        std::thread::sleep(Duration::from_secs(1) / sessions::LOOKS_PER_SECOND);
        Ok(sessions::look_at_all(&mut self.sessions)?)
    }

    /// Leaves in good order.
    pub(crate) fn leave(&mut self) -> Result<(), ServiceError> {
        self.connector = None;
        self.benches.clear();
        self.programs.say_farewell();
        for session in &mut self.sessions {
            // Such a slot holds nothing; its host sees that it is gone.
            if session.state() == vmshm_link::slot::SlotState::Granted {
                session.free()?;
            }
        }
        Ok(self.client.withdraw()?)
    }

    /// Whether a message or a signal has cut the pause short.
    fn sleep(
        &self,
        signals: &UnixStream,
        pause: Duration,
        heeds_programs: bool,
    ) -> Result<bool, ServiceError> {
        let mut fds = vec![
            PollFd::new(signals, PollFlags::IN),
            PollFd::new(&self.client, self.client.interest()),
        ];
        self.locals.add_to_poll(&mut fds);
        if heeds_programs {
            self.programs.add_to_poll(&mut fds);
        }
        self.screens.add_to_poll(&mut fds, heeds_programs);
        fds.extend(
            self.connector
                .iter()
                .map(|bells| PollFd::new(bells, PollFlags::IN)),
        );
        match rustix::event::poll(&mut fds, Some(&timespec(pause))) {
            Ok(count) => Ok(count > 0),
            Err(Errno::INTR) => Ok(true),
            Err(error) => Err(ServiceError::System(error.into())),
        }
    }

    /// Looks at every slot once; whether anything happened.
    pub(super) fn poll_slots(&mut self) -> Result<bool, ServiceError> {
        let mut active = false;
        for index in 0..self.sessions.len() {
            let next = self.last_session + 1;
            match self.sessions[index].poll(next)? {
                Some(SlotEvent::Granted) => {
                    self.last_session = next;
                    active = true;
                }
                Some(SlotEvent::Proved) => active = true,
                Some(SlotEvent::Released) => {
                    self.end_session(index)?;
                    active = true;
                }
                None => {}
            }
            for _ in 0..REQUESTS_PER_TURN {
                if !self.serve_request(index)? {
                    break;
                }
                active = true;
            }
        }
        Ok(active)
    }

    /// Serves one request; whether there was a new one.
    fn serve_request(&mut self, index: usize) -> Result<bool, ServiceError> {
        let incoming = match self.sessions[index].next_request() {
            Ok(Some(incoming)) => incoming,
            Ok(None) => return Ok(false),
            Err(error) => {
                self.sessions[index].set_broken(error);
                return Ok(false);
            }
        };
        let (tag, is_new) = (incoming.tag, incoming.is_new);
        debug!(slot = index, request = ?incoming.request, "request");
        if let Some(reply) = self.answer(index, tag, incoming.request)? {
            // First the keeper's memory of it, then the host's.
            self.settle()?;
            if let Err(error) = self.sessions[index].reply(reply.to_message(tag)) {
                self.sessions[index].set_broken(error);
            }
            return Ok(true);
        }
        Ok(is_new)
    }

    /// A session is over: frees what it held, then its slot.
    pub(super) fn end_session(&mut self, index: usize) -> Result<(), ServiceError> {
        self.depart_with_session(index, None, false);
        let lost = self.regions.session_ended(index);
        self.tell_lost(&lost)?;
        self.reap_benches()?;
        self.settle()?;
        Ok(self.sessions[index].free()?)
    }

    /// Tells the ends of pipes that are left alone.
    pub(super) fn tell_lost(&self, lost: &[LostEnd]) -> Result<(), ServiceError> {
        for end in lost {
            if let Some(file) = self.files.get(&end.region) {
                let words = Window::open(file, 0, PAGE_SIZE, Protection::ReadWrite)?;
                mark_lost(&words, end.side)?;
            }
        }
        Ok(())
    }

    /// Ends the benches that nobody holds any more, and forgets those that have ended.
    fn reap_benches(&mut self) -> Result<(), ServiceError> {
        let over: Vec<u64> = self
            .benches
            .iter()
            .filter(|(id, bench)| {
                let held = |id| {
                    let region = self.regions.get(id);
                    region.is_some_and(|region| !region.description.holders.is_empty())
                };
                bench.is_finished() || !held(**id)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            self.benches.remove(&id);
            if let Some(region) = self.regions.get_mut(id) {
                region.in_use = false;
            }
            self.settle()?;
        }
        Ok(())
    }

    pub(super) fn poll_keeper(&mut self) -> Result<bool, ServiceError> {
        let mut active = false;
        while let Some((reply, file)) = self.client.poll()? {
            active = true;
            match (reply, file) {
                (Reply::Allocation(allocation), Some(file)) => self.created(allocation, file)?,
                (Reply::Refused { message, hint }, _) => self.not_created(&message, hint)?,
                (Reply::Moved { id, message }, _) => self.moved(id, &message)?,
                (Reply::Withdrawn, _) => return Err(ServiceError::KeeperLeft),
                _ => return Err(ServiceError::Client(ClientError::Unexpected)),
            }
        }
        Ok(active)
    }

    /// Bytes pinned now, and the most that may be.
    pub(super) fn budget(&self) -> Budget {
        Budget {
            pinned: self.fixed_cost + self.regions.cost(),
            limit: self.limit,
        }
    }

    /// Carries the book's changes out: frees what may go, tells the keeper what it must
    /// remember, and brings the directory up to date.
    pub(super) fn settle(&mut self) -> Result<(), ServiceError> {
        let mut told = false;
        for id in self.regions.garbage() {
            self.regions.remove(id);
            self.files.remove(&id);
            self.described.remove(&id);
            self.client.send(&Request::Free { id })?;
            told = true;
        }
        for region in self.regions.iter() {
            if self.described.get(&region.id) == Some(&region.description) {
                continue;
            }
            let description = serde_json::to_string(&region.description).unwrap_or_default();
            self.client.send(&Request::Describe {
                id: region.id,
                description,
            })?;
            self.described.insert(region.id, region.description.clone());
            told = true;
        }
        if told {
            self.client.drain()?;
        }
        Ok(self.announcement.update(&self.regions, self.budget())?)
    }

    /// A region's memory, all of it.
    pub(super) fn map(&self, id: u64) -> Result<Option<Arc<Window>>, ServiceError> {
        let (Some(region), Some(file)) = (self.regions.get(id), self.files.get(&id)) else {
            return Ok(None);
        };
        let mapping = Window::open(file, 0, region.size, Protection::ReadWrite)?;
        Ok(Some(Arc::new(mapping)))
    }
}
