//! What the agent writes for everybody to read: the beacon's static part and the
//! agent's words in it, the directory's header, region table and budget, and the
//! pulse in every page.

use std::sync::Arc;

use tracing::debug;
use vmshm_link::Extent;
use vmshm_link::LinkError;
use vmshm_link::beacon::{AGENT_GENERATION, AGENT_PULSE, Beacon, BeaconError, KEEPER_PULSE, PAGE};
use vmshm_link::directory::{self, Budget, DIRECTORY_SIZE, Header, REGIONS, RegionEntry};
use vmshm_link::fields::Text;
use vmshm_link::own_word::OwnWord;
use vmshm_link::rendezvous;
use vmshm_link::rendezvous::message::Announce;
use vmshm_shm::{MapError, Protection, SharedMemory};

use super::regions::{Region, Regions};
use super::sessions::LOOKS_PER_SECOND;
use crate::facts::{self, FactsError};
use crate::keeper::client::{ClientError, Inventory};
use crate::keeper::protocol::Purpose;
use crate::window::Window;

/// Time between two looks at the slots while nothing happens, in microseconds.
pub(crate) const IDLE_POLL_MICROS: u64 = 100_000;

/// Looks at the guest's RAM ranges once in so many looks at the sessions: two seconds.
const LOOKS_PER_RAM_LOOK: u32 = 2 * LOOKS_PER_SECOND;

/// Length of the brand, the first bytes of a beacon.
const BRAND: usize = 16;
/// The live words lie between these offsets.
const LIVE: std::ops::Range<usize> = 0x80..0x100;

const _: () = assert!(KEEPER_PULSE == LIVE.start as u64);
const _: () = assert!(AGENT_GENERATION < LIVE.end as u64);

