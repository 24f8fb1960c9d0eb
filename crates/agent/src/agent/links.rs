//! Links and raw memory: who may open which, the same for hosts and programs of the
//! guest, and how a region ends. What the two sides differ in stands in `requests` and
//! `program_requests`.

use tracing::warn;
use vmshm_link::control::{EndCause, RefusalCode, Reply, Request, Role};
use vmshm_link::directory::{RegionKind, is_valid_name, slot_offset};
use vmshm_link::duplex::Side;
use vmshm_link::fields::Text;
use vmshm_link::fixed_ring::FixedRingLayout;
use vmshm_link::latest::LatestLayout;
use vmshm_link::ring::RingLayout;
use vmshm_link::slot::SlotView;

use super::creation::Refusal;
use super::openers::{Conflict, Opener, ProgramId};
use super::presences::has_ends;
use super::regions::{Holder, Region};
use super::service::{Service, ServiceError};

/// What programs are told of a damaged region.
const DAMAGED: &str =
    "a program that holds its file has taken pages out of it: guest and host do not see the same";

/// What an opener wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkWish {
    /// The region's name.
    pub name: String,
    /// The kind that is expected.
    pub kind: RegionKind,
    /// Size for a region that is made; zero: it must exist.
    pub size: u64,
    /// What a record or value has in bytes.
    pub record: u64,
    /// What the opener will do.
    pub role: Role,
}

impl LinkWish {
    /// The wish in a request, if it is one for a link.
    pub(crate) fn of(request: &Request) -> Option<Self> {
        match request {
            Request::Link {
                kind,
                size,
                name,
                record,
                role,
            } => Some(Self {
                name: name.as_str().to_owned(),
                kind: *kind,
                size: *size,
                record: *record,
                role: *role,
            }),
            _ => None,
        }
    }
}

/// What becomes of a wish that is not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opened {
    /// The region is held now.
    Held(u64),
    /// The name is not to be had at the moment.
    Later,
    /// There is none; it shall be made.
    Missing,
}

impl Service {
    /// Opens a link, if it is there.
    pub(super) fn open_link(&mut self, opener: Opener, wish: &LinkWish) -> Result<Opened, Refusal> {
        check_wish(wish)?;
        let LinkWish { name, kind, .. } = wish;
        if self.is_being_made(name) {
            return Ok(Opened::Later);
        }
        let Some(region) = self.regions.find(name) else {
            return if wish.size == 0 {
                Err(Refusal::new(
                    RefusalCode::NotFound,
                    format!("there is no region `{name}`"),
                ))
            } else {
                Ok(Opened::Missing)
            };
        };
        if (region.kind(), region.description.record) != (*kind, wish.record) {
            let there = describe(region.kind(), region.description.record);
            let wanted = describe(*kind, wish.record);
            return Err(Refusal::new(
                RefusalCode::WrongKind,
                format!("`{name}` is {there}, not {wanted}"),
            ));
        }
        if let Some(conflict) = region.openers.conflict(*kind, opener, wish.role) {
            let message = self.explain(conflict, wish.role, name);
            return Err(Refusal::new(RefusalCode::Busy, message));
        }
        // The pattern that one handle looks at must not vanish under a second one, also not
        // under one of the same session. The prover may never end: nobody is kept waiting.
        let is_host = opener.side() == Side::Host;
        let prover = region.description.holders.first();
        if let Some(prover) = prover.filter(|_| is_host && !region.description.ready) {
            let who = self.host_process(*prover);
            return Err(Refusal::new(
                RefusalCode::Proving,
                format!("{who} is still proving the pages of `{name}`"),
            ));
        }
        let id = region.id;
        if let Some(region) = self.regions.get_mut(id) {
            take(region, opener, wish.role);
        }
        if wish.role == Role::End {
            self.arrive(id, opener.side());
        }
        Ok(Opened::Held(id))
    }

