//! The agent's own socket: commands of this guest that ask something, or hold the
//! guest's end of a pipe for as long as they are connected.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;

use rustix::event::{PollFd, PollFlags};
use tracing::debug;
use vmshm_link::directory::{RegionKind, is_valid_name};
use vmshm_link::duplex::DEFAULT_PIPE_SIZE;

use super::creation::Origin;
use super::local_protocol::{Answer, PROTOCOL, Question, ReleaseInfo, Wish};
use super::regions::LocalId;
use super::service::{Service, ServiceError};
use super::sessions;
use crate::connect::Connector;
use vmshm_channel::{Channel, ChannelError};

/// The most connections at once.
const LIMIT: usize = 256;

#[derive(Debug)]
struct Local {
    id: LocalId,
    channel: Channel,
    /// A pipe that it wants, while the name is not to be had yet.
    wants: Option<String>,
    /// A pipe whose end it has, while that is not ready yet.
    waits_for: Option<u64>,
}

/// The connected processes.
#[derive(Debug)]
pub(crate) struct Locals {
    listener: Option<UnixListener>,
    locals: Vec<Local>,
    last_id: LocalId,
}

impl Locals {
    /// Nobody is connected yet. Without a listener nobody ever will be.
    pub(crate) fn new(listener: Option<UnixListener>) -> Self {
        Self {
            listener,
            locals: Vec::new(),
            last_id: 0,
        }
    }

    /// Adds what to wait for.
    pub(crate) fn add_to_poll<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        fds.extend(
            self.listener
                .iter()
                .map(|listener| PollFd::new(listener, PollFlags::IN)),
        );
        fds.extend(
            self.locals
                .iter()
                .map(|local| PollFd::new(&local.channel, local.channel.interest())),
        );
    }

    /// Whether a process is still connected.
    pub(crate) fn is_there(&self, id: LocalId) -> bool {
        self.locals.iter().any(|local| local.id == id)
    }

    /// Tells a process that it does not get what it asked for.
    pub(crate) fn refuse(&mut self, id: LocalId, message: &str, hint: Option<String>) {
        let answer = Answer::Refused {
            message: message.to_owned(),
            hint,
        };
        if let Some(local) = self.locals.iter_mut().find(|local| local.id == id) {
            local.wants = None;
        }
        self.send(id, &answer, None);
    }

    /// A process that does not take its answers is noticed by its silence.
    fn send(&mut self, id: LocalId, answer: &Answer, descriptor: Option<BorrowedFd<'_>>) {
        if let Some(local) = self.locals.iter_mut().find(|local| local.id == id)
            && let Err(error) = local.channel.send(answer, descriptor)
        {
            debug!(%error, "an answer is lost");
        }
    }

    fn accept(&mut self) {
        while let Some(Ok((socket, _))) = self.listener.as_ref().map(UnixListener::accept) {
            let Ok(channel) = Channel::new(socket) else {
                continue;
            };
            match channel.peer() {
                Ok((_, 0)) if self.locals.len() < LIMIT => self.add(channel),
                other => debug!(?other, "a connection is refused"),
            }
        }
    }

    /// Takes a process in.
    pub(super) fn add(&mut self, channel: Channel) {
        self.last_id += 1;
        self.locals.push(Local {
            id: self.last_id,
            channel,
            wants: None,
            waits_for: None,
        });
    }

    /// The next question of the process at `index`.
    fn receive(&mut self, index: usize) -> Result<Option<(LocalId, Wish)>, ChannelError> {
        let Some(local) = self.locals.get_mut(index) else {
            return Ok(None);
        };
        local.channel.flush()?;
        let Some((question, _)) = local.channel.receive::<Question>()? else {
            return Ok(None);
        };
        if question.protocol == PROTOCOL {
            return Ok(Some((local.id, question.wish)));
        }
        let answer = Answer::Refused {
            message: format!(
                "the agent that runs is version {}, this program is another",
                env!("CARGO_PKG_VERSION")
            ),
            hint: Some("restart the agent".to_owned()),
        };
        local.channel.send(&answer, None)?;
        Ok(None)
    }
}

impl Service {
    /// Serves the connected processes; whether anything happened.
    pub(super) fn poll_locals(&mut self) -> Result<bool, ServiceError> {
        self.locals.accept();
        let mut active = false;
        let mut index = 0;
        while index < self.locals.locals.len() {
            match self.locals.receive(index) {
                Ok(Some((id, wish))) => {
                    active = true;
                    self.grant(id, wish)?;
                }
                Ok(None) => index += 1,
                Err(error) => {
                    debug!(%error, "a process of this guest is gone");
                    active = true;
                    let local = self.locals.locals.remove(index);
                    let lost = self.regions.local_gone(local.id);
                    self.tell_lost(&lost)?;
                    self.settle()?;
                }
            }
        }
        Ok(active)
    }

