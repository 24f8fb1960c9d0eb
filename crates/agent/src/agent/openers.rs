//! Who has a link or raw memory open, and as what. It touches no memory and talks to
//! nobody.
//!
//! Of a ring, a latest or a stream each side has one end, which one opener has; any number
//! may watch. Raw memory has no ends.
//!
//! Hosts' sessions and programs let go as often as they have opened. Nobody watches beside
//! an end of its own: which of both it let go of would not be clear.

use std::collections::BTreeMap;

use vmshm_link::control::Role;
use vmshm_link::directory::RegionKind;
use vmshm_link::duplex::Side;

use super::regions::Holder;

/// A program of this guest that is connected to the agent; never used twice.
pub(crate) type ProgramId = u64;

/// Who opens a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Opener {
    /// A host's session.
    Host(Holder),
    /// A program of this guest.
    Program(ProgramId),
}

impl Opener {
    /// On which side it is.
    pub(crate) const fn side(self) -> Side {
        match self {
            Self::Host(_) => Side::Host,
            Self::Program(_) => Side::Guest,
        }
    }
}

/// Why an opener does not get what it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// Another has this side's end.
    Taken(Opener),
    /// The opener itself has it open, as this.
    Own(Role),
}

#[derive(Debug, Clone, Copy)]
struct Opening {
    role: Role,
    count: u32,
}

/// All openers of one region.
#[derive(Debug, Clone, Default)]
pub(crate) struct Openers {
    openings: BTreeMap<Opener, Opening>,
}

impl Openers {
    /// What stands in the way of `opener`, if anything does.
    pub(crate) fn conflict(
        &self,
        kind: RegionKind,
        opener: Opener,
        role: Role,
    ) -> Option<Conflict> {
        if kind == RegionKind::Raw {
            return None;
        }
        match (self.role(opener), role) {
            (Some(Role::Watch), Role::Watch) => None,
            (Some(own), _) => Some(Conflict::Own(own)),
            (None, Role::End) => self.end(opener.side()).map(Conflict::Taken),
            (None, Role::Watch) => None,
        }
    }

    /// Who has a side's end; of raw memory, which has none, the first of that side.
    pub(crate) fn end(&self, side: Side) -> Option<Opener> {
        self.openings
            .iter()
            .find(|(opener, opening)| opening.role == Role::End && opener.side() == side)
            .map(|(opener, _)| *opener)
    }

    /// `opener` has it open once more.
    pub(crate) fn open(&mut self, opener: Opener, role: Role) {
        let opening = self
            .openings
            .entry(opener)
            .or_insert(Opening { role, count: 0 });
        opening.count = opening.count.saturating_add(1);
        if role == Role::End {
            opening.role = role;
        }
    }

    /// `opener` lets go once: whether it still has it open. Nothing where it had not.
    pub(crate) fn close(&mut self, opener: Opener) -> Option<bool> {
        let opening = self.openings.get_mut(&opener)?;
        opening.count -= 1;
        let still = opening.count > 0;
        if !still {
            self.openings.remove(&opener);
        }
        Some(still)
    }

    /// `opener` is gone.
    pub(crate) fn forget(&mut self, opener: Opener) {
        self.openings.remove(&opener);
    }

    /// Whichever session was in this slot is gone.
    pub(crate) fn forget_slot(&mut self, slot: usize) {
        self.openings
            .retain(|opener, _| !matches!(opener, Opener::Host(holder) if holder.slot == slot));
    }

    /// How often `opener` has it open.
    pub(crate) fn count(&self, opener: Opener) -> u32 {
        self.openings.get(&opener).map_or(0, |one| one.count)
    }

    /// As what `opener` has it open.
    pub(crate) fn role(&self, opener: Opener) -> Option<Role> {
        self.openings.get(&opener).map(|one| one.role)
    }

    /// The programs that have it open.
    pub(crate) fn programs(&self) -> impl Iterator<Item = ProgramId> + '_ {
        self.openings.keys().filter_map(|opener| match opener {
            Opener::Program(program) => Some(*program),
            Opener::Host(_) => None,
        })
    }

    /// Whether nobody has it open.
    pub(crate) fn is_empty(&self) -> bool {
        self.openings.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Opener = Opener::Host(Holder {
        slot: 3,
        session: 7,
    });
    const OTHER_HOST: Opener = Opener::Host(Holder {
        slot: 4,
        session: 8,
    });
    const ONE: Opener = Opener::Program(1);
    const TWO: Opener = Opener::Program(2);

    #[test]
    fn a_side_has_one_end_and_any_number_of_watchers() {
        let kind = RegionKind::Ring;
        let mut openers = Openers::default();
        openers.open(ONE, Role::End);
        let taken = Some(Conflict::Taken(ONE));
        assert_eq!(openers.conflict(kind, TWO, Role::End), taken);
        assert_eq!(openers.conflict(kind, TWO, Role::Watch), None);
        assert_eq!(openers.conflict(kind, HOST, Role::End), None);
        openers.open(HOST, Role::End);
        openers.open(TWO, Role::Watch);
        openers.open(TWO, Role::Watch);
        assert_eq!(
            (openers.end(Side::Guest), openers.end(Side::Host)),
            (Some(ONE), Some(HOST))
        );
        assert_eq!(openers.close(TWO), Some(true));
        assert_eq!(openers.close(TWO), Some(false));
        assert_eq!(openers.close(TWO), None);
        assert_eq!(openers.close(ONE), Some(false));
        assert_eq!(openers.conflict(kind, TWO, Role::End), None);
        openers.forget_slot(3);
        assert!(openers.is_empty());
    }

    #[test]
    fn nobody_has_two_ends_or_watches_beside_its_own() {
        let kind = RegionKind::Latest;
        for (end, watcher) in [(ONE, TWO), (HOST, OTHER_HOST)] {
            let mut openers = Openers::default();
            openers.open(end, Role::End);
            for role in [Role::End, Role::Watch] {
                let own = Some(Conflict::Own(Role::End));
                assert_eq!(openers.conflict(kind, end, role), own);
            }
            openers.open(watcher, Role::Watch);
            let own = Some(Conflict::Own(Role::Watch));
            assert_eq!(openers.conflict(kind, watcher, Role::End), own);
            assert_eq!(openers.conflict(kind, watcher, Role::Watch), None);
            assert_eq!(openers.end(end.side()), Some(end));
        }
    }

    #[test]
    fn hosts_let_go_as_often_as_they_have_opened() {
        let mut openers = Openers::default();
        openers.open(HOST, Role::Watch);
        openers.open(HOST, Role::Watch);
        openers.open(OTHER_HOST, Role::Watch);
        assert_eq!(openers.close(HOST), Some(true));
        assert_eq!(openers.close(HOST), Some(false));
        assert_eq!(openers.close(HOST), None);
        assert_eq!(openers.count(OTHER_HOST), 1);
    }

    #[test]
    fn raw_memory_has_no_ends() {
        let mut openers = Openers::default();
        openers.open(ONE, Role::End);
        for opener in [ONE, TWO, HOST] {
            assert_eq!(openers.conflict(RegionKind::Raw, opener, Role::End), None);
        }
        openers.open(ONE, Role::End);
        assert_eq!(openers.count(ONE), 2);
        openers.forget(ONE);
        assert!(openers.is_empty());
    }
}