    /// A program lets go of a region once; false where it does not have it open.
    pub(super) fn close_for_program(&mut self, program: ProgramId, id: u64) -> bool {
        let opener = Opener::Program(program);
        let Some(region) = self.regions.get_mut(id) else {
            return false;
        };
        let role = region.openers.role(opener);
        match region.openers.close(opener) {
            None => return false,
            Some(true) => return true,
            Some(false) => region.give_up_if_unproved(),
        }
        if role == Some(Role::End) {
            self.depart(id, opener.side(), true);
        }
        true
    }

    /// A program of this guest is gone, whatever it had open.
    pub(super) fn forget_program(&mut self, program: ProgramId) {
        let opener = Opener::Program(program);
        let open: Vec<(u64, Option<Role>)> = self
            .regions
            .iter()
            .map(|region| (region.id, region.openers.role(opener)))
            .filter(|(_, role)| role.is_some())
            .collect();
        for (id, role) in open {
            if role == Some(Role::End) {
                self.depart(id, opener.side(), false);
            }
            if let Some(region) = self.regions.get_mut(id) {
                region.openers.forget(opener);
                region.give_up_if_unproved();
            }
        }
    }

    /// A session is about to lose what it holds: says so where it has a link's end.
    pub(super) fn depart_with_session(&mut self, slot: usize, id: Option<u64>, in_order: bool) {
        let ends: Vec<u64> = self
            .regions
            .iter()
            .filter(|region| id.is_none_or(|id| region.id == id))
            .filter(|region| {
                let end = region.description.host_end;
                end.is_some_and(|holder| holder.slot == slot)
            })
            .map(|region| region.id)
            .collect();
        for id in ends {
            self.depart(id, Side::Host, in_order);
        }
    }

    /// A region is over although its holders are there: nobody finds it any more, its
    /// holders learn why, and its memory goes when they let go.
    pub(super) fn end_region(&mut self, id: u64, cause: EndCause, message: &str) {
        let Some(region) = self.regions.get_mut(id) else {
            return;
        };
        // What is removed can still be damaged, and is of no use to anybody then.
        let before = region.ended();
        if before == Some(cause) || before == Some(EndCause::Damaged) {
            return;
        }
        region.end(cause);
        let programs: Vec<_> = region.openers.programs().collect();
        let refusal = Refusal::new(
            RefusalCode::NotFound,
            format!("region `{}` is over: {message}", region.description.name),
        );
        let ended = Reply::Ended {
            region: id,
            cause,
            explanation: Text::new(message),
        };
        for program in programs {
            let waited = self.programs.refuse_waiting(program, id, &refusal);
            if !waited {
                self.programs.send(program, 0, &ended, None);
            }
            // Of a damaged region they have nothing left, and must not keep its RAM.
            if (waited || cause == EndCause::Damaged)
                && let Some(region) = self.regions.get_mut(id)
            {
                region.openers.forget(Opener::Program(program));
            }
        }
    }

    /// The pages of one memory have moved although it was pinned. Of a region, because a
    /// holder has taken pages out of its file; it may be on its way back already.
    pub(super) fn moved(&mut self, id: u64, message: &str) -> Result<(), ServiceError> {
        if self.foundations.contains(&id) {
            return Err(ServiceError::Moved(message.to_owned()));
        }
        warn!(region = id, "{message}");
        // Where pages lie is not for programs to know.
        self.end_region(id, EndCause::Damaged, DAMAGED);
        self.settle()
    }

    /// In words, why somebody does not get an end.
    fn explain(&self, conflict: Conflict, role: Role, name: &str) -> String {
        match conflict {
            Conflict::Taken(Opener::Host(holder)) => {
                let who = self.host_process(holder);
                format!("{who} has the host's end of `{name}`")
            }
            Conflict::Taken(Opener::Program(program)) => {
                let who = self.programs.name(program);
                format!("{who} has the guest's end of `{name}`")
            }
            Conflict::Own(Role::End) if role == Role::End => {
                format!("this connection has the end of `{name}` open already")
            }
            Conflict::Own(Role::End) => format!(
                "this connection has the end of `{name}`: watch it through another one (a second `Vm` or `Agent`)"
            ),
            Conflict::Own(Role::Watch) => format!(
                "this connection watches `{name}`: open its end through another one (a second `Vm` or `Agent`)"
            ),
        }
    }

