//! What the agent does for links, within one process: it keeps the regions, grants ends, and
//! writes who has them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmshm_link::LinkError;
use vmshm_link::control::{RefusalCode, Role};
use vmshm_link::directory::RegionKind;
use vmshm_link::duplex::Side;
use vmshm_link::ends::Presence;
use vmshm_shm::{LocalMemory, SharedMemory};

use super::has_ends;
use crate::connection::Wish;
use crate::ending::End;
use crate::error::OpenError;
use crate::tether::Tether;

/// The most that one region may take: it is this process's own memory.
const LARGEST: u64 = 1 << 32;

/// The regions of a loopback and who holds them.
#[derive(Debug)]
pub(super) struct World {
    doorbell: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    programs: u64,
    /// How often a region was held so far.
    holds: u64,
    regions: BTreeMap<String, Region>,
}

#[derive(Debug)]
struct Region {
    kind: RegionKind,
    record: u64,
    memory: Arc<LocalMemory>,
    holders: Vec<Holder>,
}

#[derive(Debug)]
struct Holder {
    /// The number of this hold: a program may hold a region as an end and as a watcher.
    number: u64,
    program: u64,
    side: Side,
    role: Role,
    tether: Arc<Tether>,
}

/// A region that was granted.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) hold: u64,
    pub(super) memory: Arc<LocalMemory>,
    pub(super) tether: Arc<Tether>,
}

impl World {
    pub(super) fn new(doorbell: bool) -> Self {
        Self {
            doorbell,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) const fn has_doorbell(&self) -> bool {
        self.doorbell
    }

    pub(super) fn new_program(&self) -> u64 {
        let mut state = self.state();
        state.programs += 1;
        state.programs
    }

    /// Grants what is wished for.
    pub(super) fn open(&self, program: u64, side: Side, wish: &Wish) -> Result<Opened, OpenError> {
        let mut state = self.state();
        state.holds += 1;
        let number = state.holds;
        if !state.regions.contains_key(&wish.name) {
            let region = Region::new(wish)?;
            state.regions.insert(wish.name.clone(), region);
        }
        let Some(region) = state.regions.get_mut(&wish.name) else {
            return Err(refused(RefusalCode::NotFound, &wish.name, "is not there"));
        };
        if (region.kind, region.record) != (wish.kind, wish.record) {
            let has = format!(
                "is a {} of {} bytes a record, not a {} of {}",
                region.kind.name(),
                region.record,
                wish.kind.name(),
                wish.record
            );
            return Err(refused(RefusalCode::WrongKind, &wish.name, &has));
        }
        let mixes = |holder: &Holder| holder.program == program && holder.role != wish.role;
        if wish.kind != RegionKind::Raw && region.holders.iter().any(mixes) {
            let has = "is open in another role over this connection";
            return Err(refused(RefusalCode::Busy, &wish.name, has));
        }
        if wish.role == Role::End {
            let has_end = |holder: &Holder| holder.role == Role::End && holder.side == side;
            if region.holders.iter().any(has_end) {
                let has = "has this side's end taken";
                return Err(refused(RefusalCode::Busy, &wish.name, has));
            }
            region.change_presence(side, Presence::arrival)?;
        }
        let tether = Arc::new(Tether::default());
        region.holders.push(Holder {
            number,
            program,
            side,
            role: wish.role,
            tether: Arc::clone(&tether),
        });
        Ok(Opened {
            hold: number,
            memory: Arc::clone(&region.memory),
            tether,
        })
    }

    /// Takes a region from a program that lets go of it, or that has died.
    pub(super) fn close(&self, hold: u64, in_order: bool) {
        for region in self.state().regions.values_mut() {
            region.depart(|holder| holder.number == hold, in_order, &End::Closed);
        }
    }

    /// Takes all regions from a program that is no more.
    pub(super) fn lose(&self, program: u64, reason: &End) {
        for region in self.state().regions.values_mut() {
            region.depart(|holder| holder.program == program, false, reason);
        }
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), OpenError> {
        match self.state().regions.remove(name) {
            Some(region) => {
                for holder in region.holders {
                    holder.tether.end(End::RegionRemoved);
                }
                Ok(())
            }
            None => Err(refused(RefusalCode::NotFound, name, "is not there")),
        }
    }

    /// Wakes what sleeps on the other side of the region that is held.
    pub(super) fn ring(&self, hold: u64) {
        let state = self.state();
        for region in state.regions.values() {
            let from = region.holders.iter().find(|one| one.number == hold);
            let Some(side) = from.map(|holder| holder.side) else {
                continue;
            };
            for holder in region.holders.iter().filter(|one| one.side != side) {
                holder.tether.wake();
            }
        }
    }
}

impl Region {
    fn new(wish: &Wish) -> Result<Self, OpenError> {
        if wish.size == 0 {
            return Err(refused(RefusalCode::NotFound, &wish.name, "is not there"));
        }
        let size = usize::try_from(wish.size)
            .ok()
            .filter(|_| wish.size <= LARGEST)
            .ok_or_else(|| refused(RefusalCode::OverBudget, &wish.name, "is too large"))?;
        Ok(Self {
            kind: wish.kind,
            record: wish.record,
            memory: Arc::new(LocalMemory::new(size)),
            holders: Vec::new(),
        })
    }

    fn change_presence(
        &self,
        side: Side,
        change: impl FnOnce(Presence) -> Presence,
    ) -> Result<(), End> {
        if self.kind == RegionKind::Raw || !has_ends(self.memory.size()) {
            return Ok(());
        }
        let write = || -> Result<(), LinkError> {
            change(Presence::read(&self.memory, side)?).write(&self.memory, side)
        };
        write().map_err(End::Link)
    }

    fn depart(&mut self, goes: impl Fn(&Holder) -> bool, in_order: bool, reason: &End) {
        let holders = std::mem::take(&mut self.holders);
        let (gone, stay): (Vec<_>, Vec<_>) = holders.into_iter().partition(goes);
        self.holders = stay;
        for holder in gone {
            holder.tether.end(reason.clone());
            if holder.role == Role::End {
                // The word is inside a region that has ends.
                let _ = self.change_presence(holder.side, |one| one.departure(in_order));
            }
        }
    }
}

fn refused(code: RefusalCode, name: &str, has: &str) -> OpenError {
    OpenError::Refused {
        code,
        explanation: format!("the region {name:?} {has}"),
        hint: None,
    }
}
