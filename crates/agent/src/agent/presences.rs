//! What the first page of a link says of its ends, and saying it.
//!
//! The agent keeps its own copy, and never believes the page, which others can write: it
//! reads the page only when it takes over from an earlier agent. Before a region is ready
//! its pages carry the pattern, and after it is damaged they are not what the host sees:
//! then nothing is written.

use vmshm_link::LinkError;
use vmshm_link::control::{EndCause, Role};
use vmshm_link::directory::RegionKind;
use vmshm_link::duplex::Side;
use vmshm_link::ends::{Presence, PresenceState};
use vmshm_shm::{PAGE_SIZE, Protection, SharedMemory};

use tracing::warn;

use super::openers::Opener;
use super::service::{Service, ServiceError};
use crate::window::Window;

/// Both ends of one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Presences {
    host: Presence,
    guest: Presence,
}

impl Default for Presences {
    fn default() -> Self {
        Self {
            host: Presence::NOBODY,
            guest: Presence::NOBODY,
        }
    }
}

impl Presences {
    /// As they stand in memory.
    fn read<M: SharedMemory>(memory: &M) -> Result<Self, LinkError> {
        Ok(Self {
            host: Presence::read(memory, Side::Host)?,
            guest: Presence::read(memory, Side::Guest)?,
        })
    }

    const fn of(&mut self, side: Side) -> &mut Presence {
        match side {
            Side::Host => &mut self.host,
            Side::Guest => &mut self.guest,
        }
    }
}

/// Whether a region of this kind has ends.
pub(crate) const fn has_ends(kind: RegionKind) -> bool {
    matches!(
        kind,
        RegionKind::Ring | RegionKind::Latest | RegionKind::Stream
    )
}

impl Service {
    /// Somebody has taken a side's end.
    pub(super) fn arrive(&mut self, id: u64, side: Side) {
        self.say(id, side, |presence| Some(presence.arrival()));
    }

    /// Whoever had a side's end is gone, in good order or not.
    pub(super) fn depart(&mut self, id: u64, side: Side, in_order: bool) {
        self.say(id, side, |presence| {
            (presence.state == PresenceState::Present).then(|| presence.departure(in_order))
        });
    }

    /// The pages are ready: the ends that were given out before are there.
    pub(super) fn arrive_all(&mut self, id: u64) {
        for side in [Side::Host, Side::Guest] {
            let region = self.regions.get(id);
            if region.is_some_and(|region| region.openers.end(side).is_some()) {
                self.arrive(id, side);
            }
        }
    }

    fn say(&mut self, id: u64, side: Side, next: impl FnOnce(Presence) -> Option<Presence>) {
        let Some(region) = self.regions.get_mut(id) else {
            return;
        };
        let is_said = has_ends(region.kind())
            && region.description.ready
            && region.ended() != Some(EndCause::Damaged);
        if !is_said {
            return;
        }
        let place = region.presences.of(side);
        let Some(next) = next(*place) else {
            return;
        };
        *place = next;
        let said = self.first_page(id).map(|page| match page {
            Some(page) => next.write(&page, side),
            None => Ok(()),
        });
        match said {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(region = id, %error, "an end's presence is not told"),
            Err(error) => warn!(region = id, %error, "an end's presence is not told"),
        }
    }

    /// A region's first page.
    fn first_page(&self, id: u64) -> Result<Option<Window>, ServiceError> {
        match self.files.get(&id) {
            Some(file) => Ok(Some(Window::open(
                file,
                0,
                PAGE_SIZE,
                Protection::ReadWrite,
            )?)),
            None => Ok(None),
        }
    }

    /// Takes over what an earlier agent has said of a link's ends. Its programs are gone,
    /// and so are hosts whose sessions have ended; a host that may still write has its
    /// end until it lets go.
    pub(super) fn resume_presences(&mut self, id: u64) -> Result<(), ServiceError> {
        let Some(page) = self.first_page(id)? else {
            return Ok(());
        };
        let Some(region) = self.regions.get_mut(id) else {
            return Ok(());
        };
        if !has_ends(region.kind()) || !region.description.ready {
            return Ok(());
        }
        region.presences = Presences::read(&page)?;
        if let Some(holder) = region.description.host_end {
            region.openers.open(Opener::Host(holder), Role::End);
        } else {
            self.depart(id, Side::Host, false);
        }
        self.depart(id, Side::Guest, false);
        Ok(())
    }
}
