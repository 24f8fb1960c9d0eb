//! Looking for a guest's beacon and reading what it announces, without writing
//! anything. What comes out is only *seen*; `attach` proves it.

use std::sync::Arc;

use vmshm_link::beacon::{self, Beacon, PAGE, PAGE_BYTES, Signs};
use vmshm_link::directory::{self, DIRECTORY_SIZE, Header, RegionEntry, SLOTS};
use vmshm_link::{Extent, GuestPhysical, LinkError};
use vmshm_ram::{
    BlockOffset, BlockPiece, GuestRam, Layout, OpenError, Protection, RamBlock, View, Vmm,
};
use vmshm_shm::SharedMemory;

use crate::findings::Fit;
use crate::ties;

/// A VM's opened memory, with what is known of it beforehand.
#[derive(Debug)]
pub struct Target {
    /// The VM.
    pub vmm: Vmm,
    /// Its memory.
    pub ram: Arc<GuestRam>,
    /// By the machine's rule: one, or one for each block that may be the RAM.
    rules: Vec<Layout>,
    blocks: Vec<RamBlock>,
}

impl Target {
    /// Opens the memory of `vmm`.
    ///
    /// # Errors
    /// [`OpenError`], with the reason and what would help.
    pub fn open(vmm: &Vmm, method: vmshm_ram::Method) -> Result<Self, OpenError> {
        let ram = Arc::new(GuestRam::open(vmm, method)?);
        Ok(Self {
            vmm: vmm.clone(),
            rules: vmm.rule_layouts(),
            blocks: ram.blocks().cloned().collect(),
            ram,
        })
    }

    /// Where the machine's rule, or plain counting from a block's start, would put an
    /// address. Guesses: whoever uses one checks what lies there.
    pub(crate) fn likely_places(&self, address: GuestPhysical) -> Vec<BlockOffset> {
        let by_rule = self
            .rules
            .iter()
            .filter_map(|rule| rule.translate(address).ok());
        let counted = (0..self.blocks.len()).map(|block| BlockOffset {
            block,
            offset: address.0,
        });
        distinct(by_rule.map(|location| location.at).chain(counted))
    }

    /// What the machine's rule says of a page at `at` that states the address `own`.
    pub(crate) fn fit(&self, own: GuestPhysical, at: BlockOffset) -> Fit {
        let Some(rule) = self.rule_of(at.block) else {
            return Fit::Open;
        };
        match rule.translate(own) {
            // Of several blocks any may be the RAM: what lives in one decides.
            Ok(location) if location.at == at && self.rules.len() > 1 => Fit::Open,
            Ok(location) if location.at == at => Fit::Right,
            Ok(_) => Fit::Wrong,
            Err(_) if rule.guest_physical(at).is_some() => Fit::Wrong,
            // Plugged memory: the rule knows neither its place nor its address.
            Err(_) => Fit::Open,
        }
    }

    /// Whether all of the guest's RAM is in one of several blocks. Where blocks are no more
    /// than counted, it may be in more of them.
    fn is_in_one_block(&self) -> bool {
        self.rules.len() > 1 && !self.rules.iter().any(Layout::is_guess)
    }

    /// The machine's rule, if this block is the guest's RAM.
    fn rule_of(&self, block: usize) -> Option<&Layout> {
        let has_block = |rule: &&Layout| rule.ranges().iter().any(|range| range.at.block == block);
        match &self.rules[..] {
            [only] => Some(only),
            several => several.iter().find(has_block),
        }
    }
}

/// Each place once, in the order given: one that came twice would look like two beacons.
fn distinct(places: impl Iterator<Item = BlockOffset>) -> Vec<BlockOffset> {
    places.fold(Vec::new(), |mut once, at| {
        if !once.contains(&at) {
            once.push(at);
        }
        once
    })
}

/// Where to look for the beacon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// Scan resident memory, likely places first.
    Scan,
    /// Only at this address, as `vmshm-agent status` prints it.
    At(GuestPhysical),
    /// Only where a running `vmshm listen` of this user has learned it to be, see
    /// [`crate::ties`].
    Learned,
}

