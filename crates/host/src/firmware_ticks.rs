//! Whether a guest's firmware has run again: the first sign of a guest that boots anew, soon after
//! its reset and before a BIOS loads anything.
//!
//! A PC's BIOS counts ticks of its clock in its data area, below the first page that a kernel
//! uses. No kernel lets it count on, so the count stands still from the kernel's start until the
//! BIOS starts over: it clears the area and sets the count by the clock of the day. Where the
//! area does not look like a BIOS's (UEFI, a VMM that starts kernels itself) there is no such
//! sign, and a restart shows by its keeper's silence, some hundred milliseconds later.

use std::sync::Arc;

use vmshm_link::GuestPhysical;
use vmshm_link::beacon::PAGE;
use vmshm_ram::{BlockOffset, BlockPiece, GuestRam, Layout, Protection, View};
use vmshm_shm::SharedMemory;

/// The interrupt vectors and the data area behind them (IBM, *Personal System/2 and Personal
/// Computer BIOS Interface Technical Reference*, 1988, section 3).
const AREA: usize = 0x500;
/// Offset and segment for each of the processor's 256 interrupts.
const VECTORS: usize = 0x400;
/// Where a BIOS's own routines lie.
const SEGMENT: u16 = 0xf000;
/// So many vectors of one that is not there would not lead into it by chance.
const VECTORS_OF_BIOS: usize = 32;
/// The memory below 640 KiB that programs may use, in KiB.
const BASE_MEMORY: usize = 0x413;
/// Ticks since midnight, 18.2 a second.
const TICKS: usize = 0x46c;

/// The count as it stood when a guest was first looked at.
#[derive(Debug)]
pub(crate) struct FirmwareTicks {
    first_page: View,
    left_at: u32,
}

impl FirmwareTicks {
    /// Finds them in a guest whose kernel runs; nothing where no BIOS has left any.
    pub(crate) fn find(ram: &GuestRam, layout: &Layout) -> Option<Arc<Self>> {
        let first_page = ram.view(&[first_page(layout)?], Protection::Read).ok()?;
        let left_at = ticks(&read(&first_page)?)?;
        Some(Arc::new(Self {
            first_page,
            left_at,
        }))
    }

    /// Whether the firmware has started over since.
    pub(crate) fn have_moved(&self) -> bool {
        // Memory that cannot be read belongs to a VM that is gone, which others notice.
        read(&self.first_page).is_some_and(|area| word(&area, TICKS) != self.left_at)
    }
}

/// Where the guest's first page lies. Kernels keep it from their own use, so that a layout may
/// begin behind it.
fn first_page(layout: &Layout) -> Option<BlockPiece> {
    let first = layout.ranges().first()?;
    let GuestPhysical(before) = first.extent.start;
    if before > PAGE {
        return None;
    }
    let at = BlockOffset {
        block: first.at.block,
        offset: first.at.offset.checked_sub(before)?,
    };
    Some(BlockPiece { at, length: PAGE })
}

fn read(first_page: &View) -> Option<[u8; AREA]> {
    let mut area = [0; AREA];
    first_page.read(0, &mut area).ok()?;
    Some(area)
}

/// The count, where this is a BIOS's area.
fn ticks(area: &[u8; AREA]) -> Option<u32> {
    let (vectors, _) = area[..VECTORS].as_chunks::<4>();
    let of_bios = vectors
        .iter()
        .filter(|vector| u16::from_le_bytes([vector[2], vector[3]]) == SEGMENT)
        .count();
    let base_memory = word(area, BASE_MEMORY) & 0xffff;
    let is_bios = of_bios >= VECTORS_OF_BIOS && (256..=640).contains(&base_memory);
    is_bios.then(|| word(area, TICKS))
}

fn word(area: &[u8; AREA], at: usize) -> u32 {
    let bytes = area.get(at..).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use vmshm_link::Extent;
    use vmshm_ram::{LayoutRange, Source};

    use super::*;

    /// As SeaBIOS leaves it: vectors 0 to 0x77 lead into it, 639 KiB are there.
    fn left_by_a_bios() -> [u8; AREA] {
        let mut area = [0; AREA];
        for vector in 0..0x78 {
            area[vector * 4..][..4].copy_from_slice(&[0x53, 0xff, 0x00, 0xf0]);
        }
        area[BASE_MEMORY..][..2].copy_from_slice(&639_u16.to_le_bytes());
        area[TICKS..][..4].copy_from_slice(&0x0012_3456_u32.to_le_bytes());
        area
    }

    #[test]
    fn ticks_are_read_where_a_bios_has_left_them() {
        assert_eq!(ticks(&left_by_a_bios()), Some(0x0012_3456));
    }

    #[test]
    fn what_is_no_data_area_has_no_ticks() {
        assert_eq!(ticks(&[0; AREA]), None);
        assert_eq!(ticks(&[0xff; AREA]), None);
        let mut without_memory = left_by_a_bios();
        without_memory[BASE_MEMORY..][..2].fill(0);
        assert_eq!(ticks(&without_memory), None);
        let mut without_vectors = left_by_a_bios();
        without_vectors[..VECTORS].fill(0xf0);
        assert_eq!(ticks(&without_vectors), None);
    }

    fn beginning_at(start: u64, offset: u64) -> Layout {
        Layout::new(vec![LayoutRange {
            extent: Extent {
                start: GuestPhysical(start),
                length: 16 * PAGE,
            },
            at: BlockOffset { block: 0, offset },
            source: Source::MachineRule,
        }])
        .expect("a layout")
    }

    #[test]
    fn the_first_page_is_found_also_before_the_first_range() {
        let at = |layout| first_page(&layout).map(|piece| piece.at.offset);
        assert_eq!(at(beginning_at(0, 0)), Some(0));
        assert_eq!(at(beginning_at(PAGE, PAGE)), Some(0));
        assert_eq!(at(beginning_at(PAGE, 5 * PAGE)), Some(4 * PAGE));
        // No memory of the block lies before it, or it may be any.
        assert_eq!(at(beginning_at(PAGE, 0)), None);
        assert_eq!(at(beginning_at(2 * PAGE, 2 * PAGE)), None);
    }
}
