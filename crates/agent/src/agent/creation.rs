//! Making regions: the budget, the keeper's allocation, the pattern, and the answer
//! to whoever asked, a host, a command of this guest or a program of it. The keeper takes its time for a large region; the agent goes on
//! serving meanwhile.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use tracing::info;
use vmshm_link::control::{RefusalCode, RegionReply, Reply, Role};
use vmshm_link::directory::RegionKind;
use vmshm_link::duplex;
use vmshm_link::fields::Text;
use vmshm_shm::PAGE_SIZE;

use super::links::{LinkWish, check_layout, take, unknown_kind};
use super::openers::{Opener, Openers, ProgramId};
use super::pattern;
use super::presences::Presences;
use super::regions::{Description, Holder, LocalId, Region};
use super::screens::ScreenMemory;
use super::service::{Service, ServiceError};
use crate::facts;
use crate::keeper::protocol::{Allocation, Request};
use crate::size::show;

/// The largest region in bytes: what the wire can say.
const SIZE_LIMIT: u64 = 1 << 46;

/// A region to be made.
#[derive(Debug, Clone)]
pub(crate) struct Creation {
    /// Its name.
    pub name: String,
    /// What it is laid out for.
    pub kind: RegionKind,
    /// Its size in bytes, whole pages.
    pub size: u64,
    /// For a link, and for raw memory that is opened like one: the record in bytes and
    /// what who asked will do there.
    pub link: Option<(u64, Role)>,
    /// The device whose own memory it is.
    pub device: Option<String>,
    /// Who asked.
    pub origin: Origin,
}

/// Who asked for a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A host, by the request of this tag.
    Host {
        /// Its session.
        holder: Holder,
        /// The request.
        tag: u64,
    },
    /// A process of this guest.
    Local(LocalId),
    /// A program of this guest, by the request of this tag.
    Program {
        /// Its connection.
        program: ProgramId,
        /// The request.
        tag: u64,
    },
    /// A screen.
    Screen(ScreenMemory),
}

impl Origin {
    /// Who has the region open once it is made.
    const fn opener(self) -> Option<Opener> {
        match self {
            Self::Host { holder, .. } => Some(Opener::Host(holder)),
            Self::Program { program, .. } => Some(Opener::Program(program)),
            Self::Local(_) | Self::Screen(_) => None,
        }
    }
}

/// Why a region is not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The kind of reason.
    pub code: RefusalCode,
    /// The reason.
    pub message: String,
}

impl Refusal {
    /// A reason in words.
    pub(crate) fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// As hosts get it.
    pub(crate) fn to_reply(&self) -> Reply {
        Reply::Refused {
            code: self.code,
            explanation: Text::new(&self.message),
        }
    }
}

impl Service {
    /// Whether a region of this name is being made.
    pub(super) fn is_being_made(&self, name: &str) -> bool {
        self.creations.iter().any(|one| one.name == name)
    }

    /// Starts making a region whose name is known to be free.
    pub(super) fn create(
        &mut self,
        name: &str,
        kind: RegionKind,
        size: u64,
        origin: Origin,
    ) -> Result<Result<(), Refusal>, ServiceError> {
        let size = match self.check_creation(kind, size, 0, origin) {
            Ok(size) => size,
            Err(refusal) => return Ok(Err(refusal)),
        };
        self.enqueue(Creation {
            name: name.to_owned(),
            kind,
            size,
            link: None,
            device: None,
            origin,
        })?;
        Ok(Ok(()))
    }

    /// Starts making the memory of a screen's pictures, of pinned pages or of a device's own,
    /// which cost nothing.
    pub(super) fn create_pixels(
        &mut self,
        name: &str,
        size: u64,
        device: Option<String>,
        origin: Origin,
    ) -> Result<Result<(), Refusal>, ServiceError> {
        let kind = RegionKind::Pixels;
        let checked = match &device {
            Some(_) => self.check_size(size).and_then(|size| {
                self.check_room(0)?;
                Ok(size)
            }),
            None => self.check_creation(kind, size, 0, origin),
        };
        let size = match checked {
            Ok(size) => size,
            Err(refusal) => return Ok(Err(refusal)),
        };
        self.enqueue(Creation {
            name: name.to_owned(),
            kind,
            size,
            link: None,
            device,
            origin,
        })?;
        Ok(Ok(()))
    }

