//! Layouts without an agent, from what firmware and kernel left in guest memory. Each
//! way in which the VMM may have laid RAM out is a *hypothesis*; a pointer that leads,
//! under a hypothesis, to a table with the right signature and checksum (or to the very
//! page table that it should be) shows that hypothesis right for the range that the
//! pointer leads into. Ranges that nothing shows keep the rule's own weak source, and
//! where a rule is shown wrong they are left out.
//!
//! A guest can forge all of this, so nothing here permits writing.

mod acpi;
mod allowance;
mod e820;
mod page_tables;
#[cfg(test)]
mod tables;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use vmshm_link::{Extent, GuestPhysical};

use crate::address::BlockOffset;
use crate::guest_ram::GuestRam;
use crate::layout::{Layout, LayoutRange, Source};
use acpi::{RSDP_LENGTH, RSDP_SIGNATURE, Reader, RootPointer};
use allowance::Allowance;
use page_tables::PageTables;

const PAGE: u64 = 4096;
const FOUR_GIB: u64 = 1 << 32;
/// How much of a block is searched before what lies below it.
const CHUNK: u64 = 64 << 20;
const ONE_MIB: usize = 1 << 20;
/// The last part of the first MiB, where a PC's firmware puts the root pointer.
const ROM_START: usize = 0xe_0000;
/// Where the segment of the firmware's own data stands.
const DATA_SEGMENT_AT: usize = 0x40e;
/// Root pointers that are followed; a guest may hold any number of false ones.
const MOST_ROOTS: usize = 1024;
/// Bytes of tables that are read for one hypothesis. A machine's are some hundred KiB, and
/// of a terabyte's page tables 64 MiB are looked at again at the most.
const MOST_BYTES: usize = 128 << 20;
/// Firmware puts its tables at the end of low RAM. What lies further behind the last of
/// them than this is not taken for shown.
const NEAR: u64 = 64 << 20;
/// The same, where not even a rule says how the machine is built.
const NEAR_WITHOUT_RULE: u64 = 2 << 20;

/// A root pointer, and where it stands if that is where firmware puts it.
#[derive(Debug, Clone, Copy)]
struct Root {
    pointer: RootPointer,
    place: Option<GuestPhysical>,
}

/// A way in which RAM may be laid out.
#[derive(Debug, Clone)]
pub(crate) struct Hypothesis {
    /// The ranges, each with the source that it has if nothing shows it.
    pub(crate) layout: Layout,
    /// Whether the machine is known to be built so.
    pub(crate) by_rule: bool,
}

/// What speaks for a hypothesis.
#[derive(Debug, Clone, Default)]
struct Support {
    firmware: Vec<GuestPhysical>,
    kernel: Vec<GuestPhysical>,
    /// Usable memory as the firmware told it to the kernel.
    usable: Vec<Extent>,
}

impl Support {
    /// Ranges that are shown weigh most, then whether the firmware's tables lie where
    /// firmware puts them, then the number of pointers.
    fn weight(&self, layout: &Layout) -> (usize, bool, usize) {
        let all = || self.firmware.iter().chain(&self.kernel);
        let is_shown = |range: &&LayoutRange| {
            all().any(|address| range.extent.contains(*address))
                || is_told(layout, range, &self.usable)
        };
        let shown = layout.ranges().iter().filter(is_shown);
        let near = self.firmware.iter().max().is_some_and(|last| {
            let place = layout.translate(*last);
            place.is_ok_and(|place| place.remaining <= NEAR_WITHOUT_RULE)
        });
        (shown.count(), near, all().count())
    }
}

