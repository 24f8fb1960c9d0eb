//! The map from guest-physical addresses to RAM blocks, with its holes, and how each
//! part of it was established. Refuses ranges that overlap, and points that
//! contradict each other.

use std::fmt;

use vmshm_link::{Extent, GuestPhysical};

use crate::address::{BlockOffset, BlockPiece, merge_pieces};

/// How a range of the layout was established, the most certain first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Source {
    /// By a beacon or an extent that was seen, alive, at its place.
    Proved,
    /// By the VMM itself, over QMP.
    Qmp,
    /// By firmware tables whose pointers lead to what they describe.
    FirmwareTables,
    /// By the guest's own page tables, which lead to what they say.
    GuestPageTables,
    /// By the headers of a stored dump.
    DumpHeaders,
    /// By the rule of the machine that the VMM plays.
    MachineRule,
    /// By counting from a file's start, for want of anything better.
    FileOrder,
    /// By counting from the start of the largest block of RAM: a guess.
    BlockOrder,
}

impl Source {
    /// The word that scripts see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Proved => "proved",
            Self::Qmp => "qmp",
            Self::FirmwareTables => "firmware-tables",
            Self::GuestPageTables => "guest-page-tables",
            Self::DumpHeaders => "dump-headers",
            Self::MachineRule => "machine-rule",
            Self::FileOrder => "file-order",
            Self::BlockOrder => "block-order",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proved => "proved by the agent's pages",
            Self::Qmp => "told by QMP",
            Self::FirmwareTables => "shown by firmware tables",
            Self::GuestPageTables => "shown by the guest's page tables",
            Self::DumpHeaders => "stated by the dump's headers",
            Self::MachineRule => "by the machine's rule, not proved",
            Self::FileOrder => "by place in the raw file",
            Self::BlockOrder => "counted from the start of the largest block, a guess",
        })
    }
}

/// A run of guest-physical addresses and the place that holds its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayoutRange {
    /// The addresses.
    pub extent: Extent,
    /// Where the first of them lies.
    pub at: BlockOffset,
    /// How that is known.
    pub source: Source,
}

/// Where an address lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// The place.
    pub at: BlockOffset,
    /// How many bytes follow in the same range, this one included.
    pub remaining: u64,
    /// How that is known.
    pub source: Source,
}

/// Why a layout could not be made or does not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// Between two ranges of RAM.
    #[error("address {address} is in a hole of the guest's RAM, between {before} and {after}")]
    Hole {
        /// The address.
        address: GuestPhysical,
        /// Where the range before the hole ends.
        before: GuestPhysical,
        /// Where the next range starts.
        after: GuestPhysical,
    },
    /// Behind the last range of RAM.
    #[error("address {address} is past the guest's RAM, which ends at {end}")]
    PastEnd {
        /// The address.
        address: GuestPhysical,
        /// Where RAM ends.
        end: GuestPhysical,
    },
    /// Before the first range of RAM.
    #[error("address {address} is before the guest's RAM, which starts at {start}")]
    BeforeStart {
        /// The address.
        address: GuestPhysical,
        /// Where RAM starts.
        start: GuestPhysical,
    },
    /// There is no range at all.
    #[error("nothing is known of where the guest's RAM lies")]
    Empty,
    /// A run of addresses is empty or goes past the largest number.
    #[error("{length} bytes from address {start} are no run of addresses")]
    BadExtent {
        /// First address.
        start: GuestPhysical,
        /// Length in bytes.
        length: u64,
    },
    /// Two ranges claim the same addresses.
    #[error("two ranges of the layout overlap at address {address}")]
    Overlap {
        /// The first address that both have.
        address: GuestPhysical,
    },
    /// Points that cannot all be right: a nested guest, or a wrong report.
    #[error("address {first} and address {second} contradict each other: {what}")]
    Contradiction {
        /// One point.
        first: GuestPhysical,
        /// Another.
        second: GuestPhysical,
        /// In which way.
        what: &'static str,
    },
    /// A point is not where its RAM range or its block is.
    #[error("address {address} is reported outside the guest's own RAM ranges or the VM's RAM")]
    StrayPoint {
        /// The point.
        address: GuestPhysical,
    },
    /// The VMM lays RAM out as the guest happens to touch it.
    #[error(
        "this VMM lays RAM out in small pieces in the order in which the guest first touches them: no rule is known for where an address lies"
    )]
    Scattered,
    /// No rule says where this VM's RAM appears.
    #[error("no rule is known for where this VM's RAM appears to its guest")]
    NoRule,
}

impl LayoutError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoRule | Self::Empty => {
                Some("run vmshm-agent in the guest: its pages show where its RAM lies".to_owned())
            }
            Self::Scattered => Some(
                "a program in the guest can mark pages with their own addresses; the library's `Layout::prove_granules` takes what is seen of them"
                    .to_owned(),
            ),
            Self::Contradiction { .. } => Some(
                "another VM may be running inside this one; its agent cannot be used from here"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// All known ranges, sorted and disjoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    ranges: Vec<LayoutRange>,
}