    /// The process that has a session, as it called itself.
    fn host_process(&self, holder: Holder) -> String {
        let view = SlotView::read(&**self.announcement.directory(), slot_offset(holder.slot));
        let owner = view.ok().and_then(|view| view.owner);
        owner.map_or_else(
            || "another host process".to_owned(),
            |owner| format!("host process {}", owner.pid),
        )
    }
}

/// Notes that `opener` has a region open.
pub(super) fn take(region: &mut Region, opener: Opener, role: Role) {
    region.openers.open(opener, role);
    if let Opener::Host(holder) = opener {
        region.description.holders.insert(holder);
        if role == Role::End && has_ends(region.kind()) {
            region.description.host_end = Some(holder);
        }
    }
}

/// What can be said without looking at any region.
fn check_wish(wish: &LinkWish) -> Result<(), Refusal> {
    check_name(&wish.name)?;
    let has_record = wish.record != 0;
    let (fits, what) = match wish.kind {
        RegionKind::Ring => (true, ""),
        RegionKind::Latest => (has_record, "the longest value is missing"),
        RegionKind::Raw | RegionKind::Stream => (!has_record, "this kind has no records"),
        RegionKind::Pipe | RegionKind::Bench | RegionKind::Frames | RegionKind::Pixels => {
            let kind = wish.kind.name();
            return Err(Refusal::new(
                RefusalCode::WrongKind,
                format!("a {kind} is no link: rings, latests, streams and raw memory are"),
            ));
        }
        RegionKind::Unknown(word) => return Err(unknown_kind(word)),
    };
    if fits {
        Ok(())
    } else {
        Err(Refusal::new(RefusalCode::Invalid, what))
    }
}

/// Whether a link of this kind and record fits into `size` bytes.
pub(super) fn check_layout(kind: RegionKind, size: u64, record: u64) -> Result<(), Refusal> {
    if kind == RegionKind::Raw {
        return Ok(());
    }
    for side in [Side::Host, Side::Guest] {
        let layout = match (kind, record) {
            (RegionKind::Latest, _) => LatestLayout::in_region(size, record, side).map(drop),
            (RegionKind::Ring, 1..) => FixedRingLayout::in_region(size, record, side).map(drop),
            _ => RingLayout::in_region(size, side).map(drop),
        };
        layout.map_err(|error| {
            let what = describe(kind, record);
            Refusal::new(RefusalCode::Invalid, format!("{what}: {error}"))
        })?;
    }
    Ok(())
}

/// That a kind is of a newer agent.
pub(super) fn unknown_kind(word: u64) -> Refusal {
    Refusal::new(
        RefusalCode::Unsupported,
        format!("this agent knows no regions of kind {word}"),
    )
}

/// Whether a region can be called so.
pub(super) fn check_name(name: &str) -> Result<(), Refusal> {
    if is_valid_name(name) {
        Ok(())
    } else {
        Err(Refusal::new(
            RefusalCode::Invalid,
            "a region's name is 1 to 64 letters, digits, dots, dashes and underscores",
        ))
    }
}

/// A kind with its record, for people.
fn describe(kind: RegionKind, record: u64) -> String {
    match (kind, record) {
        (RegionKind::Ring, 0) => "a ring of bytes".to_owned(),
        (RegionKind::Ring, _) => format!("a ring of {record}-byte records"),
        (RegionKind::Latest, _) => format!("a latest of values of up to {record} bytes"),
        (RegionKind::Raw, _) => "raw memory".to_owned(),
        (kind, _) => format!("a {}", kind.name()),
    }
}
