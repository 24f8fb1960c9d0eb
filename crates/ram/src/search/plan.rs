//! What a search looks at: the layout's ranges, those that touch taken together, cut
//! into units that can be searched apart. A match belongs to the unit in which it
//! starts, so that each is found once and by one alone. Holes belong to none.

use std::ops::Range;

use vmshm_link::GuestPhysical;

use crate::address::BlockOffset;
use crate::guest_ram::GuestRam;
use crate::layout::{Layout, LayoutRange};
use crate::ram_error::RamError;

const PAGE: u64 = 4096;

/// Guest-physical addresses that are searched in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    /// Where the matches start that belong to it.
    pub(super) starts: Range<u64>,
    /// Where RAM without a hole ends behind that: matches may reach so far.
    pub(super) span_end: u64,
}

/// A run of existing bytes and where they lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) address: u64,
    pub(super) at: BlockOffset,
    pub(super) length: u64,
}

/// Cuts all addresses of a layout into units, in rising order, at multiples of
/// `length`; not 0.
pub(super) fn units(layout: &Layout, length: u64) -> impl Iterator<Item = Unit> {
    spans(layout).flat_map(move |span| {
        let mut next = span.start;
        std::iter::from_fn(move || {
            let start = next;
            let border = (start / length + 1).saturating_mul(length);
            next = border.min(span.end);
            (start < span.end).then_some(Unit {
                starts: start..next,
                span_end: span.end,
            })
        })
    })
}

/// The ranges of a layout, with those joined whose addresses touch.
fn spans(layout: &Layout) -> impl Iterator<Item = Range<u64>> {
    let mut ranges = layout.ranges().iter().map(addresses).peekable();
    std::iter::from_fn(move || {
        let mut span = ranges.next()?;
        while let Some(next) = ranges.next_if(|next| next.start == span.end) {
            span.end = next.end;
        }
        Some(span)
    })
}

/// A layout has no range that goes past the last address.
fn addresses(range: &LayoutRange) -> Range<u64> {
    let GuestPhysical(start) = range.extent.start;
    start..start.saturating_add(range.extent.length)
}

/// Calls `visit` for each run of existing bytes among some addresses, in rising order,
/// until it says no. What cannot be told is given to `unreadable` with its length.
pub(super) fn existing_runs(
    ram: &GuestRam,
    layout: &Layout,
    wanted: &Range<u64>,
    unreadable: &mut dyn FnMut(u64, RamError),
    visit: &mut dyn FnMut(Run) -> bool,
) {
    let ranges = layout.ranges();
    let first = ranges.partition_point(|range| addresses(range).end <= wanted.start);
    let mut more = true;
    for range in ranges.iter().skip(first) {
        let of_range = addresses(range);
        if of_range.start >= wanted.end || !more {
            break;
        }
        let start = wanted.start.max(of_range.start) - of_range.start;
        let end = wanted.end.min(of_range.end) - of_range.start;
        let in_block = range.at.offset + start..range.at.offset + end;
        let block_length = ram.blocks().nth(range.at.block).map_or(0, |b| b.length);
        // A page exists or does not, whatever part of it is asked for.
        let pages = in_block.start / PAGE * PAGE
            ..in_block
                .end
                .next_multiple_of(PAGE)
                .min(block_length.max(in_block.end));
        let asked = ram.resident_runs(range.at.block, pages, &mut |run| {
            let run = run.start.max(in_block.start)..run.end.min(in_block.end);
            if !run.is_empty() {
                more = visit(Run {
                    address: of_range.start + (run.start - range.at.offset),
                    at: BlockOffset {
                        block: range.at.block,
                        offset: run.start,
                    },
                    length: run.end - run.start,
                });
            }
            more
        });
        if let Err(error) = asked {
            unreadable(end - start, error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Source;
    use vmshm_link::Extent;

    fn layout(ranges: &[Range<u64>]) -> Layout {
        let range = |(block, range): (usize, &Range<u64>)| LayoutRange {
            extent: Extent {
                start: GuestPhysical(range.start),
                length: range.end - range.start,
            },
            at: BlockOffset { block, offset: 0 },
            source: Source::Proved,
        };
        Layout::new(ranges.iter().enumerate().map(range).collect()).expect("a layout")
    }

    #[test]
    fn units_end_at_holes_and_not_where_ranges_touch() {
        let layout = layout(&[10..25, 25..31, 40..41]);
        let units: Vec<_> = units(&layout, 10)
            .map(|unit| (unit.starts, unit.span_end))
            .collect();
        assert_eq!(
            units,
            [(10..20, 31), (20..30, 31), (30..31, 31), (40..41, 41)]
        );
    }

    #[test]
    fn the_end_of_all_addresses_is_no_border_to_fall_over() {
        let last = u64::MAX - 5..u64::MAX;
        let layout = layout(std::slice::from_ref(&last));
        let units: Vec<_> = units(&layout, 1 << 40).collect();
        assert_eq!(units.len(), 1);
        assert_eq!(units[0].starts, last);
        assert_eq!(super::units(&Layout::default(), 10).count(), 0);
    }
}
