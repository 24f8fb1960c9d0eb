//! The beacon: the branded page by which the guest announces itself.
//!
//! ```text
//! 0x000  brand, 16 bytes            ┐
//! 0x010  version                    │ frozen for every version:
//! 0x018  own guest-physical address │ a host must be able to name a version
//! 0x020  boot id, 16 bytes          │ that it cannot speak
//! 0x030  checksum of the static part┘
//! 0x038  epoch: random, one per life of the keeper
//! 0x040  directory: length in bytes
//! 0x048  directory: number of extents
//! 0x080  keeper's pulse   ┐ written by the keeper
//! 0x088  keeper's state   ┘
//! 0x0c0  agent's pulse    ┐ written by the agent
//! 0x0c8  agent generation ┘
//! 0x100  directory: extents, 16 bytes each (address, length)
//! ```
//!
//! The static part is everything but the four live words. The page lies at a
//! 2 MiB-aligned guest-physical address where the guest could get one. A page that
//! carries the brand is only a *candidate*: copies of it turn up in page caches and
//! after migrations. It must state its own address, have a right checksum, and its
//! pulses must move at that very place before anybody writes near it.

use crate::address::{Extent, GuestPhysical};
use crate::error::LinkError;
use crate::fields::{put_word, word_at};
use crate::mix::checksum;
use crate::version::{VERSION, Version};

/// Size and alignment of the beacon.
pub const PAGE: u64 = 4096;
/// The same, for buffers.
pub const PAGE_BYTES: usize = 4096;

/// The most extents a directory may consist of.
pub const MAX_DIRECTORY_EXTENTS: usize = 64;

const VERSION_AT: usize = 0x10;
const OWN_ADDRESS_AT: usize = 0x18;
const BOOT_ID_AT: usize = 0x20;
const CHECKSUM_AT: usize = 0x30;
const EPOCH_AT: usize = 0x38;
const LENGTH_AT: usize = 0x40;
const COUNT_AT: usize = 0x48;
const LIVE_AT: usize = 0x80;
const EXTENTS_AT: usize = 0x100;

/// Offset of the page's own guest-physical address.
pub const OWN_ADDRESS: u64 = OWN_ADDRESS_AT as u64;
/// Offset of the keeper's pulse: a count that grows while the keeper lives.
pub const KEEPER_PULSE: u64 = 0x80;
/// Milliseconds between two beats of the keeper: never less, and little more while the
/// guest runs.
pub const KEEPER_BEAT_MILLIS: u64 = 250;
/// Offset of the keeper's state, see [`KeeperState`].
pub const KEEPER_STATE: u64 = 0x88;
/// Offset of the agent's pulse: a count that grows while the agent lives.
pub const AGENT_PULSE: u64 = 0xc0;
/// Offset of the agent's generation: one more for each agent of this keeper.
pub const AGENT_GENERATION: u64 = 0xc8;

const _: () = assert!(COUNT_AT + 8 <= LIVE_AT);
const _: () = assert!(AGENT_GENERATION + 8 <= EXTENTS_AT as u64);
const _: () = assert!(EXTENTS_AT + 16 * MAX_DIRECTORY_EXTENTS <= PAGE_BYTES);

/// The sixteen bytes that mark a beacon. They are put together at run time, so that
/// no program's file holds them.
#[must_use]
pub fn brand() -> [u8; 16] {
    let mask = core::hint::black_box(0x5a_u8);
    // "vmshm beacon" and four bytes that no text holds, each xor 0x5a.
    [
        0x2c, 0x37, 0x29, 0x32, 0x37, 0x7a, 0x38, 0x3f, 0x3b, 0x39, 0x35, 0x34, 0xd5, 0x93, 0xe4,
        0xa0,
    ]
    .map(|byte: u8| byte ^ mask)
}

/// What the keeper says of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeeperState {
    /// No agent has come yet.
    Starting,
    /// An agent serves this memory.
    AgentAlive,
    /// The agent is gone; the memory is kept.
    AgentDead,
    /// The agent has left in good order; the memory goes when the last slot is free.
    Withdrawn,
}

impl KeeperState {
    /// As written in the beacon.
    #[must_use]
    pub const fn to_word(self) -> u64 {
        match self {
            Self::Starting => 0,
            Self::AgentAlive => 1,
            Self::AgentDead => 2,
            Self::Withdrawn => 3,
        }
    }

    /// From the beacon.
    ///
    /// # Errors
    /// [`LinkError::Violation`] for a number that no state has.
    pub const fn from_word(word: u64) -> Result<Self, LinkError> {
        match word {
            0 => Ok(Self::Starting),
            1 => Ok(Self::AgentAlive),
            2 => Ok(Self::AgentDead),
            3 => Ok(Self::Withdrawn),
            value => Err(LinkError::Violation {
                what: "the keeper's state",
                value,
            }),
        }
    }
}

