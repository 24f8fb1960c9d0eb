//! RAM blocks: contiguous pieces of guest RAM in the VMM, chosen from its mappings by
//! what a VMM was asked to allocate, or by general signs where that is not known.
//! Code, libraries, stacks and the emulator's code buffer are never taken for RAM.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use crate::address::VmmVirtual;
use crate::mapping::{FileIdentity, MemoryMapping};
use crate::os::HeldSection;

/// Emulators align large allocations to this, for huge pages.
const HUGE_PAGE: u64 = 2 << 20;
/// Anonymous memory below this is no candidate in a process that is not recognised.
const SMALLEST_CANDIDATE: u64 = 1 << 20;
/// Linux takes plugged memory into use in pieces of this size.
const SMALLEST_PLUGGED: u64 = 128 << 20;
/// Grafted pieces of a block carry this name; they belong to the block around them.
const GRAFT_NAME: &str = "vmshm-";

/// What lies behind a RAM block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backing {
    /// A file, named or deleted, that the VMM maps shared.
    SharedFile,
    /// A memory file, mapped shared.
    Memfd,
    /// A file of huge pages, mapped shared.
    Hugetlb,
    /// Private memory of the VMM.
    PrivateAnonymous,
    /// A file that the VMM maps privately: what it changed is its own.
    PrivateFile,
    /// A section (Windows) of which the VMM holds a handle.
    Section,
    /// What the VMM maps of a section of which it holds no handle any more.
    SectionView,
}

impl Backing {
    /// Whether another process can map the same memory.
    #[must_use]
    pub const fn is_shared(self) -> bool {
        matches!(
            self,
            Self::SharedFile | Self::Memfd | Self::Hugetlb | Self::Section
        )
    }
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SharedFile => "shared file",
            Self::Memfd => "memfd",
            Self::Hugetlb => "hugetlb",
            Self::PrivateAnonymous => "private memory",
            Self::PrivateFile => "private mapping of a file",
            Self::Section => "section",
            Self::SectionView => "view of a section",
        })
    }
}

/// One contiguous piece of guest RAM inside the VMM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamBlock {
    /// What lies behind it.
    pub backing: Backing,
    /// The file's path, the memfd's name, or empty.
    pub name: String,
    /// Where the VMM has it. Where it maps a section of which it holds the handle cannot be
    /// told: these get numbers that are no addresses of a program (bit 63 is set), one range
    /// for each handle.
    pub start: VmmVirtual,
    /// How long it is, in bytes.
    pub length: u64,
    /// The file, and where in it the block starts.
    pub file: Option<FileIdentity>,
    /// One mapping of that file as the kernel lists it, for reaching the file.
    pub(crate) listed: Option<(VmmVirtual, VmmVirtual)>,
}

impl RamBlock {
    /// Where in its file the block starts; 0 without a file.
    #[must_use]
    pub fn file_offset(&self) -> u64 {
        self.file.map_or(0, |file| file.offset)
    }

    /// Where the VMM has it, where that is known: not of a section of which it holds a handle.
    #[must_use]
    pub fn place(&self) -> Option<VmmVirtual> {
        (self.backing != Backing::Section).then_some(self.start)
    }

    /// How the block is called in messages.
    #[must_use]
    pub fn label(&self) -> &str {
        if self.name.is_empty() {
            "anonymous memory"
        } else {
            &self.name
        }
    }
}

/// What a VMM was asked to allocate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WantedBlock {
    /// Exact size in bytes.
    pub(crate) size: u64,
    /// Whether a file must lie behind it; either way where that is not known.
    pub(crate) file_backed: Option<bool>,
    /// How the file's path starts, where the VMM was told one.
    pub(crate) path: Option<String>,
    /// Its turn when the VMM allocates. What comes first lies highest among equals.
    pub(crate) turn: usize,
}

