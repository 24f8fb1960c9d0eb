//! The directory: what the guest offers, readable without a session.
//!
//! ```text
//! page 0       header: slots, RAM ranges, version, kernel release; behind it the budget
//!              (0xa00) and the words of the `rendezvous` over TCP (0xa40)
//! pages 1–4    region table: 15 entries of 256 bytes each
//! pages 5–31   session slots, one page each (see `slot`)
//! ```
//!
//! Every page ends with its own guest-physical address (0xff0) and the agent's pulse
//! (0xff8): a host checks both at a page before it writes there. All of it but the
//! host's words in the slots is written by the agent. The header (whose RAM ranges change
//! when memory is plugged) and each region table entry carry a checksum over themselves,
//! so that a reader sees them whole or looks again.

use vmshm_shm::SharedMemory;

use crate::address::{Extent, GuestPhysical};
use crate::beacon::PAGE;
use crate::control::EndCause;
use crate::error::LinkError;
use crate::fields::{Text, put_word, word_at};
use crate::mix::checksum;
use crate::rendezvous;

/// Session slots in a directory.
pub const SLOTS: usize = 27;
/// Regions that a directory can list.
pub const REGIONS: usize = ENTRIES_PER_PAGE * TABLE_PAGES;
/// Size of a directory in bytes.
pub const DIRECTORY_SIZE: u64 = PAGE * (1 + TABLE_PAGES + SLOTS) as u64;
/// RAM ranges that a directory can state.
pub const MAX_RAM_RANGES: usize = 128;
/// Longest name of a region in bytes.
pub const MAX_NAME: usize = 64;

const TABLE_PAGES: usize = 4;
const ENTRIES_PER_PAGE: usize = 15;
const ENTRY: usize = 256;

/// How often a part that the agent may be changing is looked at before it counts as
/// damaged.
const LOOKS: usize = 64;

/// Offset in each page of the page's own guest-physical address.
pub const PAGE_ADDRESS: u64 = 0xff0;
/// Offset in each page of the agent's pulse.
pub const PAGE_PULSE: u64 = 0xff8;

const MAGIC: u64 = u64::from_le_bytes(*b"vmshmdir");
const EPOCH_AT: usize = 0x08;
const HEADER_CHECKSUM_AT: usize = 0x10;
const POLL_AT: usize = 0x18;
const RANGES_AT: usize = 0x20;
const AGENT_VERSION_AT: usize = 0x40;
const KERNEL_AT: usize = 0x60;
const RANGE_TABLE_AT: usize = 0x100;
const HEADER_BYTES: usize = RANGE_TABLE_AT + 16 * MAX_RAM_RANGES;
/// Words that change while the agent runs lie behind the checksummed header.
const PINNED_AT: u64 = 0xa00;
const BUDGET_AT: u64 = 0xa08;

const _: () = assert!(HEADER_BYTES as u64 <= PINNED_AT);
// Behind them lie the words of `rendezvous`.
const _: () = assert!(BUDGET_AT + 8 <= rendezvous::START && rendezvous::END <= PAGE_ADDRESS);
const _: () = assert!((ENTRIES_PER_PAGE * ENTRY) as u64 <= PAGE_ADDRESS);

/// Where slot `index` starts in the directory.
#[must_use]
pub const fn slot_offset(index: usize) -> u64 {
    PAGE * (1 + TABLE_PAGES + index) as u64
}

const fn entry_offset(index: usize) -> u64 {
    PAGE * (1 + index / ENTRIES_PER_PAGE) as u64 + (ENTRY * (index % ENTRIES_PER_PAGE)) as u64
}

/// The facts in a directory's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The beacon's epoch, again.
    pub epoch: u64,
    /// How often the agent looks at its slots while nothing happens, in microseconds
    /// between looks.
    pub idle_poll_micros: u64,
    /// The agent's version.
    pub agent_version: Text<32>,
    /// The guest kernel's release, as `uname -r` prints it.
    pub kernel_release: Text<96>,
    ranges: [Extent; MAX_RAM_RANGES],
    range_count: usize,
}