/// The live words of a beacon, as once read. Two readings at the same place that
/// differ in a pulse prove that the page is in use there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signs {
    /// Count of the keeper's heartbeats.
    pub keeper_pulse: u64,
    /// What the keeper says of the agent.
    pub state: KeeperState,
    /// Count of the agent's heartbeats.
    pub agent_pulse: u64,
    /// Which agent of this keeper it is.
    pub generation: u64,
}

impl Signs {
    /// Reads the live words of a private copy of the page.
    ///
    /// # Errors
    /// [`LinkError::Violation`] for a state that does not exist.
    pub fn from_page(page: &[u8]) -> Result<Self, LinkError> {
        #[allow(clippy::cast_possible_truncation, reason = "constants below a page")]
        let at = |offset: u64| word_at(page, offset as usize);
        Ok(Self {
            keeper_pulse: at(KEEPER_PULSE),
            state: KeeperState::from_word(at(KEEPER_STATE))?,
            agent_pulse: at(AGENT_PULSE),
            generation: at(AGENT_GENERATION),
        })
    }

    /// Whether either pulse has moved on since `earlier`.
    #[must_use]
    pub const fn moved_since(&self, earlier: &Self) -> bool {
        self.keeper_pulse > earlier.keeper_pulse || self.agent_pulse > earlier.agent_pulse
    }
}

/// The static part of a beacon: who announces what, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beacon {
    /// The guest side's protocol version.
    pub version: Version,
    /// The page's own guest-physical address.
    pub own: GuestPhysical,
    /// The guest kernel's boot id.
    pub boot_id: [u8; 16],
    /// Random number of this keeper's life; never zero.
    pub epoch: u64,
    directory: [Extent; MAX_DIRECTORY_EXTENTS],
    directory_extents: usize,
}

/// Why a page that carries the brand is no beacon that one can talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BeaconError {
    /// The page does not start with the brand.
    #[error("the page does not carry the brand")]
    NoBrand,
    /// The checksum is wrong: a torn or outdated copy.
    #[error("the page's checksum is wrong: it is an old copy of a beacon")]
    Checksum,
    /// The guest speaks another major version.
    #[error(transparent)]
    Incompatible(LinkError),
    /// A field holds what no agent writes.
    #[error("the beacon's {0} is impossible")]
    Field(&'static str),
}

impl Beacon {
    /// Describes a beacon at `own` with a directory at `directory`.
    ///
    /// # Errors
    /// [`BeaconError::Field`] when an address is not a page's or there are too many
    /// extents.
    pub fn new(
        own: GuestPhysical,
        boot_id: [u8; 16],
        epoch: u64,
        directory: &[Extent],
    ) -> Result<Self, BeaconError> {
        let mut extents = [Extent::default(); MAX_DIRECTORY_EXTENTS];
        extents
            .get_mut(..directory.len())
            .ok_or(BeaconError::Field("number of directory extents"))?
            .copy_from_slice(directory);
        let beacon = Self {
            version: VERSION,
            own,
            boot_id,
            epoch,
            directory: extents,
            directory_extents: directory.len(),
        };
        beacon.check()?;
        Ok(beacon)
    }

    /// Where the directory lies, in its own order.
    #[must_use]
    pub fn directory(&self) -> &[Extent] {
        self.directory
            .get(..self.directory_extents)
            .unwrap_or_default()
    }

    /// Length of the directory in bytes.
    #[must_use]
    pub fn directory_length(&self) -> u64 {
        self.directory().iter().map(|extent| extent.length).sum()
    }

    /// The page as bytes, with live words of zero. The writer puts the brand (the
    /// first sixteen bytes) into memory last.
    #[must_use]
    pub fn to_page(&self) -> [u8; PAGE_BYTES] {
        let mut page = [0_u8; PAGE_BYTES];
        page[..16].copy_from_slice(&brand());
        put_word(&mut page, VERSION_AT, self.version.to_word());
        put_word(&mut page, OWN_ADDRESS_AT, self.own.0);
        page[BOOT_ID_AT..BOOT_ID_AT + 16].copy_from_slice(&self.boot_id);
        put_word(&mut page, EPOCH_AT, self.epoch);
        put_word(&mut page, LENGTH_AT, self.directory_length());
        put_word(&mut page, COUNT_AT, self.directory_extents as u64);
        for (index, extent) in self.directory().iter().enumerate() {
            put_word(&mut page, EXTENTS_AT + 16 * index, extent.start.0);
            put_word(&mut page, EXTENTS_AT + 16 * index + 8, extent.length);
        }
        let sum = static_checksum(&page);
        put_word(&mut page, CHECKSUM_AT, sum);
        page
    }

