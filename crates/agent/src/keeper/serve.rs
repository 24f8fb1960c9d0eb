//! The keeper's loop: connections, heartbeats, checks, and leaving.
//!
//! It serves one agent and any number of processes that only look. A connection that
//! breaks the rules is closed; nothing a connection does ends the keeper.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use tracing::{debug, warn};
use vmshm_link::beacon::KeeperState;
use vmshm_link::directory::{SLOTS, slot_offset};
use vmshm_link::slot::SlotView;

use super::announcement::{Announcement, AnnouncementError};
use super::protocol::{PROTOCOL, Purpose, Reply, Request, Summary};
use super::roster::{ConnectionId, Roster};
use super::store::{Damage, Store, StoreError};
use crate::window::Window;
use vmshm_channel::{Channel, ChannelError, timespec};

/// Time between two checks of where pages lie: a hole in a region is noticed by the
/// next one, and one that is filled again after a second for each 256 MiB held.
const CHECK: Duration = Duration::from_millis(500);
/// A keeper that no agent comes to ends itself after this long.
const FIRST_AGENT: Duration = Duration::from_secs(30);
/// A keeper stays for so long after the last slot was freed: a host that is just about
/// to claim one sees in time that the beacon is withdrawn.
const LINGER: Duration = Duration::from_secs(2);
/// The most connections at once.
const CONNECTION_LIMIT: usize = 64;

#[derive(Debug)]
struct Connection {
    id: ConnectionId,
    channel: Channel,
    pid: u32,
}

/// Everything of a running keeper.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) listener: UnixListener,
    pub(super) termination: UnixStream,
    pub(super) announcement: Announcement,
    pub(super) store: Store,
    /// The directory, for looking at its slots.
    pub(super) directory: Window,
    pub(super) epoch: u64,
    pub(super) unit: u64,
    connections: Vec<Connection>,
    last_connection: ConnectionId,
    roster: Roster,
    moved: bool,
}

/// Why the keeper could not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The beacon cannot be written.
    #[error(transparent)]
    Announcement(#[from] AnnouncementError),
    /// The system failed.
    #[error("the keeper cannot wait for messages: {0}")]
    Poll(#[from] Errno),
}

/// Memory and sockets that a keeper starts with.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) listener: UnixListener,
    pub(super) termination: UnixStream,
    pub(super) announcement: Announcement,
    pub(super) store: Store,
    pub(super) directory: Window,
    pub(super) epoch: u64,
}