impl Header {
    /// Describes an agent. RAM ranges beyond [`MAX_RAM_RANGES`] are left out.
    #[must_use]
    pub fn new(
        epoch: u64,
        idle_poll_micros: u64,
        agent_version: &str,
        kernel_release: &str,
        ram: &[Extent],
    ) -> Self {
        let mut ranges = [Extent::default(); MAX_RAM_RANGES];
        let range_count = ram.len().min(MAX_RAM_RANGES);
        ranges[..range_count].copy_from_slice(&ram[..range_count]);
        Self {
            epoch,
            idle_poll_micros,
            agent_version: Text::new(agent_version),
            kernel_release: Text::new(kernel_release),
            ranges,
            range_count,
        }
    }

    /// The guest's RAM as its kernel lists it, in ascending order.
    #[must_use]
    pub fn ram_ranges(&self) -> &[Extent] {
        self.ranges.get(..self.range_count).unwrap_or_default()
    }

    /// Writes the header into a directory.
    ///
    /// # Errors
    /// [`LinkError::Fault`] when the memory cannot be reached.
    pub fn write<M: SharedMemory>(&self, directory: &M) -> Result<(), LinkError> {
        let mut bytes = [0_u8; HEADER_BYTES];
        put_word(&mut bytes, 0, MAGIC);
        put_word(&mut bytes, EPOCH_AT, self.epoch);
        put_word(&mut bytes, POLL_AT, self.idle_poll_micros);
        put_word(&mut bytes, RANGES_AT, self.range_count as u64);
        bytes[AGENT_VERSION_AT..AGENT_VERSION_AT + 32].copy_from_slice(self.agent_version.padded());
        bytes[KERNEL_AT..KERNEL_AT + 96].copy_from_slice(self.kernel_release.padded());
        for (index, range) in self.ram_ranges().iter().enumerate() {
            put_word(&mut bytes, RANGE_TABLE_AT + 16 * index, range.start.0);
            put_word(&mut bytes, RANGE_TABLE_AT + 16 * index + 8, range.length);
        }
        let sum = checksum(&bytes);
        put_word(&mut bytes, HEADER_CHECKSUM_AT, sum);
        Ok(directory.write(0, &bytes)?)
    }

    /// Reads and checks the header of a directory. The agent may be writing a new one at
    /// this moment, so a header that does not add up is looked at again.
    ///
    /// # Errors
    /// [`LinkError::Violation`] when it stays damaged over many looks, or is impossible.
    pub fn read<M: SharedMemory>(directory: &M) -> Result<Self, LinkError> {
        let violation = |what, value| LinkError::Violation { what, value };
        if directory.size() < DIRECTORY_SIZE {
            return Err(violation("the directory's size", directory.size()));
        }
        let mut bytes = [0_u8; HEADER_BYTES];
        let mut looks = 0;
        loop {
            directory.read(0, &mut bytes)?;
            if word_at(&bytes, 0) != MAGIC {
                return Err(violation("the directory's first word", word_at(&bytes, 0)));
            }
            let sum = word_at(&bytes, HEADER_CHECKSUM_AT);
            put_word(&mut bytes, HEADER_CHECKSUM_AT, 0);
            if sum == checksum(&bytes) {
                break;
            }
            looks += 1;
            if looks == LOOKS {
                return Err(violation("the directory header's checksum", sum));
            }
            core::hint::spin_loop();
        }
        let count = word_at(&bytes, RANGES_AT);
        let range_count = usize::try_from(count)
            .ok()
            .filter(|count| *count <= MAX_RAM_RANGES)
            .ok_or(violation("the number of RAM ranges", count))?;
        let mut ranges = [Extent::default(); MAX_RAM_RANGES];
        let mut floor = 0;
        for (index, range) in ranges.iter_mut().take(range_count).enumerate() {
            range.start = GuestPhysical(word_at(&bytes, RANGE_TABLE_AT + 16 * index));
            range.length = word_at(&bytes, RANGE_TABLE_AT + 16 * index + 8);
            match range.end() {
                Some(end) if range.start.0 >= floor && range.length > 0 => floor = end.0,
                _ => return Err(violation("a RAM range", range.start.0)),
            }
        }
        Ok(Self {
            epoch: word_at(&bytes, EPOCH_AT),
            idle_poll_micros: word_at(&bytes, POLL_AT),
            agent_version: Text::from_untrusted(&bytes[AGENT_VERSION_AT..AGENT_VERSION_AT + 32]),
            kernel_release: Text::from_untrusted(&bytes[KERNEL_AT..KERNEL_AT + 96]),
            ranges,
            range_count,
        })
    }
}