/// Finds the wanted blocks among a process's mappings, in the order in which they
/// were wanted. Those that are not there are left out.
pub(crate) fn choose(mappings: &[MemoryMapping], wanted: &[WantedBlock]) -> Vec<RamBlock> {
    let mut files = file_blocks(mappings);
    let mut runs = anonymous_runs(mappings);
    let mut chosen = vec![None; wanted.len()];
    let mut by_turn: Vec<_> = wanted.iter().zip(&mut chosen).collect();
    by_turn.sort_by_key(|(want, _)| want.turn);
    for (want, place) in by_turn {
        let file = (want.file_backed != Some(false))
            .then(|| {
                files.iter().rposition(|block| {
                    block.length == want.size
                        && want
                            .path
                            .as_ref()
                            .is_none_or(|path| block.name.starts_with(path))
                })
            })
            .flatten();
        let anonymous = (want.file_backed != Some(true))
            .then(|| take_anonymous(&mut runs, want.size))
            .flatten();
        *place = anonymous.or_else(|| file.map(|index| files.remove(index)));
        if place.is_none() {
            tracing::debug!(size = want.size, "no mapping for a RAM block");
        }
    }
    chosen.into_iter().flatten().collect()
}

/// What looks like memory that was plugged into a running VM, beside the blocks that are
/// known: memory objects by their name, and anonymous memory as QEMU makes RAM, at a huge
/// page with one inaccessible page behind it. What is smaller than a guest's kernel can
/// take into use is more likely a graphics device's.
pub(crate) fn plugged(mappings: &[MemoryMapping], known: &[RamBlock]) -> Vec<RamBlock> {
    let files = file_blocks(mappings);
    let is_apart = |block: &RamBlock, others: &[RamBlock]| {
        let end = |block: &RamBlock| block.start.0.saturating_add(block.length);
        let overlaps = |other: &RamBlock| other.start.0 < end(block) && block.start.0 < end(other);
        !others.iter().any(overlaps)
    };
    let is_plausible = |length: u64| length >= SMALLEST_PLUGGED && length.is_multiple_of(HUGE_PAGE);
    let mut blocks: Vec<RamBlock> = anonymous_runs(mappings)
        .iter()
        .filter_map(AnonymousRun::plugged)
        .filter(|block| is_apart(block, &files))
        .collect();
    blocks.extend(
        files
            .into_iter()
            .filter(|block| block.name.contains("memory-backend-")),
    );
    blocks.retain(|block| is_plausible(block.length) && is_apart(block, known));
    // The system hands out addresses downwards, so what came first lies highest.
    blocks.sort_by_key(|block| std::cmp::Reverse(block.start));
    blocks
}

/// Everything in a process that could be guest RAM, the largest first. Where parts of a
/// file are mapped more than once, they count once.
pub(crate) fn candidates(mappings: &[MemoryMapping]) -> Vec<RamBlock> {
    let mut blocks = shared_candidates(mappings);
    blocks.extend(
        anonymous_runs(mappings)
            .iter()
            .map(AnonymousRun::block)
            .filter(|block| block.length >= SMALLEST_CANDIDATE),
    );
    blocks.sort_by_key(|block| (std::cmp::Reverse(block.length), block.start));
    blocks
}

/// Runs of private anonymous memory of at least `smallest` bytes, the largest first.
pub(crate) fn anonymous_candidates(mappings: &[MemoryMapping], smallest: u64) -> Vec<RamBlock> {
    let mut blocks: Vec<RamBlock> = anonymous_runs(mappings)
        .iter()
        .map(AnonymousRun::block)
        .filter(|block| block.length >= smallest)
        .collect();
    blocks.sort_by_key(|block| (std::cmp::Reverse(block.length), block.start));
    blocks
}

/// What a process maps shared and writable, the largest first. Where parts of a file are
/// mapped more than once, they count once.
pub(crate) fn shared_candidates(mappings: &[MemoryMapping]) -> Vec<RamBlock> {
    let mut shared = file_blocks(mappings);
    shared.retain(|block| block.backing.is_shared());
    shared.sort_by_key(|block| std::cmp::Reverse(block.length));
    let mut blocks: Vec<RamBlock> = Vec::new();
    let mut of_file: HashMap<_, Vec<Range<u64>>> = HashMap::new();
    for block in shared {
        let Some(file) = block.file else { continue };
        let part = file.offset..file.offset.saturating_add(block.length);
        let parts = of_file.entry((file.device, file.inode)).or_default();
        let repeated = parts
            .iter()
            .any(|other| other.start <= part.start && part.end <= other.end);
        if !repeated {
            parts.push(part);
            blocks.push(block);
        }
    }
    blocks
}