impl Where {
    /// With what a listener has learned of `vmm` in place of [`Where::Learned`]; nothing
    /// where none knows it.
    #[must_use]
    pub fn resolved_for(self, vmm: &Vmm) -> Option<Self> {
        match self {
            Self::Learned => {
                let known = ties::beacon_of(vmm.pid).map(Self::At);
                tracing::debug!(vm = vmm.name, ?known, "asked what a listener has learned");
                known
            }
            other => Some(other),
        }
    }
}

/// A page that carries the brand and reads as a beacon. It may be an old copy.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// Where it lies.
    pub at: BlockOffset,
    /// What it states.
    pub beacon: Beacon,
    /// Its live words when it was last read.
    pub signs: Signs,
}

/// The live words at `at`, if the same beacon still stands there.
#[must_use]
pub fn signs_at(ram: &GuestRam, at: BlockOffset, beacon: &Beacon) -> Option<Signs> {
    let mut page = [0; PAGE_BYTES];
    ram.read_at(at, &mut page).ok()?;
    let there = Beacon::from_page(&page).ok()?;
    (there == *beacon).then(|| Signs::from_page(&page).ok())?
}

/// The address that a page at `at` states as its own, if it were a beacon.
pub(crate) fn stated_address(ram: &GuestRam, at: BlockOffset) -> Option<GuestPhysical> {
    let mut word = [0; 8];
    ram.read_at(at.checked_add(beacon::OWN_ADDRESS)?, &mut word)
        .ok()?;
    Some(GuestPhysical(u64::from_le_bytes(word)))
}

/// What came of looking for a living beacon.
#[derive(Debug)]
pub enum Sighting {
    /// One guest's beacon, alive.
    Living(Candidate),
    /// A VM inside the VM has a living beacon of its own.
    Nested,
    /// Beacons, but none whose pulse moved in the time given.
    Silent(Candidate),
    /// Branded pages of a protocol that this side does not speak.
    Incompatible(LinkError),
    /// No agent.
    Nothing,
}

/// A guest's directory, located and checked, but not proved.
#[derive(Debug, Clone)]
pub struct Directory {
    /// The directory as one linear memory.
    pub memory: Arc<View>,
    /// Its header.
    pub header: Header,
    /// Guest-physical addresses of its pages, in order.
    pub pages: Vec<GuestPhysical>,
    /// Where each address of the guest lies, as far as the beacon and the directory
    /// prove it.
    pub layout: Layout,
    /// The pages' pulses when they were first seen: header, then slots.
    pub pulses: Vec<u64>,
}

/// Why a beacon's directory could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The memory could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The directory holds what no agent writes.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The beacon's and the directory's addresses contradict each other.
    #[error("the guest's addresses contradict each other: {0}")]
    Layout(#[from] vmshm_ram::LayoutError),
    /// A page of the directory is not where any known layout would put it.
    #[error("the directory's page at {0} could not be found in the VM's memory")]
    NotFound(GuestPhysical),
}

impl DirectoryError {
    /// Whether the addresses are such as only a guest inside the guest has them: its
    /// pages lie scattered in the outer one's RAM.
    #[must_use]
    pub const fn shows_nesting(&self) -> bool {
        matches!(
            self,
            Self::Layout(vmshm_ram::LayoutError::Contradiction { .. })
        )
    }
}