/// How much the guest has pinned, and how much it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Bytes pinned now.
    pub pinned: u64,
    /// The most that may be pinned.
    pub limit: u64,
}

impl Budget {
    /// Writes both numbers.
    ///
    /// # Errors
    /// [`LinkError::Fault`] when the memory cannot be reached.
    pub fn write<M: SharedMemory>(&self, directory: &M) -> Result<(), LinkError> {
        directory.store_relaxed(PINNED_AT, self.pinned)?;
        directory.store_relaxed(BUDGET_AT, self.limit)?;
        Ok(())
    }

    /// Reads both numbers.
    ///
    /// # Errors
    /// [`LinkError::Fault`] when the memory cannot be reached.
    pub fn read<M: SharedMemory>(directory: &M) -> Result<Self, LinkError> {
        Ok(Self {
            pinned: directory.load_relaxed(PINNED_AT)?,
            limit: directory.load_relaxed(BUDGET_AT)?,
        })
    }
}

/// Writes each page's own address; `extents` are the directory's, in its order.
///
/// # Errors
/// [`LinkError`] when the extents do not cover the directory.
pub fn write_page_addresses<M: SharedMemory>(
    directory: &M,
    extents: &[Extent],
) -> Result<(), LinkError> {
    let mut at = 0;
    for extent in extents {
        for page in 0..extent.length / PAGE {
            directory.store_relaxed(at + PAGE_ADDRESS, extent.start.0 + page * PAGE)?;
            at += PAGE;
        }
    }
    if at == directory.size() {
        Ok(())
    } else {
        Err(LinkError::Violation {
            what: "the length of the directory's extents",
            value: at,
        })
    }
}

/// Checks that the page at `offset` states the address `expected`.
///
/// # Errors
/// [`LinkError::Violation`] when it states another one.
pub fn verify_page_address<M: SharedMemory>(
    directory: &M,
    offset: u64,
    expected: GuestPhysical,
) -> Result<(), LinkError> {
    let stated = directory.load_relaxed(offset + PAGE_ADDRESS)?;
    if stated == expected.0 {
        Ok(())
    } else {
        Err(LinkError::Violation {
            what: "a directory page's own address",
            value: stated,
        })
    }
}

/// Writes the agent's pulse into the header page and into every slot.
///
/// # Errors
/// [`LinkError::Fault`] when the memory cannot be reached.
pub fn write_pulse<M: SharedMemory>(directory: &M, pulse: u64) -> Result<(), LinkError> {
    directory.store_relaxed(PAGE_PULSE, pulse)?;
    for slot in 0..SLOTS {
        directory.store_relaxed(slot_offset(slot) + PAGE_PULSE, pulse)?;
    }
    Ok(())
}

/// What a region is laid out for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegionKind {
    /// Plain memory, the user's own layout.
    Raw,
    /// Two byte streams, one each way (see `duplex`).
    Pipe,
    /// Where `bench` measures.
    Bench,
    /// A ring of records each way (see `ends`).
    Ring,
    /// The newest value each way (see `ends`).
    Latest,
    /// A byte stream each way, for applications (see `ends`).
    Stream,
    /// What a screen shows: see `frames`.
    Frames,
    /// The pictures of a screen; hosts only read them.
    Pixels,
    /// A kind of a newer minor version: listed, not opened.
    Unknown(u64),
}

impl RegionKind {
    /// As written in the table.
    #[must_use]
    pub const fn to_word(self) -> u64 {
        match self {
            Self::Raw => 1,
            Self::Pipe => 2,
            Self::Bench => 3,
            Self::Ring => 4,
            Self::Latest => 5,
            Self::Stream => 6,
            Self::Frames => 7,
            Self::Pixels => 8,
            Self::Unknown(word) => word,
        }
    }

    /// From the table.
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        match word {
            1 => Self::Raw,
            2 => Self::Pipe,
            3 => Self::Bench,
            4 => Self::Ring,
            5 => Self::Latest,
            6 => Self::Stream,
            7 => Self::Frames,
            8 => Self::Pixels,
            other => Self::Unknown(other),
        }
    }

    /// The name that users see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Pipe => "pipe",
            Self::Bench => "bench",
            Self::Ring => "ring",
            Self::Latest => "latest",
            Self::Stream => "stream",
            Self::Frames => "frames",
            Self::Pixels => "pixels",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// A region as the table lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionEntry {
    /// Number that no other region of this epoch has or had; never zero.
    pub id: u64,
    /// What it is laid out for.
    pub kind: RegionKind,
    /// Size in bytes, whole pages.
    pub size: u64,
    /// Whether a host has proved its pages, and it may be used.
    pub ready: bool,
    /// What a record or value has in bytes, for kinds that have such (see `ends`).
    pub record: u64,
    /// Why it is over, while somebody still holds it; then nobody else gets it.
    pub ended: Option<EndCause>,
    /// Its name; see [`is_valid_name`].
    pub name: Text<MAX_NAME>,
}