    /// Starts making the region of a link whose name is known to be free.
    pub(super) fn create_link(
        &mut self,
        wish: &LinkWish,
        origin: Origin,
    ) -> Result<Result<(), Refusal>, ServiceError> {
        let size = match self.check_creation(wish.kind, wish.size, wish.record, origin) {
            Ok(size) => size,
            Err(refusal) => return Ok(Err(refusal)),
        };
        self.enqueue(Creation {
            name: wish.name.clone(),
            kind: wish.kind,
            size,
            link: Some((wish.record, wish.role)),
            device: None,
            origin,
        })?;
        Ok(Ok(()))
    }

    fn enqueue(&mut self, creation: Creation) -> Result<(), ServiceError> {
        self.creations.push_back(creation);
        if self.creations.len() == 1 {
            self.ask_keeper()?;
        }
        Ok(())
    }

    /// The size in whole pages.
    fn check_creation(
        &self,
        kind: RegionKind,
        size: u64,
        record: u64,
        origin: Origin,
    ) -> Result<u64, Refusal> {
        let invalid = |message: String| Refusal::new(RefusalCode::Invalid, message);
        let whole = self.check_size(size)?;
        match kind {
            RegionKind::Raw | RegionKind::Ring | RegionKind::Latest | RegionKind::Stream => {
                check_layout(kind, whole, record)?;
            }
            RegionKind::Pipe | RegionKind::Bench => {
                duplex::rings(whole).map_err(|error| invalid(error.to_string()))?;
            }
            // Only this agent's own screens have them, in sizes of their own.
            RegionKind::Frames | RegionKind::Pixels => {}
            RegionKind::Unknown(word) => return Err(unknown_kind(word)),
        }
        let pinned = self.creations.iter().filter(|one| one.device.is_none());
        let promised = pinned.map(|one| self.cost(one.size));
        let budget = self.budget();
        let pinned = promised.fold(budget.pinned, u64::saturating_add);
        let cost = self.cost(whole);
        if pinned.saturating_add(cost) > budget.limit {
            return Err(Refusal::new(
                RefusalCode::OverBudget,
                format!(
                    "{} more would have to be pinned, but {} of the {} that this guest allows (vmshm-agent run --max-pinned) are pinned already",
                    show(cost),
                    show(pinned),
                    show(budget.limit)
                ),
            ));
        }
        let kept_back = match origin {
            Origin::Program { program, .. } => self.places_kept_from(program),
            Origin::Host { .. } | Origin::Local(_) | Origin::Screen(_) => 0,
        };
        self.check_room(kept_back)?;
        Ok(whole)
    }

    #[allow(clippy::unused_self, reason = "one of several checks")]
    fn check_size(&self, size: u64) -> Result<u64, Refusal> {
        size.checked_next_multiple_of(PAGE_SIZE)
            .filter(|whole| (PAGE_SIZE..=SIZE_LIMIT).contains(whole))
            .ok_or_else(|| {
                let message = format!("a region cannot be {size} bytes long");
                Refusal::new(RefusalCode::Invalid, message)
            })
    }

    fn check_room(&self, kept_back: usize) -> Result<(), Refusal> {
        if !self.regions.has_room(self.creations.len() + kept_back) {
            return Err(Refusal::new(
                RefusalCode::OverBudget,
                "the guest's table of regions is full",
            ));
        }
        Ok(())
    }

    fn cost(&self, size: u64) -> u64 {
        size.checked_next_multiple_of(self.unit).unwrap_or(u64::MAX)
    }

    fn ask_keeper(&mut self) -> Result<(), ServiceError> {
        if let Some(next) = self.creations.front() {
            let (name, size) = (next.name.clone(), next.size);
            let request = match next.device.clone() {
                None => Request::Allocate { name, size },
                Some(path) => Request::AllocateDevice { name, path, size },
            };
            self.client.send(&request)?;
        }
        Ok(())
    }

