//! Layouts from what is certain: points at which a guest-physical address was seen to
//! lie, and the RAM ranges that the guest reports. Anything that cannot be true of one
//! guest in one VMM is refused as a contradiction.

use vmshm_link::{Extent, GuestPhysical};

use crate::address::BlockOffset;
use crate::block::RamBlock;
use crate::layout::{Layout, LayoutError, LayoutRange, Source};
use crate::layout_split::around_the_hole;

/// One address that was seen at one place.
pub type Point = (GuestPhysical, BlockOffset);

/// Address minus offset: the same for all points of one range in one block.
fn distance(point: &Point) -> i128 {
    i128::from(point.0.0) - i128::from(point.1.offset)
}

impl Layout {
    /// The layout that `points` prove, within the RAM ranges that the guest reports and
    /// the VM's blocks. What no point proves of the reported ranges follows `rule`, if the
    /// rule agrees with every point; where that has no place either, a block that is as
    /// long as the only such piece is taken for it (memory that was plugged). Where the
    /// rule is refuted or unknown, RAM in one block may be split around one hole.
    ///
    /// Where the guest reports no ranges, the rule's are taken; without a rule each
    /// point vouches for its page alone.
    ///
    /// # Errors
    /// [`LayoutError::Contradiction`] and [`LayoutError::StrayPoint`] where the points
    /// cannot be right.
    pub fn prove(
        points: &[Point],
        ram_ranges: &[Extent],
        blocks: &[RamBlock],
        rule: Option<&Self>,
    ) -> Result<Self, LayoutError> {
        check_places(points, blocks)?;
        let rule = rule.filter(|rule| !rule.is_guess());
        let reported: Vec<Extent> = match (ram_ranges.is_empty(), rule) {
            (false, _) => joined(ram_ranges)?,
            (true, Some(rule)) => rule.ranges().iter().map(|range| range.extent).collect(),
            (true, None) => pages_of(points),
        };
        let mut ranges: Vec<LayoutRange> = Vec::new();
        let mut placed = 0;
        for extent in &reported {
            let inside: Vec<&Point> = points
                .iter()
                .filter(|point| extent.contains(point.0))
                .collect();
            placed += inside.len();
            if !inside.is_empty() {
                ranges.extend(proved_parts(extent, &inside, blocks)?);
            }
        }
        if placed != points.len() {
            let stray = points
                .iter()
                .find(|point| !reported.iter().any(|extent| extent.contains(point.0)));
            return Err(LayoutError::StrayPoint {
                address: stray.map_or(GuestPhysical(0), |point| point.0),
            });
        }
        check_blocks_used_once(&ranges)?;
        if let Some(rule) = rule.filter(|rule| agrees(rule, points)) {
            let proved = ranges.clone();
            for extent in gaps(&reported, &proved) {
                let parts = rule
                    .ranges()
                    .iter()
                    .filter_map(|range| clipped(range, &extent))
                    .filter(|range| !proved.iter().any(|other| share_bytes(range, other)));
                ranges.extend(parts);
            }
            // Pieces of plugged memory may touch each other.
            let rest = gaps(ram_ranges, &ranges);
            ranges.extend(by_length(&rest, blocks, &ranges, rule));
        }
        let rest = gaps(&reported, &ranges);
        if !rest.is_empty() {
            ranges.extend(around_the_hole(&reported, &rest, &ranges, blocks));
        }
        Self::new(ranges)
    }
}

impl Layout {
    /// This layout with what another one knows better: weaker sources where both say
    /// the same are replaced, and ranges that this one lacks are added where they
    /// contradict nothing.
    #[must_use]
    pub fn completed_by(&self, other: &Self) -> Self {
        let mut ranges = self.ranges().to_vec();
        for range in &mut ranges {
            let same = other.ranges().iter().any(|known| {
                clipped(known, &range.extent)
                    .is_some_and(|part| part.extent == range.extent && part.at == range.at)
            });
            let source = other.weakest_source(&[range.extent]).ok().flatten();
            if let Some(source) = source.filter(|source| same && *source < range.source) {
                range.source = source;
            }
        }
        for range in other.ranges() {
            let contradicts =
                |known: &LayoutRange| share_addresses(known, range) || share_bytes(known, range);
            if !ranges.iter().any(contradicts) {
                ranges.push(*range);
            }
        }
        Self::new(ranges).unwrap_or_else(|_| self.clone())
    }
}

