//! Guest-physical memory along a line, to scale: ranges of RAM and the holes between
//! them. A hole that is much longer than RAM is drawn broken, so that RAM stays visible.

use vmshm_link::{Extent, GuestPhysical};
use vmshm_ram::{Layout, LayoutRange};

/// A hole longer than this share of all RAM is broken.
const LONGEST_HOLE: u64 = 2;
/// A broken hole takes as much room as this share of all RAM.
const BROKEN: u64 = 12;

/// More pieces than this are not drawn one by one.
const MOST_PIECES: usize = 1000;

/// The whole part of a length on the sheet or of a share. What is no number, or less
/// than nothing, is 0.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "casting a float to an integer stops at the integer's ends"
)]
pub(crate) fn whole(length: f64) -> u64 {
    length as u64
}

/// One piece of the line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Piece {
    /// Its addresses.
    pub(crate) extent: Extent,
    /// What lies there; nothing for a hole.
    pub(crate) range: Option<LayoutRange>,
    /// Where it starts and ends, from 0 to 1.
    pub(crate) from: f64,
    pub(crate) to: f64,
    /// Whether it is drawn shorter than it is.
    pub(crate) broken: bool,
}

/// The line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Axis {
    pieces: Vec<Piece>,
}

impl Axis {
    /// The line from address 0, or from the first range where that is far away, to the
    /// end of RAM.
    pub(crate) fn new(layout: &Layout) -> Self {
        let ram: u64 = layout
            .ranges()
            .iter()
            .fold(0, |sum, range| sum.saturating_add(range.extent.length));
        let mut drawn: Vec<(Extent, Option<LayoutRange>, u64, bool)> = Vec::new();
        let mut at = 0;
        for range in layout.ranges() {
            let start = range.extent.start.0;
            if start > at {
                let length = start - at;
                let broken = length > ram / LONGEST_HOLE;
                let shown = if broken { ram / BROKEN } else { length };
                let extent = Extent {
                    start: GuestPhysical(at),
                    length,
                };
                drawn.push((extent, None, shown, broken));
            }
            drawn.push((range.extent, Some(*range), range.extent.length, false));
            at = start.saturating_add(range.extent.length);
        }
        let whole: f64 = drawn.iter().map(|(_, _, shown, _)| *shown as f64).sum();
        let mut from = 0.0;
        let pieces = drawn.into_iter().map(|(extent, range, shown, broken)| {
            let to = from + shown as f64 / whole.max(1.0);
            let piece = Piece {
                extent,
                range,
                from,
                to,
                broken,
            };
            from = to;
            piece
        });
        Self {
            pieces: pieces.collect(),
        }
    }

    /// The pieces in the order of their addresses.
    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Where an address is, from 0 to 1; nothing beyond the line.
    pub(crate) fn place(&self, address: GuestPhysical) -> Option<f64> {
        let after = self
            .pieces
            .partition_point(|piece| piece.extent.start <= address);
        let piece = self.pieces.get(after.checked_sub(1)?)?;
        if !piece.extent.contains(address) {
            return None;
        }
        let into = (address.0 - piece.extent.start.0) as f64 / piece.extent.length as f64;
        Some(piece.from + into * (piece.to - piece.from))
    }

    /// What the line holds between two places: each piece that is touched, with the
    /// addresses of the part that is.
    pub(crate) fn between(&self, from: f64, to: f64) -> Vec<(Piece, Extent)> {
        let part = |piece: &Piece| {
            let (start, end) = (from.max(piece.from), to.min(piece.to));
            let width = piece.to - piece.from;
            if start >= end || width <= 0.0 {
                return None;
            }
            let length = piece.extent.length;
            let offset = |place: f64| {
                let share = ((place - piece.from) / width).clamp(0.0, 1.0);
                whole(share * length as f64).min(length)
            };
            let (first, last) = (offset(start), offset(end));
            let extent = Extent {
                start: piece.extent.start.checked_add(first)?,
                length: last.saturating_sub(first).max(1),
            };
            Some((*piece, extent))
        };
        let first = self.pieces.partition_point(|piece| piece.to <= from);
        let touched = self.pieces.iter().skip(first);
        let touched = touched.take_while(|piece| piece.from < to);
        touched.filter_map(part).collect()
    }

    /// The pieces that are worth drawing on so many columns: of a great many, not those
    /// that lie together with another in one column. The ends are always among them.
    pub(crate) fn visible(&self, columns: f64) -> Vec<Piece> {
        if self.pieces.len() <= MOST_PIECES {
            return self.pieces.clone();
        }
        let last = self.pieces.len() - 1;
        let mut taken = None;
        let visible = self.pieces.iter().enumerate().filter(|(index, piece)| {
            let column = whole(piece.from * columns);
            let is_wide = (piece.to - piece.from) * columns >= 1.0;
            let is_first = taken != Some(column);
            taken = Some(column);
            is_first || is_wide || *index == last
        });
        visible.map(|(_, piece)| *piece).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmshm_ram::{BlockOffset, Source};

    fn range(start: u64, length: u64) -> LayoutRange {
        LayoutRange {
            extent: Extent {
                start: GuestPhysical(start),
                length,
            },
            at: BlockOffset {
                block: 0,
                offset: start,
            },
            source: Source::MachineRule,
        }
    }

    #[test]
    fn places_are_to_scale_and_long_holes_are_broken() {
        let layout = Layout::new(vec![range(0, 100), range(120, 80)]).expect("a layout");
        let axis = Axis::new(&layout);
        assert_eq!(axis.place(GuestPhysical(50)), Some(0.25));
        assert_eq!(axis.place(GuestPhysical(110)), Some(0.55));
        assert_eq!(axis.place(GuestPhysical(200)), None);
        let found = axis.between(0.25, 0.55);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].1.start, GuestPhysical(50));
        assert_eq!(found[0].1.length, 50);
        assert!(found[1].0.range.is_none());
        let far = Layout::new(vec![range(0, 120), range(1 << 40, 120)]).expect("a layout");
        let far = Axis::new(&far);
        assert!(far.pieces()[1].broken);
        assert!(far.pieces()[2].to - far.pieces()[2].from > 0.4);
    }

    #[test]
    fn nothing_and_the_largest_addresses_are_drawn_without_harm() {
        assert!(Axis::new(&Layout::default()).pieces().is_empty());
        let last = Layout::new(vec![range(1 << 62, 1 << 62)]).expect("a layout");
        let axis = Axis::new(&last);
        assert!(axis.between(0.0, 1.0).len() == 2);
    }
}
