//! What hosts ask for over their slots. Every number and name in a request is the
//! host's choice: a session may use only regions that it holds.

use vmshm_link::bench::Mode;
use vmshm_link::control::{EndCause, ExtentsReply, RefusalCode, Reply, Request};
use vmshm_link::directory::RegionKind;
use vmshm_link::duplex::DEFAULT_PIPE_SIZE;

use super::bench::Bench;
use super::creation::{Origin, Refusal};
use super::links::{LinkWish, Opened, check_name};
use super::openers::Opener;
use super::presences::has_ends;
use super::regions::{Holder, Region};
use super::service::{Service, ServiceError};

/// What becomes of a request.
#[allow(
    clippy::large_enum_variant,
    reason = "lives for one request on the stack"
)]
pub(super) enum Outcome {
    /// It is answered.
    Answer(Reply),
    /// Its answer comes when the keeper has made a region, or a screen's source has answered.
    Waits,
    /// It is looked at again.
    Later,
    /// It is never answered.
    Silence,
}

pub(super) type Answered = Result<Result<Outcome, Refusal>, ServiceError>;

impl Service {
    /// Answers a request, or remembers that it waits.
    pub(super) fn answer(
        &mut self,
        slot: usize,
        tag: u64,
        request: Option<Request>,
    ) -> Result<Option<Reply>, ServiceError> {
        let Some(request) = request else {
            let refusal = Refusal::new(
                RefusalCode::Unsupported,
                "this agent does not know that request",
            );
            return Ok(Some(refusal.to_reply()));
        };
        let holder = self.sessions[slot].holder();
        let outcome = match &request {
            Request::Create { kind, size, name } => {
                self.create_for_host(holder, tag, name.as_str(), *kind, *size)?
            }
            Request::Open { kind, size, name } => {
                self.open(holder, tag, name.as_str(), *kind, *size)?
            }
            Request::Extents { region, first } => self.extents(holder, *region, *first),
            Request::Proved { region, placement } => self.proved(holder, *region, *placement)?,
            Request::Close { region } => self.close(holder, *region)?,
            Request::Remove { name } => self.remove(name.as_str()),
            Request::Bench { region, mode } => self.bench(holder, *region, *mode)?,
            Request::Link { .. } => match LinkWish::of(&request) {
                Some(wish) => self.link(holder, tag, &wish)?,
                None => Ok(Outcome::Waits),
            },
            Request::Bell { region } => {
                if self.held(holder, *region).is_ok() {
                    self.bell(*region);
                }
                Ok(Outcome::Silence)
            }
            Request::Screen(request) => self.screen_request(holder, tag, request)?,
        };
        Ok(match outcome {
            Ok(Outcome::Answer(reply)) => Some(reply),
            Ok(Outcome::Waits) => {
                self.sessions[slot].waits = true;
                None
            }
            Ok(Outcome::Later) => {
                self.sessions[slot].defer(tag, request);
                None
            }
            Ok(Outcome::Silence) => None,
            Err(refusal) => Some(refusal.to_reply()),
        })
    }

    fn create_for_host(
        &mut self,
        holder: Holder,
        tag: u64,
        name: &str,
        kind: RegionKind,
        size: u64,
    ) -> Answered {
        if let Err(refusal) = check_name(name) {
            return Ok(Err(refusal));
        }
        if matches!(kind, RegionKind::Frames | RegionKind::Pixels) {
            return refused(RefusalCode::WrongKind, "only screens have such regions");
        }
        if kind == RegionKind::Pipe || has_ends(kind) {
            let kind = kind.name();
            let message = format!("a {kind} is made by opening it");
            return refused(RefusalCode::WrongKind, message);
        }
        if self.is_being_made(name) || self.regions.find(name).is_some() {
            return refused(
                RefusalCode::Exists,
                format!("there is a region `{name}` already"),
            );
        }
        let created = self.create(name, kind, size, Origin::Host { holder, tag })?;
        Ok(created.map(|()| Outcome::Waits))
    }

    fn open(
        &mut self,
        holder: Holder,
        tag: u64,
        name: &str,
        kind: RegionKind,
        size: u64,
    ) -> Answered {
        if let Err(refusal) = check_name(name) {
            return Ok(Err(refusal));
        }
        if self.is_being_made(name) {
            return Ok(Ok(Outcome::Later));
        }
        if matches!(kind, RegionKind::Frames | RegionKind::Pixels) {
            return refused(
                RefusalCode::WrongKind,
                "a screen's memory is had by watching the screen",
            );
        }
        let Some(region) = self.regions.find(name) else {
            if kind != RegionKind::Pipe {
                return refused(
                    RefusalCode::NotFound,
                    format!("there is no region `{name}`"),
                );
            }
            let size = if size == 0 { DEFAULT_PIPE_SIZE } else { size };
            let created = self.create(name, kind, size, Origin::Host { holder, tag })?;
            return Ok(created.map(|()| Outcome::Waits));
        };
        if region.kind() != kind {
            let message = format!(
                "`{name}` is a {} region, not a {}",
                region.kind().name(),
                kind.name()
            );
            return refused(RefusalCode::WrongKind, message);
        }
        if kind == RegionKind::Pipe && region.host_end.is_some() {
            return refused(
                RefusalCode::Busy,
                format!("another host process has the host's end of `{name}`"),
            );
        }
        // The pattern that another host looks at must not vanish under a second one.
        let mut others = region.description.holders.iter();
        if !region.description.ready && others.any(|other| *other != holder) {
            return Ok(Ok(Outcome::Later));
        }
        let reply = Self::describe(region);
        let id = region.id;
        if let Some(region) = self.regions.get_mut(id) {
            region.description.holders.insert(holder);
            if kind == RegionKind::Pipe {
                region.host_end = Some(holder);
            }
        }
        answered(reply)
    }