    /// Reads a private copy of a page.
    ///
    /// # Errors
    /// [`BeaconError`], with another major version told apart from a damaged page.
    pub fn from_page(page: &[u8; PAGE_BYTES]) -> Result<Self, BeaconError> {
        if page[..16] != brand() {
            return Err(BeaconError::NoBrand);
        }
        if word_at(page, CHECKSUM_AT) != static_checksum(page) {
            return Err(BeaconError::Checksum);
        }
        let version = Version::from_word(word_at(page, VERSION_AT));
        Version::accept(version).map_err(BeaconError::Incompatible)?;
        let count = usize::try_from(word_at(page, COUNT_AT))
            .ok()
            .filter(|count| (1..=MAX_DIRECTORY_EXTENTS).contains(count))
            .ok_or(BeaconError::Field("number of directory extents"))?;
        let mut directory = [Extent::default(); MAX_DIRECTORY_EXTENTS];
        for (index, extent) in directory.iter_mut().take(count).enumerate() {
            extent.start = GuestPhysical(word_at(page, EXTENTS_AT + 16 * index));
            extent.length = word_at(page, EXTENTS_AT + 16 * index + 8);
        }
        let mut boot_id = [0; 16];
        boot_id.copy_from_slice(&page[BOOT_ID_AT..BOOT_ID_AT + 16]);
        let beacon = Self {
            version,
            own: GuestPhysical(word_at(page, OWN_ADDRESS_AT)),
            boot_id,
            epoch: word_at(page, EPOCH_AT),
            directory,
            directory_extents: count,
        };
        beacon.check()?;
        if word_at(page, LENGTH_AT) != beacon.directory_length() {
            return Err(BeaconError::Field("directory length"));
        }
        Ok(beacon)
    }

    fn check(&self) -> Result<(), BeaconError> {
        if !self.own.is_aligned_to(PAGE) || self.own.checked_add(PAGE).is_none() {
            return Err(BeaconError::Field("own address"));
        }
        if self.epoch == 0 {
            return Err(BeaconError::Field("epoch"));
        }
        if self.directory().is_empty() {
            return Err(BeaconError::Field("number of directory extents"));
        }
        for extent in self.directory() {
            let whole_pages =
                extent.start.is_aligned_to(PAGE) && extent.length.is_multiple_of(PAGE);
            // No directory is anywhere near 16 MiB; this also keeps sums from overflowing.
            if !whole_pages || extent.end().is_none() || !(1..=1 << 24).contains(&extent.length) {
                return Err(BeaconError::Field("directory extent"));
            }
        }
        Ok(())
    }
}

/// Over the whole page with the live words and the checksum itself taken as zero.
fn static_checksum(page: &[u8; PAGE_BYTES]) -> u64 {
    let mut quiet = *page;
    quiet[CHECKSUM_AT..CHECKSUM_AT + 8].fill(0);
    quiet[LIVE_AT..EXTENTS_AT].fill(0);
    checksum(&quiet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Beacon {
        let extents = [
            Extent {
                start: GuestPhysical(0x20_0000),
                length: 0x3000,
            },
            Extent {
                start: GuestPhysical(0x1_0000_0000),
                length: 0x1000,
            },
        ];
        Beacon::new(GuestPhysical(0x40_0000), [7; 16], 99, &extents).expect("a right beacon")
    }

    #[test]
    fn a_page_reads_back_as_written_whatever_its_live_words_say() {
        let beacon = sample();
        let mut page = beacon.to_page();
        put_word(&mut page, 0x80, u64::MAX);
        put_word(&mut page, 0xc0, 5);
        assert_eq!(Beacon::from_page(&page), Ok(beacon));
    }

    #[test]
    fn every_flipped_bit_of_the_static_part_is_noticed() {
        let page = sample().to_page();
        for byte in (0..0x80).chain(0x100..0x120) {
            let mut bad = page;
            bad[byte] ^= 1;
            assert!(Beacon::from_page(&bad).is_err(), "byte {byte:#x}");
        }
    }

    #[test]
    fn another_major_version_is_named_even_though_nothing_else_is_understood() {
        let mut beacon = sample();
        beacon.version.major = 9;
        let result = Beacon::from_page(&beacon.to_page());
        let text = std::format!("{}", result.expect_err("refused"));
        let (theirs, ours) = (beacon.version, crate::VERSION);
        let both = [theirs, ours].map(|version| std::format!("{version}"));
        assert!(both.iter().all(|one| text.contains(one)), "{text}");
    }

    #[test]
    fn impossible_fields_are_refused() {
        let page_of = |beacon: Beacon| beacon.to_page();
        let mut beacon = sample();
        beacon.epoch = 0;
        assert!(Beacon::from_page(&page_of(beacon)).is_err());
        let mut beacon = sample();
        beacon.directory[0].length = !0xfff;
        beacon.directory_extents = 1;
        assert!(Beacon::from_page(&page_of(beacon)).is_err());
    }
}
