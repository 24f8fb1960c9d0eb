//! The played guest's regions: where they lie, who holds them, and what the table says. Nothing is refused here; that is
//! `requests`' part.

use vmshm_link::beacon::PAGE;
use vmshm_link::control::{EndCause, RegionReply, Reply, Role};
use vmshm_link::directory::{self, RegionEntry, RegionKind};
use vmshm_link::fields::Text;
use vmshm_link::{Extent, proof};

use crate::guest::Guest;
use crate::ram::{GuestMemory, Window};

/// The key of every pattern.
const KEY: u64 = 99;

pub(crate) struct Region {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) kind: RegionKind,
    pub(crate) size: u64,
    pub(crate) record: u64,
    pub(crate) ready: bool,
    pub(crate) placement: u64,
    pub(crate) ended: Option<EndCause>,
    /// One for each time that it was opened.
    pub(crate) holders: Vec<(usize, Role)>,
    /// Its second half lies before its first, where there is no hole between them.
    pub(crate) extents: [Extent; 2],
}

impl Region {
    /// What who opens it is told.
    pub(crate) fn reply(&self) -> Reply {
        Reply::Region(RegionReply {
            region: self.id,
            size: self.size,
            extents: 2,
            ready: self.ready,
            key: KEY,
            placement: self.placement,
        })
    }

    pub(crate) fn is_held_by(&self, slot: usize) -> bool {
        self.holders.iter().any(|(holder, _)| *holder == slot)
    }
}

impl<M: GuestMemory> Guest<M> {
    /// A region's bytes in their order.
    pub(crate) fn memory(&self, region: &Region) -> Window<M> {
        self.ram.window(&region.extents)
    }

    /// Whether there is a place for a region of this size.
    pub(crate) fn has_room(&self, size: u64) -> bool {
        size.div_ceil(2).next_multiple_of(PAGE) <= self.plan.room
            && (self.regions.len() + 1) * 2 <= self.plan.rooms.len()
    }

    pub(crate) fn make(&mut self, name: &str, kind: RegionKind, size: u64, record: u64) {
        assert!(self.has_room(size), "no room for {size} bytes");
        self.last_id += 1;
        let size = size.next_multiple_of(PAGE).max(2 * PAGE);
        let first = (size / 2).next_multiple_of(PAGE);
        let region = Region {
            id: self.last_id,
            name: name.to_owned(),
            kind,
            size,
            record,
            ready: false,
            placement: 0,
            ended: None,
            holders: Vec::new(),
            extents: self.place(first, size - first),
        };
        let memory = self.memory(&region);
        proof::write_pattern(&memory, KEY, region.id).expect("written");
        self.regions.push(region);
    }

    /// The next pair of rooms that nobody uses.
    fn place(&mut self, first: u64, second: u64) -> [Extent; 2] {
        let pairs = self.plan.rooms.len() / 2;
        for _ in 0..pairs {
            let pair = self.next_pair % pairs;
            self.next_pair += 1;
            let [below, above] = [0, 1].map(|half| self.plan.rooms[2 * pair + half]);
            let taken = |region: &Region| region.extents[1].start == below;
            if !self.regions.iter().any(taken) {
                return [(above, first), (below, second)]
                    .map(|(start, length)| Extent { start, length });
            }
        }
        panic!("every room is taken");
    }

    /// Writes the table.
    pub(crate) fn list(&self) {
        for index in 0..self.regions.len().max(8) {
            let entry = self.regions.get(index).map(|region| RegionEntry {
                id: region.id,
                kind: region.kind,
                size: region.size,
                ready: region.ready,
                record: region.record,
                ended: region.ended,
                name: Text::new(&region.name),
            });
            directory::write_region(&self.directory, index, entry.as_ref()).expect("there");
        }
    }

    /// The region of this name that has not ended.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        let mut regions = self.regions.iter();
        regions.position(|region| region.name == name && region.ended.is_none())
    }
}