/// Whether a region may be called so: 1 to 64 letters, digits, dots, dashes and
/// underscores, and not starting with a dot or a dash.
#[must_use]
pub fn is_valid_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.starts_with(['.', '-'])
}

/// Whether a region may be so many bytes long: whole pages, at most 64 TiB.
#[must_use]
pub const fn is_valid_size(size: u64) -> bool {
    size.is_multiple_of(PAGE) && size >= PAGE && size <= 1 << 46
}

/// Writes entry `index` of the table; nothing clears it.
///
/// # Errors
/// [`LinkError`] when the index or the memory does not fit.
pub fn write_region<M: SharedMemory>(
    directory: &M,
    index: usize,
    entry: Option<&RegionEntry>,
) -> Result<(), LinkError> {
    check_index(index)?;
    let mut bytes = [0_u8; ENTRY];
    if let Some(entry) = entry {
        put_word(&mut bytes, 0x08, entry.id);
        put_word(&mut bytes, 0x10, entry.kind.to_word());
        put_word(&mut bytes, 0x18, entry.size);
        put_word(&mut bytes, 0x20, u64::from(entry.ready));
        put_word(&mut bytes, 0x28, entry.record);
        put_word(&mut bytes, 0x30, entry.ended.map_or(0, EndCause::to_word));
        bytes[0x40..0x40 + MAX_NAME].copy_from_slice(entry.name.padded());
        let sum = checksum(&bytes);
        put_word(&mut bytes, 0, sum);
    }
    Ok(directory.write(entry_offset(index), &bytes)?)
}

/// Reads entry `index` of the table; nothing where there is none.
///
/// # Errors
/// [`LinkError::Violation`] when the entry stays unreadable over many looks, or
/// holds what no agent writes.
pub fn read_region<M: SharedMemory>(
    directory: &M,
    index: usize,
) -> Result<Option<RegionEntry>, LinkError> {
    check_index(index)?;
    let mut bytes = [0_u8; ENTRY];
    for _ in 0..LOOKS {
        directory.read(entry_offset(index), &mut bytes)?;
        let sum = word_at(&bytes, 0);
        if sum == 0 && word_at(&bytes, 0x08) == 0 {
            return Ok(None);
        }
        put_word(&mut bytes, 0, 0);
        if checksum(&bytes) != sum {
            core::hint::spin_loop();
            continue;
        }
        let entry = RegionEntry {
            id: word_at(&bytes, 0x08),
            kind: RegionKind::from_word(word_at(&bytes, 0x10)),
            size: word_at(&bytes, 0x18),
            ready: word_at(&bytes, 0x20) & 1 == 1,
            record: word_at(&bytes, 0x28),
            ended: match word_at(&bytes, 0x30) {
                0 => None,
                word => Some(EndCause::from_word(word)),
            },
            name: Text::from_untrusted(&bytes[0x40..0x40 + MAX_NAME]),
        };
        let possible =
            entry.id != 0 && is_valid_size(entry.size) && is_valid_name(entry.name.as_str());
        return if possible {
            Ok(Some(entry))
        } else {
            Err(LinkError::Violation {
                what: "a region table entry, by its id,",
                value: entry.id,
            })
        };
    }
    Err(LinkError::Violation {
        what: "the checksum of region table entry",
        value: index as u64,
    })
}

/// All regions of a directory, in the table's order.
pub fn regions<M: SharedMemory>(
    directory: &M,
) -> impl Iterator<Item = Result<RegionEntry, LinkError>> + '_ {
    (0..REGIONS).filter_map(|index| read_region(directory, index).transpose())
}

const fn check_index(index: usize) -> Result<(), LinkError> {
    if index < REGIONS {
        Ok(())
    } else {
        Err(LinkError::Violation {
            what: "a region table index",
            value: index as u64,
        })
    }
}
