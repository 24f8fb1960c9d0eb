//! What a dump's file will look like, known before its first byte is written: where each
//! range's bytes go, and which headers stand before them. Places only rise, so that a
//! dump can go into a pipe as well as into a file. Refuses what a format cannot hold.

use vmshm_link::GuestPhysical;

use super::format::DumpFormat;
use super::write::DumpWriteError;
use super::{elf, lime};
use crate::address::BlockOffset;
use crate::layout::Layout;

pub(super) const PAGE: u64 = 4096;
/// No file is longer than this.
const LONGEST_FILE: u64 = i64::MAX as u64;

/// A run of guest-physical addresses, and the place of its first byte in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PlannedRange {
    pub(super) start: u64,
    pub(super) length: u64,
    pub(super) offset: u64,
}

/// Bytes of one RAM block, and the header that comes before them, if one does.
#[derive(Debug, Clone)]
pub(super) struct Stretch {
    pub(super) header: Option<(u64, Vec<u8>)>,
    pub(super) address: GuestPhysical,
    pub(super) length: u64,
    /// Where they go in the file.
    pub(super) offset: u64,
    /// Where they come from.
    pub(super) at: BlockOffset,
}

/// The file of a dump that is to be written.
#[derive(Debug, Clone)]
pub struct DumpPlan {
    format: DumpFormat,
    pub(super) stretches: Vec<Stretch>,
    ranges: usize,
    length: u64,
}

impl DumpPlan {
    /// Plans a dump of all memory of a layout. Ranges without a hole in between become
    /// one, also where they lie in different blocks.
    ///
    /// # Errors
    /// [`DumpWriteError::Empty`], [`DumpWriteError::TooLong`],
    /// [`DumpWriteError::TooManyRanges`].
    pub fn new(layout: &Layout, format: DumpFormat) -> Result<Self, DumpWriteError> {
        let mut ranges = joined(layout);
        let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else {
            return Err(DumpWriteError::Empty);
        };
        let end = GuestPhysical(last.start + last.length);
        let start = first.start;
        let too_long = DumpWriteError::TooLong { format, end };
        place(&mut ranges, format).ok_or(too_long)?;
        let mut headers: Vec<Option<(u64, Vec<u8>)>> = match format {
            DumpFormat::Raw => vec![None; ranges.len()],
            DumpFormat::Lime => ranges
                .iter()
                .map(|range| {
                    let header = lime::header(&(range.start..range.start + range.length));
                    Some((range.offset - lime::HEADER, header.to_vec()))
                })
                .collect(),
            DumpFormat::Elf => {
                let mut headers = vec![None; ranges.len()];
                let head = elf::head(&ranges).ok_or(DumpWriteError::TooManyRanges {
                    ranges: ranges.len(),
                    most: elf::MOST_RANGES,
                })?;
                if let Some(first) = headers.first_mut() {
                    *first = Some((0, head));
                }
                headers
            }
        };
        let mut stretches = Vec::with_capacity(layout.ranges().len());
        for range in layout.ranges() {
            let address = range.extent.start;
            // The joined range that holds it: the last one that does not start behind it.
            let index = ranges
                .partition_point(|joined| joined.start <= address.0)
                .saturating_sub(1);
            let Some(joined) = ranges.get(index) else {
                continue;
            };
            stretches.push(Stretch {
                header: headers.get_mut(index).and_then(Option::take),
                address,
                length: range.extent.length,
                offset: joined.offset + (address.0 - joined.start),
                at: range.at,
            });
        }
        let length = ranges.last().map_or(0, |last| last.offset + last.length);
        tracing::debug!(%format, start, %end, length, ranges = ranges.len(), "dump planned");
        Ok(Self {
            format,
            stretches,
            ranges: ranges.len(),
            length,
        })
    }

    /// Its format.
    #[must_use]
    pub const fn format(&self) -> DumpFormat {
        self.format
    }

    /// How long the file will be, its holes included.
    #[must_use]
    pub const fn file_length(&self) -> u64 {
        self.length
    }

    /// How many ranges of guest-physical addresses it has.
    #[must_use]
    pub const fn ranges(&self) -> usize {
        self.ranges
    }

    /// How much memory it covers, in bytes.
    #[must_use]
    pub fn ram_bytes(&self) -> u64 {
        self.stretches.iter().map(|stretch| stretch.length).sum()
    }
}

/// The layout's ranges with neighbours joined; their places are not known yet.
fn joined(layout: &Layout) -> Vec<PlannedRange> {
    let mut ranges: Vec<PlannedRange> = Vec::new();
    for range in layout.ranges() {
        let extent = range.extent;
        match ranges.last_mut() {
            Some(last) if last.start + last.length == extent.start.0 => {
                last.length += extent.length;
            }
            _ => ranges.push(PlannedRange {
                start: extent.start.0,
                length: extent.length,
                offset: 0,
            }),
        }
    }
    ranges
}

/// Gives each range its place; nothing where the file would be longer than any.
fn place(ranges: &mut [PlannedRange], format: DumpFormat) -> Option<()> {
    let mut end = match format {
        DumpFormat::Elf => elf::head_length(ranges.len()),
        DumpFormat::Lime | DumpFormat::Raw => 0,
    };
    for range in ranges {
        range.offset = match format {
            DumpFormat::Raw => range.start,
            DumpFormat::Lime => end.checked_add(lime::HEADER)?,
            // A page of memory is a page of the file, so that a hole stays one.
            DumpFormat::Elf => end
                .checked_next_multiple_of(PAGE)?
                .checked_add(range.start % PAGE)?,
        };
        end = range.offset.checked_add(range.length)?;
    }
    (end <= LONGEST_FILE).then_some(())
}
