//! Starting from what the keeper holds: nothing in a fresh guest, else whatever an
//! earlier agent has left behind.
//!
//! Sessions with the earlier agent are over, but their hosts may still write: what
//! they held stays until they let go. Regions that were on the list stay on it, unless
//! no host has proved them yet; pipes and screens do not, since their guest ends have lost
//! their agent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tracing::{debug, info};
use vmshm_link::directory::RegionKind;
use vmshm_link::slot::SlotState;

use super::announce::{AnnounceError, Announcement};
use super::locals::Locals;
use super::openers::Openers;
use super::presences::Presences;
use super::programs::Programs;
use super::regions::{Description, Holder, Region, Regions};
use super::screens::Screens;
use super::service::{Service, ServiceError};
use super::sessions;
use crate::keeper::client::{Client, Holding, Inventory};
use crate::keeper::protocol::{Allocation, Purpose, Request};
use crate::pin::Method;

impl Service {
    /// Takes over what the keeper holds. Nothing is announced yet.
    pub(crate) fn take_over(
        mut client: Client,
        inventory: Inventory,
        locals: Locals,
        programs: Programs,
        mut screens: Screens,
        limit: u64,
    ) -> Result<Self, ServiceError> {
        let announcement = Announcement::take_over(&inventory)?;
        let Inventory { holdings, summary } = inventory;
        let sessions = sessions::adopt(announcement.directory(), summary.epoch)?;
        let orphans: BTreeSet<Holder> = sessions
            .iter()
            .filter(|session| session.state() == SlotState::Orphaned)
            .map(sessions::Session::holder)
            .collect();

        let mut regions = Regions::default();
        let mut files = BTreeMap::new();
        let mut described = BTreeMap::new();
        let mut fixed_cost = 0;
        let mut foundations = BTreeSet::new();
        for Holding { allocation, file } in holdings {
            if allocation.purpose != Purpose::Region {
                fixed_cost += allocation.cost;
                foundations.insert(allocation.id);
                continue;
            }
            let id = allocation.id;
            let Some(region) = restore(allocation, &orphans) else {
                debug!(id, "memory that no host was told of is freed");
                client.send(&Request::Free { id })?;
                continue;
            };
            info!(name = region.description.name, "a region is taken over");
            files.insert(id, file);
            described.insert(id, region.description.clone());
            regions.insert(region);
        }
        screens.number_from(summary.generation);
        let mut service = Self {
            screens,
            client,
            announcement,
            sessions,
            regions,
            files,
            benches: BTreeMap::new(),
            creations: VecDeque::new(),
            locals,
            programs,
            foundations,
            hugetlb: summary.method == Method::Hugetlb,
            connector: None,
            described,
            last_session: summary.generation << 32,
            fixed_cost,
            limit,
            unit: summary.unit,
        };
        let ids: Vec<u64> = service.regions.iter().map(|region| region.id).collect();
        for id in ids {
            service.resume_presences(id)?;
        }
        service.settle()?;
        Ok(service)
    }

    /// Tells the world.
    pub(crate) fn announce(&mut self) -> Result<(), ServiceError> {
        self.announcement.beat()?;
        self.announcement.publish().map_err(AnnounceError::from)?;
        Ok(self.client.send(&Request::Serving)?)
    }
}

/// A region as an earlier agent described it.
fn restore(allocation: Allocation, orphans: &BTreeSet<Holder>) -> Option<Region> {
    let text = allocation.description.as_deref()?;
    let mut description: Description = serde_json::from_str(text).ok()?;
    description.holders = &description.holders & orphans;
    // The guest's ends of pipes and the sources of screens have gone with their agent.
    let is_over = matches!(
        RegionKind::from_word(description.kind),
        RegionKind::Pipe | RegionKind::Frames | RegionKind::Pixels
    );
    // A pattern may be half written or half cleared: such a region serves nobody.
    description.listed &= description.ready && !is_over;
    description.host_end = description
        .host_end
        .filter(|holder| description.holders.contains(holder));
    Some(Region {
        id: allocation.id,
        size: allocation.length,
        cost: allocation.cost,
        extents: allocation.extents(),
        description,
        host_end: None,
        guest_end: None,
        openers: Openers::default(),
        presences: Presences::default(),
        entry: None,
        in_use: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocation(kind: RegionKind) -> Allocation {
        let holders = [(1, 10), (2, 20)];
        let description = Description {
            name: "data".to_owned(),
            kind: kind.to_word(),
            key: 1,
            ready: true,
            placement: 2,
            listed: true,
            holders: holders
                .map(|(slot, session)| Holder { slot, session })
                .into(),
            record: 0,
            ended: None,
            host_end: None,
        };
        Allocation {
            id: 5,
            purpose: Purpose::Region,
            name: "data".to_owned(),
            offset: 0,
            length: 4096,
            cost: 4096,
            extents: vec![(0x1000, 0x1000)],
            descriptor: 3,
            description: Some(serde_json::to_string(&description).expect("succeeds")),
        }
    }

    #[test]
    fn only_sessions_that_still_hold_their_slot_hold_a_region() {
        // Slot 1 was freed before the earlier agent died, and perhaps given away again.
        let orphans = [
            Holder {
                slot: 1,
                session: 11,
            },
            Holder {
                slot: 2,
                session: 20,
            },
        ];
        let region = restore(allocation(RegionKind::Raw), &orphans.into()).expect("succeeds");
        assert!(region.description.listed);
        let holders: Vec<_> = region.description.holders.iter().collect();
        assert_eq!(
            holders,
            [&Holder {
                slot: 2,
                session: 20
            }]
        );
    }

    #[test]
    fn a_region_that_no_host_has_proved_goes() {
        let mut unready = allocation(RegionKind::Raw);
        let text = unready.description.expect("a description");
        unready.description = Some(text.replace("\"ready\":true", "\"ready\":false"));
        let region = restore(unready, &BTreeSet::new()).expect("succeeds");
        assert!(region.is_garbage());
    }

    #[test]
    fn pipes_and_screens_are_over_and_undescribed_memory_is_nobodys() {
        for kind in [RegionKind::Pipe, RegionKind::Frames, RegionKind::Pixels] {
            let region = restore(allocation(kind), &BTreeSet::new()).expect("succeeds");
            assert!(region.is_garbage());
        }
        let mut unknown = allocation(RegionKind::Raw);
        unknown.description = None;
        assert!(restore(unknown, &BTreeSet::new()).is_none());
        let mut broken = allocation(RegionKind::Raw);
        broken.description = Some("{".to_owned());
        assert!(restore(broken, &BTreeSet::new()).is_none());
    }
}