/// Every point must lie in its block, and no two addresses at one place or one address
/// at two.
fn check_places(points: &[Point], blocks: &[RamBlock]) -> Result<(), LayoutError> {
    for point in points {
        let block = blocks.get(point.1.block);
        if block.is_none_or(|block| point.1.offset >= block.length) {
            return Err(LayoutError::StrayPoint { address: point.0 });
        }
    }
    let mut by_place: Vec<&Point> = points.iter().collect();
    by_place.sort_by_key(|point| (point.1, point.0));
    for pair in by_place.windows(2) {
        if pair[0].1 == pair[1].1 && pair[0].0 != pair[1].0 {
            return Err(LayoutError::Contradiction {
                first: pair[0].0,
                second: pair[1].0,
                what: "both are said to lie at the same place of the VM's RAM",
            });
        }
    }
    by_place.sort_by_key(|point| (point.0, point.1));
    for pair in by_place.windows(2) {
        if pair[0].0 == pair[1].0 && pair[0].1 != pair[1].1 {
            return Err(LayoutError::Contradiction {
                first: pair[0].0,
                second: pair[1].0,
                what: "it is said to lie at two places of the VM's RAM",
            });
        }
    }
    Ok(())
}

/// The parts of one reported range that its points prove: one for each block.
fn proved_parts(
    extent: &Extent,
    points: &[&Point],
    blocks: &[RamBlock],
) -> Result<Vec<LayoutRange>, LayoutError> {
    let mut anchors: Vec<&Point> = Vec::new();
    for point in points {
        match anchors
            .iter()
            .find(|anchor| anchor.1.block == point.1.block)
        {
            Some(anchor) if distance(anchor) != distance(point) => {
                return Err(LayoutError::Contradiction {
                    first: anchor.0,
                    second: point.0,
                    what: "within one range of RAM their distance in the guest is not that in the VM's RAM",
                });
            }
            Some(_) => {}
            None => anchors.push(point),
        }
    }
    let mut parts: Vec<LayoutRange> = Vec::new();
    for anchor in anchors {
        let Some(block) = blocks.get(anchor.1.block) else {
            continue;
        };
        let whole_start = distance(anchor).max(0);
        let whole_end = distance(anchor) + i128::from(block.length);
        let start = whole_start.max(i128::from(extent.start.0));
        let end = whole_end.min(i128::from(extent.start.0) + i128::from(extent.length));
        let numbers = (
            u64::try_from(start),
            u64::try_from(end - start),
            u64::try_from(start - distance(anchor)),
        );
        let (Ok(start), Ok(length), Ok(offset)) = numbers else {
            continue;
        };
        let part = LayoutRange {
            extent: Extent {
                start: GuestPhysical(start),
                length,
            },
            at: BlockOffset {
                block: anchor.1.block,
                offset,
            },
            source: Source::Proved,
        };
        if let Some(other) = parts.iter().find(|other| share_addresses(&part, other)) {
            return Err(LayoutError::Contradiction {
                first: anchor.0,
                second: other.extent.start,
                what: "two blocks of the VM's RAM would have to lie at the same addresses",
            });
        }
        parts.push(part);
    }
    Ok(parts)
}

/// No byte of a block may appear at two guest addresses.
pub(crate) fn check_blocks_used_once(ranges: &[LayoutRange]) -> Result<(), LayoutError> {
    let mut by_place: Vec<&LayoutRange> = ranges.iter().collect();
    by_place.sort_by_key(|range| range.at);
    for pair in by_place.windows(2) {
        if share_bytes(pair[0], pair[1]) {
            return Err(LayoutError::Contradiction {
                first: pair[0].extent.start,
                second: pair[1].extent.start,
                what: "their ranges would share bytes of the VM's RAM",
            });
        }
    }
    Ok(())
}

fn share_addresses(one: &LayoutRange, other: &LayoutRange) -> bool {
    overlap(
        one.extent.start.0,
        one.extent.length,
        other.extent.start.0,
        other.extent.length,
    )
}

fn share_bytes(one: &LayoutRange, other: &LayoutRange) -> bool {
    one.at.block == other.at.block
        && overlap(
            one.at.offset,
            one.extent.length,
            other.at.offset,
            other.extent.length,
        )
}

const fn overlap(start: u64, length: u64, other_start: u64, other_length: u64) -> bool {
    if start <= other_start {
        other_start - start < length
    } else {
        start - other_start < other_length
    }
}