/// The hypothesis for which most speaks, with what is shown of it; nothing where nothing
/// speaks for any. Following the firmware's tables takes `budget` at the most, whatever
/// the guest made of them; where they are not where they are looked for first, searching
/// and following them takes twice as much again, and so do the kernel's.
pub(crate) fn judge(ram: &GuestRam, hypotheses: &[Hypothesis], budget: Duration) -> Option<Layout> {
    let needs_kernel = hypotheses.iter().any(|hypothesis| {
        let ranges = hypothesis.layout.ranges();
        ranges.iter().any(|range| range.extent.start.0 >= FOUR_GIB)
    });
    let deadline = Instant::now() + budget;
    let mut allowances = vec![Allowance::new(MOST_BYTES, deadline); hypotheses.len()];
    let mut supports: Vec<Support> = hypotheses
        .iter()
        .zip(&mut allowances)
        .map(|(hypothesis, allowance)| support_of_firmware(ram, &hypothesis.layout, allowance))
        .collect();
    if supports.iter().all(|support| support.firmware.is_empty()) {
        let roots = roots_anywhere(ram, Instant::now() + budget);
        let deadline = Instant::now() + budget;
        for ((support, hypothesis), allowance) in
            supports.iter_mut().zip(hypotheses).zip(&mut allowances)
        {
            allowance.extend(deadline);
            let layout = &hypothesis.layout;
            let mut read = |at, into: &mut [u8]| read(ram, layout, at, into);
            support.firmware = follow(&roots, allowance, &mut read, support);
        }
    }
    let shown_nothing = supports.iter().all(|support| support.firmware.is_empty());
    if needs_kernel || shown_nothing {
        let tables = PageTables::find(ram, Instant::now() + budget);
        let deadline = Instant::now() + budget;
        for ((support, hypothesis), allowance) in
            supports.iter_mut().zip(hypotheses).zip(&mut allowances)
        {
            allowance.extend(deadline);
            let layout = &hypothesis.layout;
            let mut read = |at, into: &mut [u8]| read(ram, layout, at, into);
            support.kernel = tables.confirmed(layout, allowance, &mut read);
        }
    }
    let best = hypotheses
        .iter()
        .zip(&supports)
        // Of equals the last counts, and the first is the likeliest.
        .rev()
        .max_by_key(|(hypothesis, support)| support.weight(&hypothesis.layout))?;
    let (hypothesis, support) = best;
    if support.firmware.is_empty() && support.kernel.is_empty() {
        return None;
    }
    tracing::debug!(
        firmware = support.firmware.len(),
        kernel = support.kernel.len(),
        by_rule = hypothesis.by_rule,
        "layout shown by what lies in guest memory"
    );
    Layout::new(shown(hypothesis, support)).ok()
}

/// The ranges of a hypothesis with their sources.
fn shown(hypothesis: &Hypothesis, support: &Support) -> Vec<LayoutRange> {
    let mut result = Vec::new();
    let low = support.firmware.iter().chain(&support.kernel);
    let last_low = low.filter(|address| address.0 < FOUR_GIB).max();
    for range in hypothesis.layout.ranges() {
        // Ranges of the same block at the same distance are one memory with a hole.
        let related = |address: &&GuestPhysical| {
            hypothesis.layout.ranges().iter().any(|other| {
                other.extent.contains(**address)
                    && other.at.block == range.at.block
                    && other.extent.start.0.wrapping_sub(other.at.offset)
                        == range.extent.start.0.wrapping_sub(range.at.offset)
            })
        };
        let last = |addresses: &[GuestPhysical]| addresses.iter().filter(related).max().copied();
        let by_firmware = last(&support.firmware).map(|last| (last, Source::FirmwareTables));
        let by_kernel = last(&support.kernel).map(|last| (last, Source::GuestPageTables));
        let told = is_told(&hypothesis.layout, range, &support.usable);
        let Some((last, source)) = by_firmware.or(by_kernel) else {
            if told {
                result.push(LayoutRange {
                    source: Source::FirmwareTables,
                    ..*range
                });
            } else if hypothesis.by_rule {
                result.push(*range);
            }
            continue;
        };
        let end = range.extent.start.0 + range.extent.length;
        // Above 4 GiB nothing follows a block's end; below, devices may.
        let near = if hypothesis.by_rule {
            NEAR
        } else {
            NEAR_WITHOUT_RULE
        };
        let covers_all = range.extent.start.0 >= FOUR_GIB
            || told
            // Low RAM goes on beyond this range.
            || last_low.is_some_and(|last| end <= last.0)
            || end.saturating_sub(last.0) <= near
            || source == Source::GuestPageTables && hypothesis.by_rule;
        let shown_end = if covers_all {
            end
        } else {
            (last.0 + PAGE)
                .next_multiple_of(PAGE)
                .clamp(range.extent.start.0, end)
        };
        let length = shown_end - range.extent.start.0;
        if length > 0 {
            result.push(LayoutRange {
                extent: Extent {
                    start: range.extent.start,
                    length,
                },
                at: range.at,
                source,
            });
        }
        if shown_end < end && hypothesis.by_rule {
            result.push(LayoutRange {
                extent: Extent {
                    start: GuestPhysical(shown_end),
                    length: end - shown_end,
                },
                at: BlockOffset {
                    block: range.at.block,
                    offset: range.at.offset + length,
                },
                source: range.source,
            });
        }
    }
    result
}

/// Whether the firmware's memory map has exactly this range, and all of the block that
/// is not below it: then nothing else can lie there.
fn is_told(layout: &Layout, range: &LayoutRange, usable: &[Extent]) -> bool {
    let one_block = layout
        .ranges()
        .iter()
        .all(|other| other.at.block == range.at.block);
    one_block && range.extent.start.0 >= FOUR_GIB && usable.contains(&range.extent)
}