impl Layout {
    /// Makes a layout of ranges in any order.
    ///
    /// # Errors
    /// [`LayoutError::Overlap`], [`LayoutError::BadExtent`].
    pub fn new(mut ranges: Vec<LayoutRange>) -> Result<Self, LayoutError> {
        ranges.sort_by_key(|range| range.extent.start);
        let mut end = GuestPhysical(0);
        for range in &ranges {
            let extent = range.extent;
            let bad = LayoutError::BadExtent {
                start: extent.start,
                length: extent.length,
            };
            if extent.length == 0 || range.at.checked_add(extent.length).is_none() {
                return Err(bad);
            }
            if extent.start < end {
                return Err(LayoutError::Overlap {
                    address: extent.start,
                });
            }
            end = extent.end().ok_or(bad)?;
        }
        Ok(Self { ranges })
    }

    /// Whether any of it is no more than a guess, from which nothing may be concluded.
    #[must_use]
    pub fn is_guess(&self) -> bool {
        self.ranges
            .iter()
            .any(|range| range.source >= Source::BlockOrder)
    }

    /// The ranges, in rising order.
    #[must_use]
    pub fn ranges(&self) -> &[LayoutRange] {
        &self.ranges
    }

    /// Where a guest-physical address lies.
    ///
    /// # Errors
    /// [`LayoutError`] where no range has it, with the nearest that do.
    pub fn translate(&self, address: GuestPhysical) -> Result<Location, LayoutError> {
        let after = self
            .ranges
            .partition_point(|range| range.extent.start <= address);
        let before = after
            .checked_sub(1)
            .and_then(|index| self.ranges.get(index));
        if let Some(range) = before
            && range.extent.contains(address)
        {
            let into = address.0 - range.extent.start.0;
            return Ok(Location {
                at: BlockOffset {
                    block: range.at.block,
                    offset: range.at.offset + into,
                },
                remaining: range.extent.length - into,
                source: range.source,
            });
        }
        let end_of =
            |range: &LayoutRange| GuestPhysical(range.extent.start.0 + range.extent.length);
        Err(match (before, self.ranges.get(after)) {
            (Some(before), Some(after)) => LayoutError::Hole {
                address,
                before: end_of(before),
                after: after.extent.start,
            },
            (Some(last), None) => LayoutError::PastEnd {
                address,
                end: end_of(last),
            },
            (None, Some(first)) => LayoutError::BeforeStart {
                address,
                start: first.extent.start,
            },
            (None, None) => LayoutError::Empty,
        })
    }

    /// Where a list of extents lies, piece by piece in their order; neighbours in the
    /// same block are joined.
    ///
    /// # Errors
    /// [`LayoutError`] where any byte of them is not in the layout.
    pub fn pieces(&self, extents: &[Extent]) -> Result<Vec<BlockPiece>, LayoutError> {
        let mut pieces = Vec::with_capacity(extents.len());
        for extent in extents {
            self.walk(extent, |piece, _| pieces.push(piece))?;
        }
        Ok(merge_pieces(&pieces))
    }

    /// The least certain source among all bytes of the extents; nothing for no extents.
    ///
    /// # Errors
    /// As [`pieces`](Self::pieces).
    pub fn weakest_source(&self, extents: &[Extent]) -> Result<Option<Source>, LayoutError> {
        let mut weakest = None;
        for extent in extents {
            self.walk(extent, |_, source| weakest = weakest.max(Some(source)))?;
        }
        Ok(weakest)
    }

    /// The guest-physical address of a place, if the layout has it.
    #[must_use]
    pub fn guest_physical(&self, at: BlockOffset) -> Option<GuestPhysical> {
        self.ranges.iter().find_map(|range| {
            let into = at.offset.checked_sub(range.at.offset)?;
            (range.at.block == at.block && into < range.extent.length)
                .then(|| GuestPhysical(range.extent.start.0 + into))
        })
    }

    fn walk(
        &self,
        extent: &Extent,
        mut visit: impl FnMut(BlockPiece, Source),
    ) -> Result<(), LayoutError> {
        let bad = LayoutError::BadExtent {
            start: extent.start,
            length: extent.length,
        };
        if extent.length == 0 {
            return Err(bad);
        }
        let end = extent.end().ok_or(bad)?;
        let mut at = extent.start;
        while at < end {
            let location = self.translate(at)?;
            let length = location.remaining.min(end.0 - at.0);
            visit(
                BlockPiece {
                    at: location.at,
                    length,
                },
                location.source,
            );
            at = GuestPhysical(at.0 + length);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