impl Directory {
    /// Locates and reads the directory that `candidate` announces.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub fn open(
        target: &Target,
        candidate: &Candidate,
        protection: Protection,
    ) -> Result<Self, DirectoryError> {
        let pages = page_addresses(candidate.beacon.directory());
        let mut points = vec![(candidate.beacon.own, candidate.at)];
        for &page in &pages {
            points.push((page, locate_page(target, candidate, page)?));
        }
        let pieces: Vec<_> = points[1..]
            .iter()
            .map(|&(_, at)| BlockPiece { at, length: PAGE })
            .collect();
        let memory = Arc::new(target.ram.view(&pieces, protection)?);
        let header = Header::read(&memory)?;
        if header.epoch != candidate.beacon.epoch || memory.size() != DIRECTORY_SIZE {
            return Err(LinkError::Violation {
                what: "the directory's epoch",
                value: header.epoch,
            }
            .into());
        }
        let layout = Layout::prove(
            &points,
            header.ram_ranges(),
            &target.blocks,
            target.rule_of(candidate.at.block),
        )?;
        let pulses = read_pulses(&memory)?;
        Ok(Self {
            memory,
            header,
            pages,
            layout,
            pulses,
        })
    }

    /// The regions that can be opened. One that is over is no more for anybody but those who
    /// still hold it.
    pub fn regions(&self) -> impl Iterator<Item = Result<RegionEntry, LinkError>> + '_ {
        directory::regions(&self.memory)
            .filter(|entry| entry.as_ref().map_or(true, |entry| entry.ended.is_none()))
    }

    /// Whether slot `index`'s own page states its address and its pulse has moved
    /// there since the directory was opened: only then may it be written.
    ///
    /// # Errors
    /// [`LinkError`] when the page states another address.
    pub fn slot_is_live(&self, index: usize) -> Result<bool, LinkError> {
        let base = directory::slot_offset(index);
        let page = usize::try_from(base / PAGE).unwrap_or(usize::MAX);
        let expected = self.pages.get(page).copied().unwrap_or_default();
        directory::verify_page_address(&self.memory, base, expected)?;
        let pulse = self.memory.load_relaxed(base + directory::PAGE_PULSE)?;
        Ok(self.pulses.get(index + 1).is_some_and(|old| *old != pulse))
    }
}

fn read_pulses(memory: &Arc<View>) -> Result<Vec<u64>, LinkError> {
    let header = std::iter::once(0);
    let slots = (0..SLOTS).map(directory::slot_offset);
    header
        .chain(slots)
        .map(|page| Ok(memory.load_relaxed(page + directory::PAGE_PULSE)?))
        .collect()
}

fn page_addresses(extents: &[Extent]) -> Vec<GuestPhysical> {
    extents
        .iter()
        .flat_map(|extent| {
            (0..extent.length / PAGE).filter_map(|page| extent.start.checked_add(page * PAGE))
        })
        .take(usize::try_from(DIRECTORY_SIZE / PAGE).unwrap_or(usize::MAX))
        .collect()
}

/// Finds a directory page: at the beacon's distance, else where a machine's rules put
/// it, else by searching for a page that states its own address there. Every guess is
/// checked against the address that the page states.
fn locate_page(
    target: &Target,
    candidate: &Candidate,
    page: GuestPhysical,
) -> Result<BlockOffset, DirectoryError> {
    let distance = i128::from(page.0) - i128::from(candidate.beacon.own.0);
    let beside = u64::try_from(i128::from(candidate.at.offset) + distance)
        .ok()
        .map(|offset| BlockOffset {
            block: candidate.at.block,
            offset,
        });
    beside
        .into_iter()
        .chain(target.likely_places(page))
        .filter(|at| at.block == candidate.at.block || !target.is_in_one_block())
        .find(|at| states_address(&target.ram, *at, page))
        .ok_or(DirectoryError::NotFound(page))
}

fn states_address(ram: &GuestRam, at: BlockOffset, page: GuestPhysical) -> bool {
    let mut word = [0; 8];
    at.checked_add(directory::PAGE_ADDRESS)
        .is_some_and(|at| ram.read_at(at, &mut word).is_ok())
        && u64::from_le_bytes(word) == page.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_two_guesses_name_is_looked_at_once() {
        let at = |block, offset| BlockOffset { block, offset };
        // The rule names a place that counting names too, but not next to it.
        let guesses = [at(1, 7), at(0, 7), at(1, 7)];
        assert_eq!(distinct(guesses.into_iter()), [at(1, 7), at(0, 7)]);
    }
}
