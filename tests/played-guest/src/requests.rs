//! What hosts ask the played agent for: the answers of the real one to all that is right, and refusals for the rest.

use vmshm_link::bench::Mode;
use vmshm_link::control::{EndCause, ExtentsReply, RefusalCode, Reply, Request, Role};
use vmshm_link::directory::RegionKind;
use vmshm_link::duplex::DEFAULT_PIPE_SIZE;
use vmshm_link::fields::Text;
use vmshm_link::proof;

use crate::bench::Bench;
use crate::guest::Guest;
use crate::ram::GuestMemory;
use crate::regions::Region;

/// A refusal.
pub(crate) fn refusal(code: RefusalCode) -> Reply {
    Reply::Refused {
        code,
        explanation: Text::new("the player will not"),
    }
}

impl<M: GuestMemory> Guest<M> {
    /// Answers what is not about screens.
    pub(crate) fn answer(&mut self, slot: usize, request: &Request) -> Reply {
        match request {
            Request::Create { kind, size, name } => self.create(slot, *kind, *size, name.as_str()),
            Request::Open { kind, size, name } => self.open(slot, *kind, *size, name.as_str()),
            Request::Extents { region, first } => self.extents(slot, *region, *first),
            Request::Proved { region, placement } => self.proved(*region, *placement),
            Request::Close { region } => self.close(slot, *region),
            Request::Remove { name } => self.mark(name.as_str(), EndCause::Removed),
            Request::Bench { region, mode } => self.bench(slot, *region, *mode),
            request => self.link(slot, request),
        }
    }

    fn create(&mut self, slot: usize, kind: RegionKind, size: u64, name: &str) -> Reply {
        if !matches!(kind, RegionKind::Raw | RegionKind::Bench) {
            return refusal(RefusalCode::WrongKind);
        }
        if self.find(name).is_some() {
            return refusal(RefusalCode::Exists);
        }
        if !self.has_room(size) {
            return refusal(RefusalCode::OverBudget);
        }
        self.make(name, kind, size, 0);
        self.hold_last(slot, Role::Watch)
    }

    fn open(&mut self, slot: usize, kind: RegionKind, size: u64, name: &str) -> Reply {
        let Some(index) = self.find(name) else {
            if kind != RegionKind::Pipe {
                return refusal(RefusalCode::NotFound);
            }
            let size = if size == 0 { DEFAULT_PIPE_SIZE } else { size };
            if !self.has_room(size) {
                return refusal(RefusalCode::OverBudget);
            }
            self.make(name, kind, size, 0);
            return self.hold_last(slot, Role::End);
        };
        let region = &mut self.regions[index];
        if region.kind != kind {
            return refusal(RefusalCode::WrongKind);
        }
        let mut others = region.holders.iter().filter(|(holder, _)| *holder != slot);
        if others.next().is_some() && kind == RegionKind::Pipe {
            return refusal(RefusalCode::Busy);
        }
        if !region.ready && !region.holders.is_empty() {
            return refusal(RefusalCode::Proving);
        }
        let role = if kind == RegionKind::Pipe {
            Role::End
        } else {
            Role::Watch
        };
        region.holders.push((slot, role));
        region.reply()
    }

    fn hold_last(&mut self, slot: usize, role: Role) -> Reply {
        let region = self.regions.last_mut().expect("just made");
        region.holders.push((slot, role));
        region.reply()
    }

    fn link(&mut self, slot: usize, request: &Request) -> Reply {
        let Request::Link {
            kind,
            size,
            name,
            record,
            role,
        } = request
        else {
            return refusal(RefusalCode::Unsupported);
        };
        if self.find(name.as_str()).is_none() {
            if *size == 0 {
                return refusal(RefusalCode::NotFound);
            }
            self.make(name.as_str(), *kind, *size, *record);
        }
        let Some(index) = self.find(name.as_str()) else {
            return refusal(RefusalCode::NotFound);
        };
        let region = &mut self.regions[index];
        if region.kind != *kind {
            return refusal(RefusalCode::WrongKind);
        }
        let conflicts = |holder: &(usize, Role)| match (*holder, *role) {
            ((_, Role::End), Role::End) => true,
            ((holder, held), wanted) => holder == slot && held != wanted,
        };
        if *kind != RegionKind::Raw && region.holders.iter().any(conflicts) {
            return refusal(RefusalCode::Busy);
        }
        if !region.ready && !region.holders.is_empty() {
            return refusal(RefusalCode::Proving);
        }
        region.holders.push((slot, *role));
        region.reply()
    }

    /// One at a time, as if there were very many.
    fn extents(&self, slot: usize, id: u64, first: u64) -> Reply {
        let held = |region: &&Region| region.id == id && region.is_held_by(slot);
        let region = self.regions.iter().find(held);
        let one = region.and_then(|region| region.extents.get(usize::try_from(first).ok()?));
        match one {
            Some(extent) => Reply::Extents(ExtentsReply::new(first, &[*extent])),
            None => refusal(RefusalCode::NotFound),
        }
    }

    fn proved(&mut self, id: u64, placement: u64) -> Reply {
        let Some(index) = self.regions.iter().position(|region| region.id == id) else {
            return refusal(RefusalCode::NotFound);
        };
        let memory = self.memory(&self.regions[index]);
        proof::clear_pattern(&memory).expect("written");
        self.regions[index].ready = true;
        self.regions[index].placement = placement;
        self.lay_out_frames(id);
        Reply::Done
    }

    fn close(&mut self, slot: usize, id: u64) -> Reply {
        let held = |region: &&mut Region| region.id == id && region.is_held_by(slot);
        if let Some(region) = self.regions.iter_mut().find(held) {
            let held = |(holder, _): &(usize, Role)| *holder == slot;
            let first = region.holders.iter().position(held).expect("held");
            region.holders.remove(first);
            if region.kind == RegionKind::Pipe {
                // A pipe goes with its end; what the guest's end still does it does there.
                self.regions.retain(|region| region.id != id);
            }
        }
        self.benches.retain(|(region, _)| *region != id);
        Reply::Done
    }

    fn bench(&mut self, slot: usize, id: u64, mode: u64) -> Reply {
        let held = |region: &&Region| region.id == id && region.is_held_by(slot);
        let Some(region) = self.regions.iter().find(held) else {
            return refusal(RefusalCode::NotFound);
        };
        let memory = self.memory(region);
        let Some(mode) = Mode::from_word(mode).filter(|_| region.kind == RegionKind::Bench) else {
            return refusal(RefusalCode::Unsupported);
        };
        // The one before has ended, or ends now.
        self.benches.retain(|(region, _)| *region != id);
        self.benches.push((id, Bench::start(memory, mode)));
        Reply::Done
    }
}
