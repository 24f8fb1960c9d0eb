//! The guest kernel's own page tables as proof of where RAM lies. A kernel that maps
//! all RAM in one piece (Linux's and the BSDs' direct map) has tables whose entries
//! count up through guest-physical memory, so that each tells by its content which
//! memory it maps. An entry that points to such a table under a layout, and to the
//! right one, shows that layout right at that address. x86-64 alone.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::Instant;

use vmshm_link::GuestPhysical;

use super::acpi::Reader;
use super::allowance::Allowance;
use crate::address::BlockOffset;
use crate::guest_ram::GuestRam;
use crate::layout::Layout;

const PAGE: usize = 4096;
const ENTRIES: usize = 512;
/// How much is looked at between two looks at the clock.
const CHUNK: u64 = 64 << 20;
/// A direct map has holes where the kernel split it; this many entries must count up.
const ENOUGH: usize = 256;
/// More tables of one kind are not kept: a terabyte has 1024.
const MOST_TABLES: usize = 4096;
/// How many of a table's entries that lead to smaller pages are followed.
const MOST_FOLLOWED: usize = 16;

const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// A table that maps one GiB by large pages.
#[derive(Debug, Clone)]
struct GibTable {
    at: BlockOffset,
    /// Which GiB of guest-physical memory it maps.
    gib: u64,
    /// Entries that lead to a table of small pages: which, and where that is.
    smaller: Vec<(u64, GuestPhysical)>,
}

/// A table whose entries lead to tables of one GiB each, or map one.
#[derive(Debug, Clone)]
struct UpperTable {
    /// Entries that lead on: which, and where to.
    pointers: Vec<(u64, GuestPhysical)>,
    /// Entries that map a GiB: which, and which one.
    leaves: Vec<(u64, u64)>,
}

/// The tables of direct maps that were found in guest RAM.
#[derive(Debug, Clone, Default)]
pub(super) struct PageTables {
    gibs: Vec<GibTable>,
    uppers: Vec<UpperTable>,
}

impl PageTables {
    /// Looks for tables until the deadline, or until there is one for each GiB, from each
    /// block's end on: kernels allocate them there.
    pub(super) fn find(ram: &GuestRam, deadline: Instant) -> Self {
        let mut tables = Self::default();
        let lengths: Vec<u64> = ram.blocks().map(|block| block.length).collect();
        let all = lengths
            .iter()
            .fold(0_u64, |sum, length| sum.saturating_add(*length));
        let enough = usize::try_from(all >> 30).unwrap_or(MOST_TABLES).max(1);
        for (block, length) in lengths.into_iter().enumerate().rev() {
            if !ram.is_reachable(block) {
                continue;
            }
            let mut end = length;
            while end > 0 {
                let start = (end - 1) / CHUNK * CHUNK;
                let flow = ram.read_resident(block, start..end, 0, &mut |buffer| {
                    for (index, page) in buffer.bytes.chunks_exact(PAGE).enumerate() {
                        let offset = buffer.start + (index * PAGE) as u64;
                        tables.look_at(BlockOffset { block, offset }, page);
                    }
                    if Instant::now() > deadline {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                });
                let has_enough = tables.gibs.len() >= enough && !tables.uppers.is_empty();
                if has_enough || !matches!(flow, Ok(ControlFlow::Continue(()))) {
                    return tables;
                }
                end = start;
            }
        }
        tables
    }

    fn look_at(&mut self, at: BlockOffset, page: &[u8]) {
        if let Some((gib, smaller)) = gib_table(page) {
            if self.gibs.len() < MOST_TABLES {
                self.gibs.push(GibTable { at, gib, smaller });
            }
        } else if let Some(upper) = upper_table(page)
            && self.uppers.len() < MOST_TABLES
        {
            self.uppers.push(upper);
        }
    }

    /// The addresses of tables that `layout` has where the entries that lead to them say,
    /// as many as the allowance lets be looked at.
    pub(super) fn confirmed(
        &self,
        layout: &Layout,
        allowance: &mut Allowance,
        read: &mut Reader<'_>,
    ) -> Vec<GuestPhysical> {
        let mut confirmed = Vec::new();
        let located: HashMap<GuestPhysical, u64> = self
            .gibs
            .iter()
            .filter_map(|table| Some((layout.guest_physical(table.at)?, table.gib)))
            .collect();
        for upper in &self.uppers {
            if !allowance.take(0) {
                break;
            }
            // Where a kernel's direct map starts is random; all entries of one table are
            // off by the same number.
            let mut by_shift: HashMap<i128, Vec<Option<GuestPhysical>>> = HashMap::new();
            for (index, address) in &upper.pointers {
                if let Some(gib) = located.get(address) {
                    let shift = i128::from(*index) - i128::from(*gib);
                    by_shift.entry(shift).or_default().push(Some(*address));
                }
            }
            for (index, gib) in &upper.leaves {
                let shift = i128::from(*index) - i128::from(*gib);
                by_shift.entry(shift).or_default().push(None);
            }
            for seen in by_shift.values().filter(|seen| seen.len() >= 2) {
                confirmed.extend(seen.iter().flatten());
            }
        }
        let mut page = vec![0; PAGE];
        'tables: for table in &self.gibs {
            for (index, address) in &table.smaller {
                if !allowance.take(PAGE) {
                    break 'tables;
                }
                let first = table.gib << 30 | index << 21;
                if read(*address, &mut page) && counts_up(&page, first) {
                    confirmed.push(*address);
                }
            }
        }
        confirmed.sort_unstable();
        confirmed.dedup();
        confirmed
    }
}