/// Why nothing can be announced.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnnounceError {
    /// Memory of the keeper's cannot be mapped.
    #[error("cannot map the {what}: {error}")]
    Map {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        error: MapError,
    },
    /// The keeper holds no beacon or directory.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A fact about the guest is missing.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// The beacon cannot be put together.
    #[error("cannot announce the directory: {0}")]
    Beacon(#[from] BeaconError),
    /// Shared memory is not as it was left.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// The beacon and the directory, as the agent writes them.
#[derive(Debug)]
pub(crate) struct Announcement {
    page: Window,
    directory: Arc<Window>,
    beacon: Beacon,
    pulse: OwnWord,
    /// The RAM ranges that the directory states.
    ranges: Vec<Extent>,
    epoch: u64,
    looks: u32,
    /// What each entry of the table says, to write only what changes.
    entries: Vec<Option<RegionEntry>>,
    budget: Option<Budget>,
}

impl Announcement {
    /// Takes the memory over from the keeper and fills the directory, with an empty
    /// table. Nothing is announced yet.
    pub(crate) fn take_over(inventory: &Inventory) -> Result<Self, AnnounceError> {
        let map = |what| move |error| AnnounceError::Map { what, error };
        let beacon = inventory.find(Purpose::Beacon)?;
        let page = Window::open(
            &beacon.file,
            beacon.allocation.offset,
            PAGE,
            Protection::ReadWrite,
        )
        .map_err(map("beacon"))?;
        let own = beacon
            .allocation
            .extents()
            .first()
            .copied()
            .unwrap_or_default();
        let holding = inventory.find(Purpose::Directory)?;
        let extents = holding.allocation.extents();
        let directory = Window::open(&holding.file, 0, DIRECTORY_SIZE, Protection::ReadWrite)
            .map_err(map("directory"))?;
        directory.prefault(0, DIRECTORY_SIZE);

        let summary = &inventory.summary;
        let beacon = Beacon::new(own.start, facts::boot_id()?, summary.epoch, &extents)?;
        directory::write_page_addresses(&directory, &extents)?;
        for entry in 0..REGIONS {
            directory::write_region(&directory, entry, None)?;
        }
        let ranges = facts::ram_ranges()?;
        header(summary.epoch, &ranges).write(&directory)?;
        // An agent that was killed may have left its words.
        rendezvous::wipe(&directory)?;
        // A pulse only grows, whoever beats.
        let pulse = page.load_relaxed(AGENT_PULSE).map_err(LinkError::from)?;
        let pulse = OwnWord::start(&page, AGENT_PULSE, pulse.wrapping_add(1), "agent's pulse")?;
        page.store_relaxed(AGENT_GENERATION, summary.generation)
            .map_err(LinkError::from)?;
        Ok(Self {
            page,
            directory: Arc::new(directory),
            beacon,
            pulse,
            ranges,
            epoch: summary.epoch,
            looks: 0,
            entries: vec![None; REGIONS],
            budget: None,
        })
    }

    /// The directory.
    pub(crate) fn directory(&self) -> &Arc<Window> {
        &self.directory
    }

    /// What a connection out of the guest tells the host.
    pub(crate) fn for_connection(&self) -> Announce {
        Announce {
            beacon: self.beacon.own,
            epoch: self.beacon.epoch,
            boot_id: self.beacon.boot_id,
            version: Text::new(env!("CARGO_PKG_VERSION")),
            name: Text::new(&facts::host_name()),
        }
    }

    /// Puts the brand into memory, unless it stands there already: from now on hosts
    /// find the guest.
    pub(crate) fn publish(&self) -> Result<(), LinkError> {
        let wanted = self.beacon.to_page();
        let mut there = wanted;
        self.page.read(0, &mut there)?;
        if Beacon::from_page(&there) == Ok(self.beacon) {
            return Ok(());
        }
        // The brand last; the live words are others'.
        self.page.write(0, &[0; BRAND])?;
        self.page.write(BRAND as u64, &wanted[BRAND..LIVE.start])?;
        self.page.write(LIVE.end as u64, &wanted[LIVE.end..])?;
        self.page.write(0, &wanted[..BRAND])?;
        Ok(())
    }

    /// Beats in every page.
    pub(crate) fn beat(&mut self) -> Result<(), LinkError> {
        let next = self.pulse.get().wrapping_add(1);
        self.pulse.set(&self.page, next)?;
        directory::write_pulse(&self.directory, next)
    }

    /// Looks now and then whether the guest has got more RAM, or less, and states it.
    /// Called as often as the sessions are looked at.
    pub(crate) fn look_at_ram(&mut self) -> Result<(), LinkError> {
        self.looks += 1;
        if self.looks < LOOKS_PER_RAM_LOOK {
            return Ok(());
        }
        self.looks = 0;
        match facts::listed_ram_ranges() {
            Ok(ranges) => self.state_ram(ranges),
            Err(error) => {
                debug!(%error, "the RAM ranges cannot be read again");
                Ok(())
            }
        }
    }

    /// States these ranges, if there are any and they are new. A host that reads the
    /// header just then finds a wrong checksum, and looks again.
    fn state_ram(&mut self, ranges: Vec<Extent>) -> Result<(), LinkError> {
        if ranges.is_empty() || ranges == self.ranges {
            return Ok(());
        }
        debug!(?ranges, "the guest's RAM has changed");
        header(self.epoch, &ranges).write(&self.directory)?;
        self.ranges = ranges;
        Ok(())
    }

    /// Brings the table and the budget up to date.
    pub(crate) fn update(&mut self, regions: &Regions, budget: Budget) -> Result<(), LinkError> {
        let mut wanted = vec![None; REGIONS];
        for region in regions.iter() {
            if let Some(place) = listed_at(region).and_then(|at| wanted.get_mut(at)) {
                *place = Some(entry(region));
            }
        }
        for (index, (now, wanted)) in self.entries.iter_mut().zip(wanted).enumerate() {
            if *now != wanted {
                directory::write_region(&self.directory, index, wanted.as_ref())?;
                *now = wanted;
            }
        }
        if self.budget != Some(budget) {
            budget.write(&self.directory)?;
            self.budget = Some(budget);
        }
        Ok(())
    }
}

fn header(epoch: u64, ranges: &[Extent]) -> Header {
    Header::new(
        epoch,
        IDLE_POLL_MICROS,
        env!("CARGO_PKG_VERSION"),
        &facts::kernel_release(),
        ranges,
    )
}

fn listed_at(region: &Region) -> Option<usize> {
    region.entry.filter(|_| region.is_in_table())
}

fn entry(region: &Region) -> RegionEntry {
    RegionEntry {
        id: region.id,
        kind: region.kind(),
        size: region.size,
        ready: region.description.ready,
        record: region.description.record,
        ended: region.ended(),
        name: Text::new(&region.description.name),
    }
}
