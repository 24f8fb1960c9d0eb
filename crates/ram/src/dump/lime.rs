//! LiME files: before each range a header of 32 bytes, little-endian: magic, version,
//! first and last address (the last one included), and eight reserved bytes. After
//! github.com/504ensicsLabs/LiME, `doc/README.md` ("lime format").

use std::io::Read;
use std::ops::Range;

use super::stored::{DumpError, MOST_SEGMENTS, Place, Segment};

/// `0x4C694D45`, which lies in the file as "EMiL".
pub(super) const MAGIC: u32 = 0x4c69_4d45;
/// The one version there is.
pub(super) const VERSION: u32 = 1;
/// Bytes of a header.
pub(super) const HEADER: u64 = 32;

/// The header of one range, which must not be empty.
#[must_use]
pub(super) fn header(range: &Range<u64>) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
    bytes[8..16].copy_from_slice(&range.start.to_le_bytes());
    bytes[16..24].copy_from_slice(&range.end.saturating_sub(1).to_le_bytes());
    bytes
}

/// Reads all headers. `read_at` gives a reader at a place of the file.
pub(super) fn segments<R: Read>(
    length: u64,
    read_at: impl Fn(u64) -> std::io::Result<R>,
) -> Result<Vec<Segment>, DumpError> {
    let mut segments = Vec::new();
    let mut at = 0;
    while at < length {
        let cut = DumpError::Truncated {
            needed: at.saturating_add(HEADER),
            length,
        };
        if length - at < HEADER {
            return Err(cut);
        }
        let mut bytes = [0; 32];
        read_at(at)
            .and_then(|mut reader| reader.read_exact(&mut bytes))
            .map_err(DumpError::Read)?;
        let half = |from: usize| {
            let bytes = bytes
                .get(from..from + 4)
                .and_then(|part| part.first_chunk());
            bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
        };
        let word = |from: usize| {
            let bytes = bytes
                .get(from..from + 8)
                .and_then(|part| part.first_chunk());
            bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
        };
        let (magic, version, first, last) = (half(0), half(4), word(8), word(16));
        if magic != MAGIC || version != VERSION {
            return Err(DumpError::Damaged {
                at,
                what: "no LiME header of version 1 stands where the next range begins",
            });
        }
        let size = last
            .checked_sub(first)
            .and_then(|size| size.checked_add(1))
            .ok_or(DumpError::Damaged {
                at,
                what: "a LiME range ends before it starts",
            })?;
        let data = at + HEADER;
        let end = data.checked_add(size).filter(|end| *end <= length);
        let end = end.ok_or(DumpError::Truncated {
            needed: data.saturating_add(size),
            length,
        })?;
        segments.push(Segment {
            start: first,
            length: size,
            place: Place::At(data),
        });
        if segments.len() > MOST_SEGMENTS {
            break;
        }
        at = end;
    }
    Ok(segments)
}
