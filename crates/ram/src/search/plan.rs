//! What a search looks at: the layout's ranges, those that touch taken together, cut
//! into units that can be searched apart. A match belongs to the unit in which it
//! starts, so that each is found once and by one alone. Holes belong to none.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

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

/// Tells which of a layout's bytes exist.
#[derive(Debug)]
pub(super) struct Existing<'a> {
    ram: &'a GuestRam,
    layout: &'a Layout,
    /// Of each block a run that was seen to go on behind what was asked for. Asking a file
    /// where data ends walks through all of it: without this every unit would pay for the
    /// whole rest of the file, also one in the hole before it.
    long_runs: Mutex<HashMap<usize, LongRun>>,
}

/// A run, as offsets into a block, with what is known of the bytes before it.
#[derive(Debug)]
struct LongRun {
    /// From here up to the run nothing exists.
    hole: u64,
    run: Range<u64>,
}

impl<'a> Existing<'a> {
    pub(super) fn new(ram: &'a GuestRam, layout: &'a Layout) -> Self {
        Self {
            ram,
            layout,
            long_runs: Mutex::default(),
        }
    }

    /// The runs of existing bytes among some addresses, in rising order. Where it cannot be
    /// told what exists, the number of bytes and the error stand in their place.
    pub(super) fn runs(
        &self,
        wanted: Range<u64>,
    ) -> impl Iterator<Item = Result<Run, (u64, RamError)>> + use<'_, 'a> {
        let ranges = self.layout.ranges();
        let first = ranges.partition_point(|range| addresses(range).end <= wanted.start);
        ranges
            .get(first..)
            .unwrap_or_default()
            .iter()
            .map(|range| (range.at, addresses(range)))
            .take_while(move |(_, of_range)| of_range.start < wanted.end)
            .flat_map(move |(at, of_range)| {
                let start = wanted.start.max(of_range.start) - of_range.start;
                let end = wanted.end.min(of_range.end) - of_range.start;
                let last = at.offset + (of_range.end - of_range.start);
                let in_block = self.in_block(at.block, at.offset + start..at.offset + end, last);
                let (runs, error) = match in_block {
                    Ok(runs) => (runs, None),
                    Err(error) => (Vec::new(), Some(Err((end - start, error)))),
                };
                let run = move |run: Range<u64>| {
                    Ok(Run {
                        address: of_range.start + (run.start - at.offset),
                        at: BlockOffset {
                            block: at.block,
                            offset: run.start,
                        },
                        length: run.end - run.start,
                    })
                };
                runs.into_iter().map(run).chain(error)
            })
    }

    /// The runs of existing bytes among some offsets into a block, of which the layout has
    /// those up to `last`.
    fn in_block(
        &self,
        block: usize,
        wanted: Range<u64>,
        last: u64,
    ) -> Result<Vec<Range<u64>>, RamError> {
        let block_end = self.ram.block(block).map_or(0, |block| block.length);
        // A page exists or does not, whatever part of it is asked for.
        let whole_pages = |end: u64| {
            let end = end.next_multiple_of(PAGE).min(block_end).max(end);
            wanted.start / PAGE * PAGE..end
        };
        let mut runs = Vec::new();
        let mut take = |run: &Range<u64>| {
            let run = run.start.max(wanted.start)..run.end.min(wanted.end);
            if !run.is_empty() {
                runs.push(run);
            }
        };
        if !self.ram.sees_whole_runs(block) {
            let mut visit = |run| {
                take(&run);
                true
            };
            self.ram
                .resident_runs(block, whole_pages(wanted.end), &mut visit)?;
            return Ok(runs);
        }
        // Held while the file is asked, so that no other thread asks for the same run.
        let mut long_runs = self
            .long_runs
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = long_runs.get(&block)
            && known.hole <= wanted.start
            && wanted.end <= known.run.end
        {
            take(&known.run);
            return Ok(runs);
        }
        let asked = whole_pages(last);
        let mut hole = asked.start;
        let mut visit = |run: Range<u64>| {
            take(&run);
            let goes_on = run.end > wanted.end;
            if goes_on {
                long_runs.insert(block, LongRun { hole, run });
            } else {
                hole = run.end;
            }
            !goes_on
        };
        self.ram.resident_runs(block, asked, &mut visit)?;
        Ok(runs)
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

    #[cfg(target_os = "linux")]
    #[test]
    fn a_hole_before_a_long_run_is_asked_about_once() {
        use crate::Method;
        use crate::os::own_process::OwnRam;
        use vmshm_shm::SharedMemory;
        const MIB: u64 = 1 << 20;
        let own = OwnRam::new(4 * MIB);
        own.mapping.write(PAGE, b"early").expect("write");
        own.mapping
            .write(2 * MIB, &vec![1; 1 << 20])
            .expect("write");
        let ram = own.open(Method::Map);
        let layout = layout(std::slice::from_ref(&(0..4 * MIB)));
        let existing = Existing::new(&ram, &layout);
        let ask = |wanted: Range<u64>| -> Vec<(u64, u64)> {
            let run = |run: Result<Run, _>| run.expect("it is known");
            let range = |run: Run| (run.address, run.address + run.length);
            existing.runs(wanted).map(run).map(range).collect()
        };
        assert_eq!(ask(0..MIB), [(PAGE, 2 * PAGE)]);
        // What comes into being meanwhile would be seen by asking again.
        own.mapping.write(MIB + PAGE, b"late").expect("write");
        assert_eq!(ask(MIB..2 * MIB), []);
        assert_eq!(ask(MIB..3 * MIB - PAGE), [(2 * MIB, 3 * MIB - PAGE)]);
        assert_eq!(ask(2 * MIB..3 * MIB), [(2 * MIB, 3 * MIB)]);
        // What was not passed on the way to the run is asked about.
        assert_eq!(ask(0..MIB + 2 * PAGE).len(), 2);
        assert_eq!(ask(3 * MIB..4 * MIB), []);
    }
}
