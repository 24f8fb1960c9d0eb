//! The book of regions: names, holders, ends of pipes, and when memory may go. It
//! touches no shared memory and talks to nobody, so that its rules can be tested.
//!
//! A region's memory goes when it is off the list, no session holds it and no process
//! of this guest uses it. Plain regions and links are on the list until they are removed,
//! or until nobody is left who could prove them; pipes until one of their ends leaves.
//! A region that is over keeps its place in the table while somebody holds it, so that
//! its holders can read why; its name is free at once.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use vmshm_link::Extent;
use vmshm_link::control::EndCause;
use vmshm_link::directory::{REGIONS, RegionKind};
use vmshm_link::duplex::Side;

use super::openers::Openers;
use super::presences::Presences;

/// A session that holds a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Holder {
    /// Its slot.
    pub slot: usize,
    /// Its number.
    pub session: u64,
}

/// A process of this guest that is connected to the agent.
pub(crate) type LocalId = u64;

/// What the keeper keeps with a region's memory, for the next agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Description {
    /// The region's name.
    pub name: String,
    /// [`RegionKind`] as on the wire.
    pub kind: u64,
    /// Key of the pattern.
    pub key: u64,
    /// Whether a host has proved it.
    pub ready: bool,
    /// What that host said of its place.
    pub placement: u64,
    /// Whether it is on the list.
    pub listed: bool,
    /// The sessions that hold it.
    pub holders: BTreeSet<Holder>,
    /// What a record or value has in bytes, for kinds that have such.
    #[serde(default)]
    pub record: u64,
    /// Why it is over ([`EndCause`] as on the wire), while somebody still holds it.
    #[serde(default)]
    pub ended: Option<u64>,
    /// For a link: the session that has the host's end.
    #[serde(default)]
    pub host_end: Option<Holder>,
}

/// A region.
#[derive(Debug, Clone)]
pub(crate) struct Region {
    /// Its number: that of its memory in the keeper.
    pub id: u64,
    /// Its size in bytes.
    pub size: u64,
    /// What it takes of the guest's RAM.
    pub cost: u64,
    /// Where its pages lie.
    pub extents: Vec<Extent>,
    /// What outlives the agent.
    pub description: Description,
    /// For a pipe: the session that has the host's end.
    pub host_end: Option<Holder>,
    /// For a pipe: the process that has the guest's end.
    pub guest_end: Option<LocalId>,
    /// For a link, and for raw memory: who has it open.
    pub openers: Openers,
    /// For a link: what its first page says of its ends.
    pub presences: Presences,
    /// Its place in the table, while it has one.
    pub entry: Option<usize>,
    /// Whether this process still works on it.
    pub in_use: bool,
}

impl Region {
    /// What it is laid out for.
    pub(crate) fn kind(&self) -> RegionKind {
        RegionKind::from_word(self.description.kind)
    }

    /// Why it is over, if it is.
    pub(crate) fn ended(&self) -> Option<EndCause> {
        self.description.ended.map(EndCause::from_word)
    }

    /// Whether it has a place in the table.
    pub(crate) fn is_in_table(&self) -> bool {
        self.description.listed || self.description.ended.is_some()
    }

    /// Whether a session or a process of this guest holds it.
    fn is_held(&self) -> bool {
        !self.description.holders.is_empty() || self.guest_end.is_some() || !self.openers.is_empty()
    }

    /// Whether its memory may go.
    pub(crate) fn is_garbage(&self) -> bool {
        !self.description.listed && !self.is_held() && !self.in_use
    }

    /// Nobody has ever used it, and who made it has given up: takes it off the list.
    pub(crate) fn give_up_if_unproved(&mut self) {
        if !self.description.ready && !self.is_held() {
            self.description.listed = false;
        }
    }

    /// It is over: nobody finds it any more, and its holders read why.
    pub(crate) fn end(&mut self, cause: EndCause) {
        self.description.listed = false;
        self.description.ended = Some(cause.to_word());
    }

    fn has_end(&self, side: Side) -> bool {
        match side {
            Side::Host => self.host_end.is_some(),
            Side::Guest => self.guest_end.is_some(),
        }
    }
}

/// An end of a pipe has left while the other uses it: the other must be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LostEnd {
    /// The pipe.
    pub region: u64,
    /// The end that left.
    pub side: Side,
}

