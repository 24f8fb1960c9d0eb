//! The map of guest RAM as three lines of text: how much of each place exists, which
//! block it is in, and where beacon and regions are.

use std::ops::Range;

use vmshm_host::inspect::{BlockView, Inspection};
use vmshm_link::GuestPhysical;

use super::axis::{Axis, Piece, whole};

/// Columns of the map.
const COLUMNS: usize = 64;
/// From no page to all pages.
const SHADES: [char; 5] = ['·', '░', '▒', '▓', '█'];

/// The map; empty where no layout is known.
pub(crate) fn map(inspection: &Inspection) -> String {
    let axis = Axis::new(&inspection.layout);
    let (Some(first), Some(last)) = (axis.pieces().first(), axis.pieces().last()) else {
        return String::new();
    };
    let mut shades = String::new();
    let mut blocks = String::new();
    for column in 0..COLUMNS {
        let (from, to) = (place(column), place(column + 1));
        let (shade, block) = look(inspection, &axis, from, to);
        shades.push(shade);
        blocks.push(block);
    }
    let end = last.extent.end().unwrap_or(last.extent.start);
    let (first, end) = (first.extent.start.to_string(), end.to_string());
    let gap = COLUMNS.saturating_sub(first.len() + end.len());
    let mut text = format!("  {first}{}{end}\n", " ".repeat(gap));
    text.push_str(&format!("  {shades}  pages that exist\n"));
    text.push_str(&format!("  {blocks}  RAM block\n"));
    let marks = marks(inspection, &axis);
    if !marks.trim().is_empty() {
        text.push_str(&format!("  {marks}  B beacon, R regions\n"));
    }
    text.push_str(&format!(
        "  {} none to {} all; blank: no RAM{}\n",
        SHADES.first().unwrap_or(&' '),
        SHADES.last().unwrap_or(&' '),
        if axis.pieces().iter().any(|piece| piece.broken) {
            "; //: a hole too long to draw"
        } else {
            ""
        }
    ));
    text
}

fn place(column: usize) -> f64 {
    column as f64 / COLUMNS as f64
}

/// What stands in one column: its shade and its block.
fn look(inspection: &Inspection, axis: &Axis, from: f64, to: f64) -> (char, char) {
    let mut weight = 0.0;
    let mut present = 0.0;
    let mut largest: Option<(Piece, u64)> = None;
    for (piece, part) in axis.between(from, to) {
        if largest.is_none_or(|(_, length)| part.length > length) {
            largest = Some((piece, part.length));
        }
        let Some(range) = piece.range else { continue };
        let offset = range.at.offset + (part.start.0 - range.extent.start.0);
        if let Some(block) = inspection.blocks.get(range.at.block) {
            weight += part.length as f64;
            present += block.share(&(offset..offset + part.length)) * part.length as f64;
        }
    }
    match largest {
        Some((piece, _)) if piece.broken => ('/', '/'),
        Some((
            Piece {
                range: Some(range), ..
            },
            _,
        )) => {
            let share = if weight > 0.0 { present / weight } else { 0.0 };
            (shade(share), digit(range.at.block))
        }
        _ => (' ', ' '),
    }
}

/// Anything at all is more than nothing, and only all is all.
fn shade(share: f64) -> char {
    let steps = SHADES.len() - 1;
    let index = usize::try_from(whole((share * steps as f64).round())).unwrap_or(steps);
    let index = match index {
        0 if share > 0.0 => 1,
        index if index >= steps && share < 0.999 => steps - 1,
        index => index.min(steps),
    };
    SHADES.get(index).copied().unwrap_or(' ')
}

fn digit(block: usize) -> char {
    u32::try_from(block)
        .ok()
        .and_then(|block| char::from_digit(block, 36))
        .unwrap_or('+')
}

fn marks(inspection: &Inspection, axis: &Axis) -> String {
    let mut marks = vec![' '; COLUMNS];
    let mut mark = |start: GuestPhysical, length: u64, sign: char| {
        let last = GuestPhysical(start.0.saturating_add(length.saturating_sub(1)));
        let column = |address| {
            axis.place(address)
                .and_then(|place| usize::try_from(whole(place * COLUMNS as f64)).ok())
        };
        if let Some(first) = column(start) {
            let last = column(last).unwrap_or(first).min(COLUMNS - 1);
            if let Some(cells) = marks.get_mut(first..=last) {
                cells.fill(sign);
            }
        }
    };
    let regions = inspection.regions.iter();
    let extents = regions.filter_map(|region| region.extents.as_ref());
    for extent in extents.flatten() {
        mark(extent.start, extent.length, 'R');
    }
    if let Some(beacon) = inspection.beacon {
        mark(beacon, 1, 'B');
    }
    marks.into_iter().collect()
}

/// The share of a block's pages that exist, for its line in the list.
pub(crate) fn percent(block: &BlockView) -> Option<u64> {
    let length: Range<u64> = 0..block.block.length;
    let resident = block.resident?;
    Some(resident.saturating_mul(100) / length.end.max(1))
}