/// Where the numbers begin that stand for places in sections: no program's memory is there,
/// so that copying to or from them fails.
const SECTION_PLACES: u64 = 1 << 63;
/// How far apart the places of two handles are, as a power of two: 4 TiB.
const SECTION_PLACES_SHIFT: u32 = 42;
/// Sections below this are no candidates in a process that is not recognised.
const SMALLEST_SECTION: u64 = 1 << 20;

/// A section that a process holds, as a block.
pub(crate) fn of_section(section: &HeldSection) -> RamBlock {
    let name = if section.name.is_empty() {
        format!("unnamed section, handle {:#x}", section.handle)
    } else {
        section.name.clone()
    };
    // The two lowest bits of a handle mean nothing.
    let place = (section.handle >> 2).wrapping_shl(SECTION_PLACES_SHIFT);
    let start = VmmVirtual(SECTION_PLACES | place);
    RamBlock {
        backing: Backing::Section,
        name,
        start,
        length: section.length,
        file: Some(section.identity),
        listed: Some((start, start)),
    }
}

/// What could be guest RAM beside the [`candidates`] where a system has sections: those that
/// the process holds, and what it maps of others. A view that is not larger than a section
/// that is held may be one of that, and is left out.
pub(crate) fn section_candidates(
    mappings: &[MemoryMapping],
    sections: &[HeldSection],
) -> Vec<RamBlock> {
    let held = sections
        .iter()
        .filter(|section| section.length >= SMALLEST_SECTION);
    let mut blocks: Vec<RamBlock> = held.map(of_section).collect();
    let largest = sections
        .iter()
        .map(|section| section.length)
        .max()
        .unwrap_or(0);
    let views = mappings.iter().filter(|mapping| {
        mapping.shared
            && mapping.file.is_none()
            && mapping.readable
            && mapping.writable
            && !mapping.executable
            && mapping.length > largest
            && mapping.length >= SMALLEST_SECTION
    });
    blocks.extend(views.map(|mapping| RamBlock {
        backing: Backing::SectionView,
        ..anonymous_block(mapping.start.0, mapping.length)
    }));
    blocks
}

/// Whether every block's first and last byte lie in writable memory of the same file, or
/// of none, as when it was found.
pub(crate) fn are_still_there(mappings: &[MemoryMapping], blocks: &[RamBlock]) -> bool {
    let mut placed = blocks
        .iter()
        .filter(|block| block.backing != Backing::Section);
    placed.all(|block| {
        let last = block.start.0.saturating_add(block.length.saturating_sub(1));
        [block.start.0, last].iter().all(|address| {
            let index = mappings.partition_point(|mapping| mapping.start.0 <= *address);
            let Some(mapping) = index.checked_sub(1).and_then(|index| mappings.get(index)) else {
                return false;
            };
            let same_file = match (&mapping.file, &block.file) {
                (Some(now), Some(then)) => now.same_file(then) || is_graft(mapping),
                (None, None) => true,
                // The end of a private block may have been grafted meanwhile.
                (Some(_), None) => mapping.shared || mapping.name.starts_with("/anon_hugepage"),
                (None, Some(_)) => false,
            };
            *address < mapping.end().0 && mapping.writable && same_file
        })
    })
}

/// Writable file mappings, those of the same file at the same distance joined: a VMM
/// may have a block's protection changed here and there, which splits its mapping.
pub(crate) fn file_blocks(mappings: &[MemoryMapping]) -> Vec<RamBlock> {
    let mut blocks: Vec<RamBlock> = Vec::new();
    let mut known: HashMap<_, usize> = HashMap::new();
    for mapping in mappings {
        let Some(file) = mapping.file else { continue };
        if !mapping.writable || !mapping.readable || is_no_ram(mapping) {
            continue;
        }
        // Executable private file mappings are programs, not RAM.
        if !mapping.shared && mapping.executable {
            continue;
        }
        let backing = backing_of(mapping);
        let distance = mapping.start.0.wrapping_sub(file.offset);
        let key = (backing, file.device, file.inode, distance);
        if let Some(block) = known.get(&key).and_then(|index| blocks.get_mut(*index)) {
            block.length = mapping.end().0 - block.start.0;
        } else {
            known.insert(key, blocks.len());
            blocks.push(RamBlock {
                backing,
                name: mapping.name.clone(),
                start: mapping.start,
                length: mapping.length,
                file: Some(file),
                listed: Some((mapping.start, mapping.end())),
            });
        }
    }
    for block in &mut blocks {
        extend_over_grafts(block, mappings);
    }
    blocks
}

