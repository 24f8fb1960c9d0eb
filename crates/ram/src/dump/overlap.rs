//! Takes from each segment what others before it already have: ELF cores that list virtual
//! memory, too (Linux's `vmcore`, QEMU's dumps with paging), name the same physical memory
//! more than once. Where bytes are stored they count before zeros that are left out.

use std::collections::BTreeMap;
use std::ops::Range;

use super::stored::{Place, Segment};

/// The segments without what is named twice; nothing where one goes beyond the end of all
/// addresses.
pub(super) fn without_overlaps(mut segments: Vec<Segment>) -> Option<Vec<Segment>> {
    segments.sort_by_key(|segment| segment.place == Place::Zeros);
    let mut covered = Covered::default();
    let mut result = Vec::with_capacity(segments.len());
    for segment in &segments {
        let end = segment.start.checked_add(segment.length)?;
        for part in covered.add(segment.start..end) {
            let skipped = part.start - segment.start;
            result.push(Segment {
                start: part.start,
                length: part.end - part.start,
                place: match segment.place {
                    Place::At(offset) => Place::At(offset.checked_add(skipped)?),
                    Place::Zeros => Place::Zeros,
                },
            });
        }
    }
    Some(result)
}

/// Addresses that are covered: ranges by their start, none of which touch.
#[derive(Debug, Default)]
struct Covered(BTreeMap<u64, u64>);

impl Covered {
    /// Covers a range, and gives the parts of it that were not covered.
    fn add(&mut self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut fresh = Vec::new();
        let (mut joined, mut from) = (range.clone(), range.start);
        let before = self.0.range(..range.start).next_back();
        let before = before.map(|(start, end)| *start..*end);
        // Each range goes once, whatever comes after: many overlaps cost no more than few.
        let mut next = before.filter(|before| before.end >= range.start);
        loop {
            let known = next.take().or_else(|| {
                let (start, end) = self.0.range(range.start..=range.end).next()?;
                Some(*start..*end)
            });
            let Some(known) = known else { break };
            self.0.remove(&known.start);
            if from < known.start {
                fresh.push(from..known.start);
            }
            from = from.max(known.end).min(range.end);
            joined = joined.start.min(known.start)..joined.end.max(known.end);
        }
        if from < range.end {
            fresh.push(from..range.end);
        }
        if !joined.is_empty() {
            self.0.insert(joined.start, joined.end);
        }
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(start: u64, length: u64, offset: u64) -> Segment {
        Segment {
            start,
            length,
            place: Place::At(offset),
        }
    }

    #[test]
    fn the_first_that_names_an_address_has_it_and_bytes_go_before_zeros() {
        let zeros = Segment {
            place: Place::Zeros,
            ..at(0, 50, 0)
        };
        let given = vec![zeros, at(10, 10, 100), at(5, 25, 200), at(12, 3, 300)];
        let wanted = [
            at(10, 10, 100),
            at(5, 5, 200),
            at(20, 10, 215),
            Segment {
                place: Place::Zeros,
                ..at(0, 5, 0)
            },
            Segment {
                place: Place::Zeros,
                ..at(30, 20, 0)
            },
        ];
        assert_eq!(without_overlaps(given).as_deref(), Some(&wanted[..]));
        assert_eq!(without_overlaps(vec![at(u64::MAX, 2, 0)]), None);
    }

    proptest! {
        #[test]
        fn each_address_is_named_once_by_the_first_that_had_it(
            given in proptest::collection::vec((0_u64..60, 1_u64..20), 0..20),
        ) {
            let segment = |(index, (start, length)): (usize, &(u64, u64))| {
                at(*start, *length, index as u64 * 1000)
            };
            let segments: Vec<Segment> = given.iter().enumerate().map(segment).collect();
            let result = without_overlaps(segments.clone()).expect("no end in sight");
            let place = |of: &[Segment], address: u64| {
                let has = |segment: &&Segment| {
                    (segment.start..segment.start + segment.length).contains(&address)
                };
                let mut all = of.iter().filter(has).map(|segment| match segment.place {
                    Place::At(offset) => offset + (address - segment.start),
                    Place::Zeros => u64::MAX,
                });
                (all.next(), all.count())
            };
            for address in 0..80 {
                let (wanted, _) = place(&segments, address);
                prop_assert_eq!(place(&result, address), (wanted, 0));
            }
        }
    }
}