/// What the ranges leave of the extents.
fn gaps(extents: &[Extent], ranges: &[LayoutRange]) -> Vec<Extent> {
    let mut sorted: Vec<Extent> = ranges.iter().map(|range| range.extent).collect();
    sorted.sort_unstable();
    let mut gaps = Vec::new();
    for extent in extents {
        let Some(end) = extent.end() else { continue };
        let mut from = extent.start;
        for range in &sorted {
            let Some(range_end) = range.end() else {
                continue;
            };
            if range_end <= from || range.start >= end {
                continue;
            }
            if range.start > from {
                gaps.push(between(from, range.start));
            }
            from = range_end;
        }
        if from < end {
            gaps.push(between(from, end));
        }
    }
    gaps
}

const fn between(start: GuestPhysical, end: GuestPhysical) -> Extent {
    Extent {
        start,
        length: end.0 - start.0,
    }
}

/// Blocks that neither points nor the rule use, at gaps of their very length, where there
/// is one of each.
fn by_length(
    gaps: &[Extent],
    blocks: &[RamBlock],
    ranges: &[LayoutRange],
    rule: &Layout,
) -> Vec<LayoutRange> {
    let is_used = |block: usize| {
        let mut all = ranges.iter().chain(rule.ranges());
        all.any(|range| range.at.block == block)
    };
    let free = |length: u64| {
        let same =
            move |(index, block): &(usize, &RamBlock)| block.length == length && !is_used(*index);
        let mut found = blocks.iter().enumerate().filter(same);
        found.next().filter(|_| found.next().is_none())
    };
    let is_single = |gap: &Extent| {
        gaps.iter()
            .filter(|other| other.length == gap.length)
            .count()
            == 1
    };
    gaps.iter()
        .filter(|gap| is_single(gap))
        .filter_map(|gap| {
            let (block, _) = free(gap.length)?;
            Some(LayoutRange {
                extent: *gap,
                at: BlockOffset { block, offset: 0 },
                source: Source::MachineRule,
            })
        })
        .collect()
}

/// Whether a rule puts every point where it was seen. It knows nothing of blocks that it
/// does not use, such as plugged memory.
fn agrees(rule: &Layout, points: &[Point]) -> bool {
    points.iter().all(|point| match rule.translate(point.0) {
        Ok(location) => location.at == point.1,
        Err(_) => {
            let mut used = rule.ranges().iter();
            used.all(|range| range.at.block != point.1.block)
        }
    })
}

/// The part of a range inside an extent.
fn clipped(range: &LayoutRange, extent: &Extent) -> Option<LayoutRange> {
    let start = range.extent.start.max(extent.start);
    let end = range.extent.end()?.min(extent.end()?);
    if start >= end {
        return None;
    }
    Some(LayoutRange {
        extent: Extent {
            start,
            length: end.0 - start.0,
        },
        at: range.at.checked_add(start.0 - range.extent.start.0)?,
        source: range.source,
    })
}

/// Reported ranges, sorted; those that touch are joined, those that overlap refused.
fn joined(reported: &[Extent]) -> Result<Vec<Extent>, LayoutError> {
    let mut sorted = reported.to_vec();
    sorted.sort_unstable();
    let mut result: Vec<Extent> = Vec::with_capacity(sorted.len());
    for extent in sorted {
        let bad = LayoutError::BadExtent {
            start: extent.start,
            length: extent.length,
        };
        if extent.length == 0 || extent.end().is_none() {
            return Err(bad);
        }
        match result.last_mut() {
            Some(last) if last.end() > Some(extent.start) => {
                return Err(LayoutError::Overlap {
                    address: extent.start,
                });
            }
            Some(last) if last.end() == Some(extent.start) => {
                last.length = last.length.checked_add(extent.length).ok_or(bad)?;
            }
            _ => result.push(extent),
        }
    }
    Ok(result)
}

/// Each point's own page, where nothing else is known.
fn pages_of(points: &[Point]) -> Vec<Extent> {
    const PAGE: u64 = 4096;
    let mut pages: Vec<Extent> = points
        .iter()
        .map(|point| Extent {
            start: GuestPhysical(point.0.0 & !(PAGE - 1)),
            length: PAGE,
        })
        .filter(|page| page.end().is_some())
        .collect();
    pages.sort_unstable();
    pages.dedup();
    pages
}

#[cfg(test)]
#[path = "layout_proof_tests.rs"]
mod tests;