/// All regions.
#[derive(Debug, Default)]
pub(crate) struct Regions {
    regions: BTreeMap<u64, Region>,
}

impl Regions {
    /// The region of a number.
    pub(crate) fn get(&self, id: u64) -> Option<&Region> {
        self.regions.get(&id)
    }

    /// The region of a number, to be changed.
    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut Region> {
        self.regions.get_mut(&id)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Region> {
        self.regions.values()
    }

    /// The region on the list with this name.
    pub(crate) fn find(&self, name: &str) -> Option<&Region> {
        self.iter()
            .find(|region| region.description.listed && region.description.name == name)
    }

    /// Whether the list has room for another.
    pub(crate) fn has_room(&self, promised: usize) -> bool {
        let listed = self.iter().filter(|region| region.is_in_table());
        listed.count() + promised < REGIONS
    }

    /// Bytes of RAM that all regions take.
    pub(crate) fn cost(&self) -> u64 {
        self.iter().map(|region| region.cost).sum()
    }

    /// Adds a region, and gives it a place in the table if it is on the list.
    pub(crate) fn insert(&mut self, mut region: Region) {
        if region.is_in_table() {
            let listed = self.iter().filter(|one| one.is_in_table());
            let taken: BTreeSet<usize> = listed.filter_map(|one| one.entry).collect();
            region.entry = (0..REGIONS).find(|entry| !taken.contains(entry));
            // Without a place nobody finds it; it goes once nobody holds it.
            region.description.listed &= region.entry.is_some();
        }
        self.regions.insert(region.id, region);
    }

    /// Forgets a region whose memory goes.
    pub(crate) fn remove(&mut self, id: u64) {
        self.regions.remove(&id);
    }

    /// Numbers of the regions whose memory may go.
    pub(crate) fn garbage(&self) -> Vec<u64> {
        self.iter()
            .filter(|region| region.is_garbage())
            .map(|region| region.id)
            .collect()
    }

    /// The regions that a session in this slot holds.
    pub(crate) fn held_by(&self, slot: usize) -> impl Iterator<Item = &Region> {
        self.iter().filter(move |region| {
            let mut holders = region.description.holders.iter();
            holders.any(|holder| holder.slot == slot)
        })
    }

    /// A session holds a region no longer, however often it did. A pipe whose host's end it
    /// had may have lost that end.
    pub(crate) fn let_go(&mut self, id: u64, slot: usize) -> Option<LostEnd> {
        let region = self.regions.get_mut(&id)?;
        region
            .description
            .holders
            .retain(|holder| holder.slot != slot);
        region.openers.forget_slot(slot);
        if region
            .description
            .host_end
            .is_some_and(|holder| holder.slot == slot)
        {
            region.description.host_end = None;
        }
        if region.kind() != RegionKind::Pipe {
            region.give_up_if_unproved();
        }
        if region.host_end.is_some_and(|holder| holder.slot == slot) {
            region.host_end = None;
            return leave(region, Side::Host);
        }
        None
    }

    /// A session is over.
    pub(crate) fn session_ended(&mut self, slot: usize) -> Vec<LostEnd> {
        let held: Vec<u64> = self.held_by(slot).map(|region| region.id).collect();
        held.into_iter()
            .filter_map(|id| self.let_go(id, slot))
            .collect()
    }

    /// A process of this guest is gone.
    pub(crate) fn local_gone(&mut self, local: LocalId) -> Vec<LostEnd> {
        self.regions
            .values_mut()
            .filter(|region| region.guest_end == Some(local))
            .filter_map(|region| {
                region.guest_end = None;
                leave(region, Side::Guest)
            })
            .collect()
    }
}

/// What becomes of a pipe that `side` has left. Before it is ready neither end has
/// written a word, and the other may go on waiting; after that it is used up.
fn leave(region: &mut Region, side: Side) -> Option<LostEnd> {
    let other_is_there = region.has_end(side.other());
    if region.description.ready || !other_is_there {
        region.description.listed = false;
    }
    let lost = LostEnd {
        region: region.id,
        side,
    };
    (region.description.ready && other_is_there).then_some(lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Holder = Holder {
        slot: 3,
        session: 1 << 32,
    };

    fn region(id: u64, kind: RegionKind, name: &str) -> Region {
        Region {
            id,
            size: 8192,
            cost: 8192,
            extents: Vec::new(),
            description: Description {
                name: name.to_owned(),
                kind: kind.to_word(),
                key: 0,
                ready: false,
                placement: 0,
                listed: true,
                holders: BTreeSet::new(),
                record: 0,
                ended: None,
                host_end: None,
            },
            host_end: None,
            guest_end: None,
            openers: Openers::default(),
            presences: Presences::default(),
            entry: None,
            in_use: false,
        }
    }

    fn pipe(host: bool, guest: bool, ready: bool) -> Regions {
        let mut pipe = region(7, RegionKind::Pipe, "pipe");
        if host {
            pipe.host_end = Some(HOST);
            pipe.description.holders.insert(HOST);
        }
        pipe.guest_end = guest.then_some(55);
        pipe.description.ready = ready;
        let mut regions = Regions::default();
        regions.insert(pipe);
        regions
    }

    #[test]
    fn a_plain_region_stays_until_removed_and_released() {
        let mut regions = Regions::default();
        let mut plain = region(1, RegionKind::Raw, "data");
        plain.description.ready = true;
        plain.description.holders.insert(HOST);
        regions.insert(plain);
        assert_eq!(regions.session_ended(HOST.slot), []);
        assert!(regions.garbage().is_empty());
        let plain = regions.get_mut(1).expect("succeeds");
        plain.description.holders.insert(HOST);
        plain.description.listed = false;
        assert!(regions.garbage().is_empty(), "a session holds it");
        assert!(regions.find("data").is_none(), "its name is free");
        regions.session_ended(HOST.slot);
        assert_eq!(regions.garbage(), [1]);
    }

    #[test]
    fn a_region_whose_maker_gave_up_before_proving_it_goes() {
        let mut regions = Regions::default();
        let mut plain = region(1, RegionKind::Raw, "data");
        plain.description.holders.insert(HOST);
        regions.insert(plain);
        regions.session_ended(HOST.slot);
        assert_eq!(regions.garbage(), [1]);
    }

    #[test]
    fn a_running_pipe_that_loses_an_end_tells_the_other_and_goes_with_it() {
        let mut regions = pipe(true, true, true);
        let lost = regions.session_ended(HOST.slot);
        assert_eq!(
            lost,
            [LostEnd {
                region: 7,
                side: Side::Host
            }]
        );
        assert!(regions.find("pipe").is_none());
        assert!(regions.garbage().is_empty());
        assert_eq!(regions.local_gone(55), []);
        assert_eq!(regions.garbage(), [7]);

        let mut regions = pipe(true, true, true);
        let lost = regions.local_gone(55);
        assert_eq!(
            lost,
            [LostEnd {
                region: 7,
                side: Side::Guest
            }]
        );
        assert!(regions.garbage().is_empty(), "the host may still write");
        regions.session_ended(HOST.slot);
        assert_eq!(regions.garbage(), [7]);
    }

    #[test]
    fn a_pipe_that_is_not_ready_waits_for_another_first_end() {
        let mut regions = pipe(true, true, false);
        assert_eq!(regions.session_ended(HOST.slot), []);
        assert!(regions.find("pipe").is_some(), "the guest's end waits on");
        assert_eq!(regions.local_gone(55), []);
        assert_eq!(regions.garbage(), [7]);
    }

    #[test]
    fn a_host_that_leaves_a_pipe_alone_leaves_nothing() {
        for ready in [false, true] {
            let mut regions = pipe(true, false, ready);
            assert_eq!(regions.session_ended(HOST.slot), []);
            assert_eq!(regions.garbage(), [7]);
        }
    }

    #[test]
    fn the_table_has_a_place_for_each_region_until_it_is_full() {
        let mut regions = Regions::default();
        for id in 0..REGIONS as u64 {
            assert!(regions.has_room(0));
            regions.insert(region(id, RegionKind::Raw, &format!("r{id}")));
        }
        assert!(!regions.has_room(0));
        let places: BTreeSet<_> = regions.iter().filter_map(|one| one.entry).collect();
        assert_eq!(places.len(), REGIONS);
        regions.insert(region(999, RegionKind::Raw, "surplus"));
        assert_eq!(regions.garbage(), [999]);
    }
}