    /// The keeper has made the memory of the first region in the queue.
    pub(super) fn created(
        &mut self,
        allocation: Allocation,
        file: OwnedFd,
    ) -> Result<(), ServiceError> {
        let Some(creation) = self.creations.pop_front() else {
            return Ok(self.client.send(&Request::Free { id: allocation.id })?);
        };
        self.ask_keeper()?;
        let id = allocation.id;
        let wanted = match creation.origin {
            Origin::Host { holder, .. } => {
                self.sessions[holder.slot].holder() == holder && self.sessions[holder.slot].waits
            }
            Origin::Local(local) => self.locals.is_there(local),
            Origin::Screen(memory) => self.wants_screen_memory(memory)?,
            Origin::Program { program, tag } => {
                let waiting = self.programs.waiting(program, tag, &creation.name);
                waiting.is_some_and(|waiting| {
                    waiting.region = Some(id);
                    true
                })
            }
        };
        if !wanted {
            return Ok(self.client.send(&Request::Free { id })?);
        }
        let key = facts::random_word()?;
        let origin = creation.origin;
        let mut region = Region {
            id,
            size: creation.size,
            cost: allocation.cost,
            extents: allocation.extents(),
            description: Description {
                name: creation.name,
                kind: creation.kind.to_word(),
                key,
                ready: false,
                placement: 0,
                listed: true,
                holders: BTreeSet::new(),
                record: creation.link.map_or(0, |(record, _)| record),
                ended: None,
                host_end: None,
            },
            host_end: None,
            guest_end: None,
            openers: Openers::default(),
            presences: Presences::default(),
            entry: None,
            in_use: false,
        };
        match creation.origin {
            Origin::Host { holder, .. } => {
                region.description.holders.insert(holder);
                region.host_end = Some(holder).filter(|_| creation.kind == RegionKind::Pipe);
            }
            Origin::Local(local) => region.guest_end = Some(local),
            Origin::Program { .. } => {}
            Origin::Screen(memory) => {
                region.description.ready = memory.needs_no_proof();
                region.description.holders.extend(memory.holder());
            }
        }
        if let (Some(opener), Some((_, role))) = (creation.origin.opener(), creation.link) {
            take(&mut region, opener, role);
        }
        info!(
            name = region.description.name,
            size = region.size,
            extents = region.extents.len(),
            "a region is made"
        );
        let reply = Self::describe(&region);
        let is_ready = region.description.ready;
        self.regions.insert(region);
        self.files.insert(id, file);
        if !is_ready {
            self.set_pattern(id, true)?;
        }
        self.settle()?;
        if let Origin::Screen(memory) = origin {
            self.take_screen_memory(memory, id);
        }
        if let Origin::Host { holder, tag } = creation.origin {
            let session = &mut self.sessions[holder.slot];
            if let Err(error) = session.reply(reply.to_message(tag)) {
                session.set_broken(error);
            }
        }
        Ok(())
    }

    /// The keeper could not make the memory of the first region in the queue.
    pub(super) fn not_created(
        &mut self,
        message: &str,
        hint: Option<String>,
    ) -> Result<(), ServiceError> {
        let Some(creation) = self.creations.pop_front() else {
            return Ok(());
        };
        self.ask_keeper()?;
        match creation.origin {
            Origin::Host { holder, tag } => {
                let session = &mut self.sessions[holder.slot];
                if session.holder() == holder && session.waits {
                    let refusal = cannot_pin(message, hint).to_reply();
                    if let Err(error) = session.reply(refusal.to_message(tag)) {
                        session.set_broken(error);
                    }
                }
            }
            Origin::Local(local) => self.locals.refuse(local, message, hint),
            Origin::Screen(memory) => {
                self.refuse_screen_memory(memory, &cannot_pin(message, hint))?;
            }
            Origin::Program { program, tag } => {
                let refusal = cannot_pin(message, hint);
                self.programs.refuse(program, tag, &creation.name, &refusal);
            }
        }
        Ok(())
    }

    /// Puts the pattern into a region's pages, or removes it.
    pub(super) fn set_pattern(&mut self, id: u64, present: bool) -> Result<(), ServiceError> {
        let (Some(region), Some(file)) = (self.regions.get(id), self.files.get(&id)) else {
            return Ok(());
        };
        let announcement = &mut self.announcement;
        let mut beat = || announcement.beat();
        if present {
            let key = region.description.key;
            pattern::write(file, region.size, key, id, &mut beat)?;
        } else {
            pattern::clear(file, region.size, &mut beat)?;
        }
        Ok(())
    }

    /// A region as the answer to who made or opened it.
    pub(super) fn describe(region: &Region) -> Reply {
        Reply::Region(RegionReply {
            region: region.id,
            size: region.size,
            extents: region.extents.len() as u64,
            ready: region.description.ready,
            key: region.description.key,
            placement: region.description.placement,
        })
    }
}

/// What the keeper said, with what helps.
fn cannot_pin(message: &str, hint: Option<String>) -> Refusal {
    let text = match hint {
        Some(hint) => format!("{message} ({hint})"),
        None => message.to_owned(),
    };
    Refusal::new(RefusalCode::CannotPin, text)
}