/// Reads at an address under a layout, across the borders of ranges, and only pages
/// that exist.
fn read(ram: &GuestRam, layout: &Layout, at: GuestPhysical, into: &mut [u8]) -> bool {
    let extent = Extent {
        start: at,
        length: into.len() as u64,
    };
    if into.is_empty() || extent.end().is_none() {
        return false;
    }
    let Ok(pieces) = layout.pieces(&[extent]) else {
        return false;
    };
    let mut rest = into;
    for piece in pieces {
        let length = usize::try_from(piece.length).unwrap_or(usize::MAX);
        let (now, later) = rest.split_at_mut(length.min(rest.len()));
        let first = piece.at.offset / PAGE * PAGE;
        let pages: Vec<u64> = (0..(piece.at.offset + piece.length - first).div_ceil(PAGE))
            .map(|page| first + page * PAGE)
            .collect();
        let wanted = pages.len();
        if ram.existing(piece.at.block, pages).len() != wanted
            || ram.read_at(piece.at, now).is_err()
        {
            return false;
        }
        rest = later;
    }
    true
}

/// What the firmware's own places in the first MiB speak for.
fn support_of_firmware(ram: &GuestRam, layout: &Layout, allowance: &mut Allowance) -> Support {
    let mut low = vec![0; ONE_MIB];
    for (index, page) in low.chunks_exact_mut(4096).enumerate() {
        let _absent = read(ram, layout, GuestPhysical(index as u64 * PAGE), page);
    }
    let mut places: Vec<usize> = Vec::new();
    let data_segment = low
        .get(DATA_SEGMENT_AT..)
        .and_then(|bytes| bytes.first_chunk())
        .map_or(0, |bytes| usize::from(u16::from_le_bytes(*bytes)) << 4);
    if (0x400..0xa_0000).contains(&data_segment) {
        places.extend((data_segment..data_segment + 1024).step_by(16));
    }
    places.extend((ROM_START..ONE_MIB).step_by(16));
    let roots: Vec<Root> = places
        .into_iter()
        .filter_map(|at| {
            let pointer = RootPointer::parse(low.get(at..)?)?;
            let place = Some(GuestPhysical(at as u64));
            Some(Root { pointer, place })
        })
        .take(MOST_ROOTS)
        .collect();
    let mut support = Support {
        usable: e820::find(&low).unwrap_or_default(),
        ..Support::default()
    };
    let mut read = |at, into: &mut [u8]| read(ram, layout, at, into);
    support.firmware = follow(&roots, allowance, &mut read, &mut support);
    support
}

/// The tables that root pointers lead to. Of several roots the one counts whose
/// pointers are right; one with a wrong pointer is a copy, or of another guest.
fn follow(
    roots: &[Root],
    allowance: &mut Allowance,
    read: &mut Reader<'_>,
    support: &mut Support,
) -> Vec<GuestPhysical> {
    let mut best = Vec::new();
    for root in roots {
        if !allowance.take(0) {
            break;
        }
        let walk = acpi::walk(&root.pointer, allowance, read);
        // Of wrong pointers a few are believed: tables that the kernel has overwritten.
        if walk.confirmed.len() > 2 * walk.refuted && walk.confirmed.len() > best.len() {
            best = walk.confirmed;
            best.extend(root.place);
            if support.usable.is_empty() {
                support.usable = walk.memory;
            }
        }
    }
    best
}

/// Root pointers at any multiple of 16, as EFI leaves them: below 4 GiB, and near the
/// end of RAM there, so that is where the search starts.
fn roots_anywhere(ram: &GuestRam, deadline: Instant) -> Vec<Root> {
    let finder = memchr::memmem::Finder::new(RSDP_SIGNATURE);
    let mut roots: Vec<Root> = Vec::new();
    let lengths: Vec<u64> = ram.blocks().map(|block| block.length).collect();
    for (block, length) in lengths.into_iter().enumerate() {
        if !ram.is_reachable(block) {
            continue;
        }
        let mut end = length.min(FOUR_GIB);
        while end > 0 {
            let start = (end - 1) / CHUNK * CHUNK;
            let flow = ram.read_resident(block, start..end, RSDP_LENGTH, &mut |buffer| {
                for at in finder.find_iter(buffer.bytes) {
                    if roots.len() >= MOST_ROOTS {
                        break;
                    }
                    let pointer = buffer.bytes.get(at..).and_then(RootPointer::parse);
                    let aligned = (buffer.start + at as u64).is_multiple_of(16);
                    roots.extend(pointer.filter(|_| aligned).map(|pointer| Root {
                        pointer,
                        place: None,
                    }));
                }
                if roots.len() >= MOST_ROOTS || Instant::now() > deadline {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            if !matches!(flow, Ok(ControlFlow::Continue(()))) {
                return roots;
            }
            end = start;
        }
    }
    roots
}

// They search sparse files of many GiB, whose holes only Linux tells.
#[cfg(all(test, target_os = "linux"))]
#[path = "firmware_tests.rs"]
mod tests;