impl Keeper {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts {
            listener,
            termination,
            announcement,
            store,
            directory,
            epoch,
        } = parts;
        Self {
            unit: store.pinner().cost(1),
            listener,
            termination,
            announcement,
            store,
            directory,
            epoch,
            connections: Vec::new(),
            last_connection: 0,
            roster: Roster::new(),
            moved: false,
        }
    }

    /// Runs until there is nothing left to keep.
    pub(super) fn serve(mut self) -> Result<(), ServeError> {
        let started = Instant::now();
        let mut next_check = started + CHECK;
        let mut idle_since = None;
        loop {
            let now = Instant::now();
            self.announcement.beat(now)?;
            if now >= next_check {
                next_check = now + CHECK;
                self.check()?;
            }
            self.announcement.say(self.roster.state())?;
            let abandoned = self.roster.generation() == 0 && now > started + FIRST_AGENT;
            if abandoned || (self.roster.may_leave() && !self.slot_is_held()) {
                let since = *idle_since.get_or_insert(now);
                if abandoned || now > since + LINGER {
                    return Ok(self.announcement.wipe_brand()?);
                }
            } else {
                idle_since = None;
            }
            if self.wait(now)? {
                self.work()?;
            }
        }
    }

    /// A slot that cannot be read counts as held.
    fn slot_is_held(&self) -> bool {
        (0..SLOTS).any(|index| {
            SlotView::read(&self.directory, slot_offset(index)).map_or(true, |slot| slot.is_held())
        })
    }

    /// Waits for a message until the next heartbeat; whether there is one.
    fn wait(&self, now: Instant) -> Result<bool, ServeError> {
        let mut fds = vec![
            PollFd::new(&self.listener, PollFlags::IN),
            PollFd::new(&self.termination, PollFlags::IN),
        ];
        fds.extend(
            self.connections
                .iter()
                .map(|connection| PollFd::new(&connection.channel, connection.channel.interest())),
        );
        let timeout = self.announcement.next_beat().saturating_duration_since(now);
        match rustix::event::poll(&mut fds, Some(&timespec(timeout))) {
            Ok(count) => Ok(count > 0),
            Err(Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends first: a new agent may have come because the old one has gone.
    fn work(&mut self) -> Result<(), ServeError> {
        if io::Read::read(&mut &self.termination, &mut [0; 16]).is_ok_and(|count| count > 0) {
            warn!("asked to end: the beacon is withdrawn");
            self.withdraw()?;
            for connection in &mut self.connections {
                let _ = connection.channel.send(&Reply::Withdrawn, None);
            }
        }
        self.accept();
        let ids: Vec<ConnectionId> = self.connections.iter().map(|one| one.id).collect();
        for id in ids {
            if let Err(error) = self.serve_connection(id) {
                debug!(%error, "a connection ends");
                self.connections.retain(|connection| connection.id != id);
                self.roster.gone(id);
                self.announcement.say(self.roster.state())?;
            }
        }
        Ok(())
    }

    fn accept(&mut self) {
        while self.connections.len() < CONNECTION_LIMIT {
            let Ok((socket, _)) = self.listener.accept() else {
                return;
            };
            let Ok(channel) = Channel::new(socket) else {
                continue;
            };
            match channel.peer() {
                Ok((pid, 0)) => {
                    self.last_connection += 1;
                    self.connections.push(Connection {
                        id: self.last_connection,
                        channel,
                        pid,
                    });
                }
                other => debug!(?other, "a connection that is not root's is refused"),
            }
        }
    }

    fn serve_connection(&mut self, id: ConnectionId) -> Result<(), ChannelError> {
        loop {
            let Some(connection) = self.connections.iter_mut().find(|one| one.id == id) else {
                return Ok(());
            };
            connection.channel.flush()?;
            let Some((request, _)) = connection.channel.receive::<Request>()? else {
                return Ok(());
            };
            self.answer(id, request)?;
        }
    }

    fn answer(&mut self, id: ConnectionId, request: Request) -> Result<(), ChannelError> {
        let is_agent = self.roster.is_agent(id);
        match request {
            Request::List { protocol } if protocol == PROTOCOL => self.list(id),
            Request::Serve { protocol } if protocol == PROTOCOL => self.admit(id),
            Request::List { protocol } | Request::Serve { protocol } => self.reply(
                id,
                &Reply::Refused {
                    message: format!(
                        "the keeper that runs is version {} and speaks protocol {PROTOCOL}, this program speaks {protocol}",
                        env!("CARGO_PKG_VERSION")
                    ),
                    hint: Some(format!(
                        "end the keeper (process {}) once no host uses its memory, then start the agent again",
                        std::process::id()
                    )),
                },
            ),
            _ if !is_agent => Err(ChannelError::Malformed(
                "a request that only the agent may make".to_owned(),
            )),
            Request::Serving => {
                if !self.moved {
                    self.roster.serving();
                }
                self.say_state()
            }
            Request::Allocate { name, size } => self.allocate(id, &name, size),
            Request::AllocateDevice { name, path, size } => {
                let held = self.store.allocate_device(&name, &path, size);
                self.allocated(id, held)
            }
            Request::Describe { id, description } => {
                fatal(self.store.set_description(id, description))
            }
            Request::Free { id } => {
                let Self {
                    store,
                    announcement,
                    ..
                } = self;
                fatal(store.free(id, &mut || {
                    let _ = announcement.beat(Instant::now());
                }))
            }
            Request::Withdraw => {
                let withdrawn = self.withdraw();
                withdrawn.map_err(|error| ChannelError::Malformed(error.to_string()))?;
                self.reply(id, &Reply::Withdrawn)
            }
        }
    }

    fn say_state(&mut self) -> Result<(), ChannelError> {
        self.announcement
            .say(self.roster.state())
            .map_err(|error| ChannelError::Malformed(error.to_string()))
    }

    fn withdraw(&mut self) -> Result<(), AnnouncementError> {
        self.roster.withdraw();
        // In this order: whoever finds the brand gone finds the reason, too.
        self.announcement.say(KeeperState::Withdrawn)?;
        self.announcement.wipe_brand()
    }

    fn reply(&mut self, id: ConnectionId, reply: &Reply) -> Result<(), ChannelError> {
        match self.connections.iter_mut().find(|one| one.id == id) {
            Some(connection) => connection.channel.send(reply, None),
            None => Ok(()),
        }
    }

    fn admit(&mut self, id: ConnectionId) -> Result<(), ChannelError> {
        let pid = match self.connections.iter().find(|one| one.id == id) {
            Some(connection) => connection.pid,
            None => return Ok(()),
        };
        match self.roster.admit(id, pid) {
            Ok(_) => {
                self.list(id)?;
                // It may have happened while there was no agent.
                for damage in self.store.damages() {
                    self.reply(id, &moved(damage))?;
                }
                Ok(())
            }
            Err(agent) => self.reply(id, &Reply::Busy { pid: agent.pid }),
        }
    }

    fn list(&mut self, id: ConnectionId) -> Result<(), ChannelError> {
        for allocation in self.store.ids() {
            self.send_allocation(id, allocation)?;
        }
        let pinner = self.store.pinner();
        let summary = Summary {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            keeper_pid: std::process::id(),
            agent_pid: self.roster.agent().map(|agent| agent.pid),
            state: self.roster.state().into(),
            epoch: self.epoch,
            generation: self.roster.generation(),
            method: pinner.method(),
            unit: self.unit,
            notes: pinner.notes().to_vec(),
        };
        self.reply(id, &Reply::Summary(summary))
    }

    fn send_allocation(&mut self, id: ConnectionId, number: u64) -> Result<(), ChannelError> {
        let connection = self.connections.iter_mut().find(|one| one.id == id);
        let (Some(connection), Some(allocation), Some(pinned)) = (
            connection,
            self.store.describe(number),
            self.store.get(number),
        ) else {
            return Ok(());
        };
        let reply = Reply::Allocation(allocation);
        connection.channel.send(&reply, Some(pinned.as_fd()))
    }

    fn allocate(&mut self, id: ConnectionId, name: &str, size: u64) -> Result<(), ChannelError> {
        let Self {
            store,
            announcement,
            connections,
            ..
        } = self;
        let socket = connections
            .iter()
            .find(|one| one.id == id)
            .map(|connection| &connection.channel);
        // An agent that dies meanwhile is dead at once, not only when the work is done.
        let mut progress = || {
            let _ = announcement.beat(Instant::now());
            if socket.is_some_and(has_hung_up) {
                let _ = announcement.say(KeeperState::AgentDead);
            }
        };
        let held = store.allocate(Purpose::Region, name, size, &mut progress);
        self.allocated(id, held)
    }

    fn allocated(
        &mut self,
        id: ConnectionId,
        held: Result<u64, StoreError>,
    ) -> Result<(), ChannelError> {
        match held {
            Ok(number) => self.send_allocation(id, number),
            Err(error) => self.reply(
                id,
                &Reply::Refused {
                    message: error.to_string(),
                    hint: error.hint().map(str::to_owned),
                },
            ),
        }
    }

    fn check(&mut self) -> Result<(), ServeError> {
        let damage = match self.store.check_some() {
            Ok(Some(damage)) => damage,
            Ok(None) => return Ok(()),
            Err(error) => {
                warn!(%error, "cannot check where pages lie");
                return Ok(());
            }
        };
        warn!("{}", damage.message);
        // A region is its holders' affair; without beacon and directory there is nothing.
        if damage.purpose != Purpose::Region {
            self.moved = true;
            self.withdraw()?;
        }
        if let Some(agent) = self.roster.agent() {
            let _ = self.reply(agent.connection, &moved(damage));
        }
        Ok(())
    }
}

fn moved(damage: Damage) -> Reply {
    Reply::Moved {
        id: damage.id,
        message: damage.message,
    }
}

/// A request of the agent that makes no sense ends its connection.
fn fatal(result: Result<(), StoreError>) -> Result<(), ChannelError> {
    result.map_err(|error| ChannelError::Malformed(error.to_string()))
}

fn has_hung_up(channel: &Channel) -> bool {
    let mut fds = [PollFd::new(channel, PollFlags::RDHUP)];
    let now = timespec(Duration::ZERO);
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
}