/// Takes in grafts that lie at a block's very ends: what lies in between is joined anyway.
fn extend_over_grafts(block: &mut RamBlock, mappings: &[MemoryMapping]) {
    let end = |block: &RamBlock| VmmVirtual(block.start.0.saturating_add(block.length));
    let mut index = mappings.partition_point(|mapping| mapping.start < end(block));
    while let Some(next) = mappings.get(index)
        && next.start == end(block)
        && is_graft(next)
    {
        block.length = block.length.saturating_add(next.length);
        index += 1;
    }
    let mut index = mappings.partition_point(|mapping| mapping.start < block.start);
    while let Some(before) = index.checked_sub(1).and_then(|index| mappings.get(index))
        && before.end() == block.start
        && is_graft(before)
        && let Some(file) = &mut block.file
        && let Some(offset) = file.offset.checked_sub(before.length)
    {
        file.offset = offset;
        block.start = before.start;
        block.length = block.length.saturating_add(before.length);
        index -= 1;
    }
}

/// Whether it is the memory file of a grafted region.
pub(crate) fn is_graft(mapping: &MemoryMapping) -> bool {
    let name = mapping.memfd_name();
    mapping.shared && name.is_some_and(|name| name.starts_with(GRAFT_NAME))
}

fn backing_of(mapping: &MemoryMapping) -> Backing {
    let huge = mapping.name.starts_with("/anon_hugepage");
    match (mapping.shared, mapping.memfd_name()) {
        (true, Some(_)) => Backing::Memfd,
        (true, None) if huge => Backing::Hugetlb,
        (true, None) => Backing::SharedFile,
        (false, _) if huge => Backing::PrivateAnonymous,
        (false, _) => Backing::PrivateFile,
    }
}

/// What the names of mappings of devices start with, and of the kernel's own objects:
/// the state of virtual processors, rings, graphics memory.
const DEVICES: [&str; 10] = [
    "anon_inode:",
    "socket:",
    "/dmabuf",
    "/dev/dri/",
    "/dev/infiniband/",
    "/dev/kfd",
    "/dev/nvidia",
    "/dev/snd/",
    "/dev/vboxdrv",
    "/dev/vfio/",
];

/// QEMU's just-in-time code may lie in a memory file that is mapped twice; a graft is
/// part of the block around it.
fn is_no_ram(mapping: &MemoryMapping) -> bool {
    let is_device = DEVICES.iter().any(|name| mapping.name.starts_with(name));
    is_device
        || mapping
            .memfd_name()
            .is_some_and(|name| name.contains("jit") || name.starts_with(GRAFT_NAME))
}

/// Neighbouring writable anonymous mappings, as the kernel may have split or joined
/// them.
#[derive(Debug, Clone)]
struct AnonymousRun {
    start: u64,
    end: u64,
    /// Where the kernel lists a border inside the run.
    parts: Vec<(u64, u64)>,
    /// How long an inaccessible mapping is that follows, as allocators leave a page of it.
    guard: Option<u64>,
}

impl AnonymousRun {
    fn block(&self) -> RamBlock {
        anonymous_block(self.start, self.end - self.start)
    }

    /// Whether what is left of it goes on to its end.
    fn is_whole(&self) -> bool {
        self.parts.last().is_some_and(|part| part.1 == self.end)
            && self.parts.windows(2).all(|pair| pair[0].1 == pair[1].0)
    }

    /// Where a block of that size begins that is the whole run, whatever has split its mapping,
    /// or that lies at the run's end as an allocator puts it, with no more below it than aligning
    /// it left room for.
    fn main_part(&self, size: u64) -> Option<u64> {
        let (first, _) = *self.parts.first()?;
        let begin = self.end.checked_sub(size)?;
        let below = begin.checked_sub(first)?;
        let at_end = self.guard.is_some() && begin.is_multiple_of(HUGE_PAGE) && below < HUGE_PAGE;
        (self.is_whole() && (below == 0 || at_end)).then_some(begin)
    }