    fn grant(&mut self, id: LocalId, wish: Wish) -> Result<(), ServiceError> {
        match wish {
            Wish::Sessions => {
                let answer = Answer::Sessions(sessions::infos(&self.sessions));
                self.locals.send(id, &answer, None);
            }
            Wish::Connection => {
                let info = self.connector.as_ref().map(Connector::info);
                self.locals.send(id, &Answer::Connection(info), None);
            }
            Wish::Programs => {
                let answer = Answer::Programs(self.program_infos());
                self.locals.send(id, &answer, None);
            }
            Wish::Screens => {
                let answer = Answer::Screens(self.screens.info());
                self.locals.send(id, &answer, None);
            }
            Wish::Release { force } => {
                let answer = Answer::Released(self.release(force)?);
                self.locals.send(id, &answer, None);
            }
            Wish::Pipe { name } if is_valid_name(&name) => {
                if let Some(local) = self.locals.locals.iter_mut().find(|one| one.id == id) {
                    local.wants = Some(name);
                }
            }
            Wish::Pipe { name } => self.locals.refuse(
                id,
                &format!("{name:?} cannot be a pipe's name"),
                Some("use 1 to 64 letters, digits, dots, dashes and underscores".to_owned()),
            ),
        }
        Ok(())
    }

    /// Gives out the ends of pipes that can be had now.
    pub(super) fn serve_pipes(&mut self) -> Result<(), ServiceError> {
        for index in 0..self.locals.locals.len() {
            let id = self.locals.locals[index].id;
            if let Some(name) = self.locals.locals[index].wants.take()
                && !self.attach(index, &name)?
            {
                self.locals.locals[index].wants = Some(name);
            }
            let owned = self
                .regions
                .iter()
                .find(|region| region.guest_end == Some(id))
                .map(|region| (region.id, region.size, region.description.ready));
            let Some((region, size, true)) = owned else {
                continue;
            };
            if self.locals.locals[index].waits_for.take() == Some(region)
                && let Some(file) = self.files.get(&region)
            {
                self.locals
                    .send(id, &Answer::PipeReady { size }, Some(file.as_fd()));
            }
        }
        Ok(())
    }

    /// Gives the guest's end of a pipe to a process; false when it must be tried again.
    fn attach(&mut self, index: usize, name: &str) -> Result<bool, ServiceError> {
        let id = self.locals.locals[index].id;
        if self.is_being_made(name) {
            return Ok(false);
        }
        let Some(region) = self.regions.find(name).map(|region| region.id) else {
            let origin = Origin::Local(id);
            let created = self.create(name, RegionKind::Pipe, DEFAULT_PIPE_SIZE, origin)?;
            match created {
                // Once it is made it is found, with its end taken by this process.
                Ok(()) => return Ok(false),
                Err(refusal) => self.locals.refuse(id, &refusal.message, None),
            }
            return Ok(true);
        };
        let Some(region) = self.regions.get_mut(region) else {
            return Ok(true);
        };
        let refusal = if region.kind() != RegionKind::Pipe {
            Some(format!(
                "`{name}` is a {} region, not a pipe",
                region.kind().name()
            ))
        } else if region.guest_end.is_some_and(|end| end != id) {
            Some(format!("another process has the guest's end of `{name}`"))
        } else {
            None
        };
        if let Some(message) = refusal {
            let hint = Some("use another name".to_owned());
            self.locals.refuse(id, &message, hint);
            return Ok(true);
        }
        region.guest_end = Some(id);
        self.locals.locals[index].waits_for = Some(region.id);
        Ok(true)
    }

    /// Frees what nobody uses any more; with `force`, also what silent hosts hold.
    pub(super) fn release(&mut self, force: bool) -> Result<ReleaseInfo, ServiceError> {
        use vmshm_link::slot::SlotState;
        self.poll_slots()?;
        let mut info = ReleaseInfo::default();
        for index in 0..self.sessions.len() {
            let session = &self.sessions[index];
            match session.state() {
                SlotState::Free => {}
                SlotState::Granted | SlotState::Proved | SlotState::Orphaned
                    if !session.is_silent() =>
                {
                    info.live += 1;
                }
                SlotState::Proved | SlotState::Orphaned if !force => info.silent.push(index),
                SlotState::Granted | SlotState::Proved | SlotState::Orphaned => {
                    self.end_session(index)?;
                    info.freed.push(index);
                }
            }
        }
        Ok(info)
    }
}
