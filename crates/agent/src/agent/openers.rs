//! Who has a link or raw memory open, and as what. It touches no memory and talks to
//! nobody.
//!
//! Of a ring, a latest or a stream each side has one end, which one opener has; any number
//! may watch. Raw memory has no ends.
//!
//! A host's session lets go of a region as a whole: it counts its own watchers, and may
//! watch beside the end that it has. A program lets go as often as it has opened, and does
//! not watch beside an end of its own: what it let go of would not be clear.

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
        let own = self.openings.get(&opener).map(|own| own.role);
        let may_mix = opener.side() == Side::Host;
        match (own, role) {
            (Some(Role::End), Role::End) => Some(Conflict::Own(Role::End)),
            (Some(own), _) if own != role && !may_mix => Some(Conflict::Own(own)),
            (_, Role::End) => self.end(opener.side()).map(Conflict::Taken),
            (_, Role::Watch) => None,
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

    /// A program lets go once: whether it still has it open. Nothing where it had not.
    pub(crate) fn close(&mut self, program: ProgramId) -> Option<bool> {
        let opener = Opener::Program(program);
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
        assert_eq!(openers.close(2), Some(true));
        assert_eq!(openers.close(2), Some(false));
        assert_eq!(openers.close(2), None);
        assert_eq!(openers.close(1), Some(false));
        assert_eq!(openers.conflict(kind, TWO, Role::End), None);
        openers.forget_slot(3);
        assert!(openers.is_empty());
    }

    #[test]
    fn nobody_has_two_ends_and_only_hosts_watch_beside_their_own() {
        let kind = RegionKind::Latest;
        let mut openers = Openers::default();
        openers.open(ONE, Role::End);
        for role in [Role::End, Role::Watch] {
            let own = Some(Conflict::Own(Role::End));
            assert_eq!(openers.conflict(kind, ONE, role), own);
        }
        openers.open(TWO, Role::Watch);
        let own = Some(Conflict::Own(Role::Watch));
        assert_eq!(openers.conflict(kind, TWO, Role::End), own);
        assert_eq!(openers.conflict(kind, TWO, Role::Watch), None);

        openers.open(HOST, Role::Watch);
        assert_eq!(openers.conflict(kind, HOST, Role::End), None);
        openers.open(HOST, Role::End);
        assert_eq!(openers.end(Side::Host), Some(HOST));
        assert_eq!(openers.conflict(kind, HOST, Role::Watch), None);
        openers.open(HOST, Role::Watch);
        let own = Some(Conflict::Own(Role::End));
        assert_eq!(openers.conflict(kind, HOST, Role::End), own);
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
