//! What a VM's handle holds in one session, and who is told when a region is over. The
//! same region may be held more than once. It asks the agent nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use vmshm_endpoint::{End, Tether};
use vmshm_link::LinkError;
use vmshm_link::control::EndCause;
use vmshm_link::directory::{REGIONS, RegionEntry, read_region};
use vmshm_ram::View;
use vmshm_shm::SharedMemory;

use crate::ending::graft_undone;
use crate::os::abandon;

/// How many looks in a row may find an entry unreadable, or not there yet: the agent writes
/// it in one go, but the guest's processor can be taken away in the middle.
const MOST_DOUBTS: u32 = 20;

/// A region that somebody holds.
#[derive(Debug)]
struct Hold {
    region: u64,
    name: String,
    tether: Arc<Tether>,
    /// Its place in the table when it was last seen there.
    entry: Option<usize>,
    doubts: u32,
    is_over: bool,
    /// Its memory, where that is the VM's.
    memory: Weak<View>,
}

/// All that is held in a session.
#[derive(Debug, Default)]
pub(super) struct Holds {
    by_handle: BTreeMap<u64, Hold>,
}

impl Holds {
    /// Notes what the agent has granted.
    pub(super) fn insert(&mut self, handle: u64, region: u64, name: &str, tether: Arc<Tether>) {
        let hold = Hold {
            region,
            name: name.to_owned(),
            tether,
            entry: None,
            doubts: 0,
            is_over: false,
            memory: Weak::new(),
        };
        self.by_handle.insert(handle, hold);
    }

    /// Notes where a region's memory lies.
    pub(super) fn lies(&mut self, handle: u64, memory: &Arc<View>) {
        if let Some(hold) = self.by_handle.get_mut(&handle) {
            hold.memory = Arc::downgrade(memory);
        }
    }

    /// Somebody lets go: its tether, and the region of which the agent is to be told so. Where
    /// the session `is_over`, its memory is abandoned.
    pub(super) fn remove(&mut self, handle: u64, is_over: bool) -> Option<(Arc<Tether>, u64)> {
        let gone = self.by_handle.remove(&handle)?;
        if is_over {
            gone.abandon();
        }
        Some((gone.tether, gone.region))
    }

    /// What is still held is another's from now on.
    pub(super) fn abandon(&self) {
        self.by_handle.values().for_each(Hold::abandon);
    }

    /// Whether nobody holds anything.
    pub(super) fn is_empty(&self) -> bool {
        self.by_handle.is_empty()
    }

    /// Whether a region called so is held and not over.
    pub(super) fn has_open(&self, name: &str) -> bool {
        let mut holds = self.by_handle.values();
        holds.any(|hold| hold.name == name && !hold.is_over)
    }

    /// The other side rang for that region.
    pub(super) fn wake(&self, region: u64) {
        let holds = self.by_handle.values();
        holds
            .filter(|hold| hold.region == region)
            .for_each(|hold| hold.tether.wake());
    }

    /// The session is over, and with it everything.
    pub(super) fn end_all(&mut self, end: &End) {
        for hold in self.by_handle.values_mut() {
            hold.is_over = true;
            hold.tether.end(end.clone());
        }
    }

    /// A region is over.
    pub(super) fn end_region(&mut self, region: u64, end: &End) {
        let holds = self.by_handle.values_mut();
        for hold in holds.filter(|hold| hold.region == region) {
            hold.is_over = true;
            hold.tether.end(end.clone());
        }
    }

    /// Looks into the guest's table for the regions that are held: those that are over by
    /// what it says, and why. A table of a guest that has restarted says anything, so the
    /// caller makes sure that it has not before it believes this.
    pub(super) fn look(&mut self, table: &impl SharedMemory) -> Vec<(u64, End)> {
        let live = self.by_handle.values_mut().filter(|hold| !hold.is_over);
        let verdicts = live.filter_map(|hold| Some((hold.region, hold.look(table)?)));
        verdicts.collect()
    }
}

impl Hold {
    /// A program that waits for its new session must not keep the pages of the old one mapped:
    /// somebody may wait for that.
    fn abandon(&self) {
        if let Some(memory) = self.memory.upgrade() {
            abandon(&memory);
        }
    }

    fn look(&mut self, table: &impl SharedMemory) -> Option<End> {
        let memory = self.memory.upgrade();
        if memory.is_some_and(|memory| memory.is_cut_off()) {
            return Some(graft_undone());
        }
        let (seen_before, found) = (self.entry.is_some(), self.find(table));
        let doubt = match found {
            Ok(Some(found)) => {
                self.doubts = 0;
                return found.ended.map(end_of);
            }
            Ok(None) if seen_before => return Some(End::RegionRemoved),
            Ok(None) => End::RegionRemoved,
            Err(error) => End::Link(error),
        };
        self.doubts += 1;
        (self.doubts >= MOST_DOUBTS).then_some(doubt)
    }

    /// Its entry, at the place where it was last; else wherever it is.
    fn find(&mut self, table: &impl SharedMemory) -> Result<Option<RegionEntry>, LinkError> {
        let at = |index| -> Result<Option<RegionEntry>, LinkError> {
            let read = read_region(table, index)?;
            Ok(read.filter(|found| found.id == self.region))
        };
        if let Some(found) = self.entry.map(at).transpose()?.flatten() {
            return Ok(Some(found));
        }
        let mut unreadable = Ok(None);
        for index in 0..REGIONS {
            match at(index) {
                Ok(None) => {}
                Ok(found) => {
                    self.entry = Some(index);
                    return Ok(found);
                }
                Err(error) => unreadable = Err(error),
            }
        }
        unreadable
    }
}

/// Why a region is over, by its entry in the table or a broker's words.
pub(super) fn end_of(cause: EndCause) -> End {
    match cause {
        EndCause::Removed => End::RegionRemoved,
        EndCause::Damaged => End::RegionDamaged(
            "a holder of its file in the guest has changed the file's pages".to_owned(),
        ),
        EndCause::Other(cause) => End::RegionDamaged(format!(
            "for a reason that only a newer vmshm knows (number {cause})"
        )),
    }
}

#[cfg(test)]
#[path = "holds_tests.rs"]
mod tests;