fn entry(page: &[u8], index: usize) -> u64 {
    page.get(index * 8..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Whether an entry leads to another table as kernels write it.
const fn is_pointer(entry: u64) -> bool {
    entry & PRESENT != 0 && entry & LARGE == 0 && entry & 0xf02 == 2 && entry >> 52 == 0
}

/// Which GiB a table maps by pages of 2 MiB, if it is such a table.
fn gib_table(page: &[u8]) -> Option<(u64, Vec<(u64, GuestPhysical)>)> {
    const IN_GIB: u64 = (1 << 30) - (1 << 21);
    let gib_of = |index: usize| {
        let entry = entry(page, index);
        let right = entry & (PRESENT | LARGE) == PRESENT | LARGE
            && entry & ADDRESS & ((1 << 30) - 1) & !0x1000 == (index as u64) << 21 & IN_GIB;
        right.then_some((entry & ADDRESS) >> 30)
    };
    // Most pages are out after one look at a few places.
    let gib = [511, 256, 137, 400, 77]
        .iter()
        .find_map(|index| gib_of(*index))?;
    let mut counting = 0;
    let mut smaller = Vec::new();
    for index in 0..ENTRIES {
        match gib_of(index) {
            Some(found) if found == gib => counting += 1,
            Some(_) => return None,
            None => {
                let entry = entry(page, index);
                if is_pointer(entry) && smaller.len() < MOST_FOLLOWED {
                    smaller.push((index as u64, GuestPhysical(entry & ADDRESS)));
                }
            }
        }
    }
    (counting >= ENOUGH).then_some((gib, smaller))
}

/// A table of pointers and of mapped GiB, and of nothing else.
fn upper_table(page: &[u8]) -> Option<UpperTable> {
    let mut table = UpperTable {
        pointers: Vec::new(),
        leaves: Vec::new(),
    };
    for index in 0..ENTRIES {
        let entry = entry(page, index);
        if entry == 0 {
            continue;
        }
        let address = entry & ADDRESS;
        if is_pointer(entry) {
            table.pointers.push((index as u64, GuestPhysical(address)));
        } else if entry & (PRESENT | LARGE) == PRESENT | LARGE
            && address & ((1 << 30) - 1) & !0x1000 == 0
        {
            table.leaves.push((index as u64, address >> 30));
        } else {
            return None;
        }
    }
    (table.pointers.len() + table.leaves.len() >= 2 && !table.pointers.is_empty()).then_some(table)
}

/// Whether a table maps small pages that count up from `first`.
fn counts_up(page: &[u8], first: u64) -> bool {
    let right = |index: &usize| {
        let entry = entry(page, *index);
        entry & PRESENT != 0 && entry & ADDRESS == first + ((*index as u64) << 12)
    };
    (0..ENTRIES).filter(right).count() >= ENOUGH
}

#[cfg(test)]
#[path = "page_tables_tests.rs"]
mod tests;