    /// Opens a link for an application, or makes it.
    fn link(&mut self, holder: Holder, tag: u64, wish: &LinkWish) -> Answered {
        let opened = match self.open_link(Opener::Host(holder), wish) {
            Ok(opened) => opened,
            Err(refusal) => return Ok(Err(refusal)),
        };
        match opened {
            Opened::Later => Ok(Ok(Outcome::Later)),
            Opened::Missing => {
                let created = self.create_link(wish, Origin::Host { holder, tag })?;
                Ok(created.map(|()| Outcome::Waits))
            }
            Opened::Held(id) => match self.regions.get(id).map(Self::describe) {
                Some(reply) => answered(reply),
                None => Ok(Ok(Outcome::Later)),
            },
        }
    }

    fn extents(&self, holder: Holder, id: u64, first: u64) -> Result<Outcome, Refusal> {
        let region = self.held(holder, id)?;
        let rest = usize::try_from(first)
            .ok()
            .and_then(|first| region.extents.get(first..))
            .filter(|rest| !rest.is_empty())
            .ok_or_else(|| {
                let count = region.extents.len();
                Refusal::new(
                    RefusalCode::Invalid,
                    format!("the region has {count} extents, not {first}"),
                )
            })?;
        Ok(Outcome::Answer(Reply::Extents(ExtentsReply::new(
            first, rest,
        ))))
    }

    fn proved(&mut self, holder: Holder, id: u64, placement: u64) -> Answered {
        match self.held(holder, id) {
            Err(refusal) => return Ok(Err(refusal)),
            Ok(region) if region.description.ready => {}
            Ok(_) => {
                self.set_pattern(id, false)?;
                if let Some(region) = self.regions.get_mut(id) {
                    region.description.ready = true;
                    region.description.placement = placement;
                }
                self.arrive_all(id);
                self.frames_proved(id)?;
            }
        }
        answered(Reply::Done)
    }

    fn close(&mut self, holder: Holder, id: u64) -> Answered {
        if let Err(refusal) = self.held(holder, id) {
            return Ok(Err(refusal));
        }
        // `Open` and `Create` hold once a session, however often they are asked for; `Link`
        // each time. What is held by both goes with the last link.
        let region = self.regions.get_mut(id);
        let still = region.and_then(|region| region.openers.close(Opener::Host(holder)));
        if still == Some(true) {
            return answered(Reply::Done);
        }
        self.stop_watching(holder, id);
        self.depart_with_session(holder.slot, Some(id), true);
        let lost: Vec<_> = self.regions.let_go(id, holder.slot).into_iter().collect();
        self.tell_lost(&lost)?;
        answered(Reply::Done)
    }

    fn remove(&mut self, name: &str) -> Result<Outcome, Refusal> {
        let id = self
            .regions
            .find(name)
            .map(|region| region.id)
            .ok_or_else(|| {
                Refusal::new(
                    RefusalCode::NotFound,
                    format!("there is no region `{name}`"),
                )
            })?;
        let kind = self.regions.get(id).map(Region::kind);
        if matches!(kind, Some(RegionKind::Frames | RegionKind::Pixels)) {
            return Err(Refusal::new(
                RefusalCode::WrongKind,
                format!("`{name}` goes when nobody watches the screen any more"),
            ));
        }
        self.end_region(id, EndCause::Removed, "a host removed it");
        Ok(Outcome::Answer(Reply::Done))
    }

    fn bench(&mut self, holder: Holder, id: u64, mode: u64) -> Answered {
        let region = match self.held(holder, id) {
            Ok(region) => region,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if region.kind() != RegionKind::Bench || !region.description.ready {
            return refused(
                RefusalCode::WrongKind,
                "that is no bench region that is ready",
            );
        }
        let Some(mode) = Mode::from_word(mode) else {
            return refused(
                RefusalCode::Unsupported,
                format!("this agent knows no bench mode {mode}"),
            );
        };
        // The one before ends first: they would share the region's words.
        self.benches.remove(&id);
        if let Some(memory) = self.map(id)? {
            self.benches.insert(id, Bench::start(memory, mode)?);
            if let Some(region) = self.regions.get_mut(id) {
                region.in_use = true;
            }
        }
        answered(Reply::Done)
    }

    /// A region, if the session holds it.
    fn held(&self, holder: Holder, id: u64) -> Result<&Region, Refusal> {
        self.regions
            .get(id)
            .filter(|region| region.description.holders.contains(&holder))
            .ok_or_else(|| {
                Refusal::new(
                    RefusalCode::NotFound,
                    format!("this session holds no region {id}"),
                )
            })
    }
}

pub(super) fn answered(reply: Reply) -> Answered {
    Ok(Ok(Outcome::Answer(reply)))
}

pub(super) fn refused(code: RefusalCode, message: impl Into<String>) -> Answered {
    Ok(Err(Refusal::new(code, message)))
}