    /// The part at its end that looks as QEMU makes RAM. A graft in it has split its mapping for
    /// good, and something else may lie below: so it has the length of whole pieces of what
    /// guests take into use, if any has, and is as long as can be.
    fn plugged(&self) -> Option<RamBlock> {
        if self.guard != Some(4096) {
            return None;
        }
        let starts = self.parts.iter().map(|(start, _)| *start);
        let lengths = starts
            .filter(|start| start.is_multiple_of(HUGE_PAGE))
            .map(|start| self.end - start);
        let length = lengths.max_by_key(|length| {
            let whole = *length > 0 && length.is_multiple_of(SMALLEST_PLUGGED);
            (whole, *length)
        })?;
        Some(anonymous_block(self.end - length, length))
    }
}

pub(crate) fn anonymous_block(start: u64, length: u64) -> RamBlock {
    RamBlock {
        backing: Backing::PrivateAnonymous,
        name: String::new(),
        start: VmmVirtual(start),
        length,
        file: None,
        listed: None,
    }
}

fn anonymous_runs(mappings: &[MemoryMapping]) -> Vec<AnonymousRun> {
    let mut runs: Vec<AnonymousRun> = Vec::new();
    for mapping in mappings {
        let graft = is_graft(mapping);
        let (start, end) = (mapping.start.0, mapping.end().0);
        if mapping.readable
            && mapping.writable
            && !mapping.executable
            && (mapping.is_private_anonymous() || graft)
        {
            match runs.last_mut() {
                Some(run) if run.end == start => {
                    run.end = end;
                    run.parts.push((start, end));
                }
                _ => runs.push(AnonymousRun {
                    start,
                    end,
                    parts: vec![(start, end)],
                    guard: None,
                }),
            }
        } else if !mapping.readable
            && !mapping.writable
            && let Some(run) = runs.last_mut()
            && run.end == start
        {
            run.guard = Some(mapping.length);
        }
    }
    runs
}

/// Takes the best place for a block of exactly `size` bytes out of the runs: a mapping
/// of that size or a run that is little else, else neighbours that together have it, else a part
/// of a longer run where an allocator would have put it.
fn take_anonymous(runs: &mut [AnonymousRun], size: u64) -> Option<RamBlock> {
    // The system hands out addresses downwards and a VMM allocates RAM before smaller
    // things, so of several equal ones the highest is it: one whose mapping was split, as a graft
    // leaves it, before one of that size that was plugged later.
    for run in runs.iter_mut().rev() {
        if let Some(index) = run.parts.iter().rposition(|part| part.1 - part.0 == size) {
            let (start, _) = run.parts.remove(index);
            return Some(anonymous_block(start, size));
        }
        if let Some(start) = run.main_part(size) {
            run.parts.clear();
            return Some(anonymous_block(start, size));
        }
    }
    for run in runs.iter_mut().rev() {
        if let Some(parts) = neighbours(&run.parts, size) {
            let begin = run.parts.drain(parts).next()?.0;
            return Some(anonymous_block(begin, size));
        }
    }
    for run in runs.iter_mut().rev() {
        let Some(&(first, _)) = run.parts.first() else {
            continue;
        };
        if !run.is_whole() || run.end - first < size {
            continue;
        }
        let at_end = run.end - size;
        let at_start = first.next_multiple_of(HUGE_PAGE);
        let begin = if run.guard.is_some() && at_end.is_multiple_of(HUGE_PAGE) {
            at_end
        } else if at_start.checked_add(size).is_some_and(|end| end <= run.end) {
            at_start
        } else if at_end.is_multiple_of(4096) {
            at_end
        } else {
            continue;
        };
        run.parts.clear();
        return Some(anonymous_block(begin, size));
    }
    None
}

/// The first parts that touch each other and together have the size. A process may have
/// tens of thousands of parts, so each is looked at once.
fn neighbours(parts: &[(u64, u64)], size: u64) -> Option<Range<usize>> {
    let mut end = 0;
    for (first, part) in parts.iter().enumerate() {
        if first >= end {
            let following = parts.get(first..)?.windows(2);
            end = first + 1 + following.take_while(|pair| pair[0].1 == pair[1].0).count();
        }
        let wanted = part.0.checked_add(size)?;
        let touching = parts.get(first..end)?;
        if let Ok(last) = touching.binary_search_by_key(&wanted, |part| part.1) {
            return Some(first..first + last + 1);
        }
    }
    None
}

#[cfg(test)]
#[path = "block_tests.rs"]
mod tests;
