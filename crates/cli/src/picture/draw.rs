//! Lays the picture out: what the guest sees on top, what the VMM has below, and between
//! them which part of one is which part of the other; then the same in figures.

use std::collections::BTreeSet;
use std::ops::Range;

use vmshm_host::inspect::{BlockView, Identity, Inspection};
use vmshm_link::GuestPhysical;

use super::axis::{Axis, whole};
use super::colour::{self, BEACON, EDGE, FAINT, HATCH, HOLE, INK, PAPER};
use super::shapes::{Anchor, Drawing, Face, fitted, text_width};
use crate::output;

const WIDTH: f64 = 1240.0;
pub(super) const MARGIN: f64 = 48.0;
pub(super) const STRIP: f64 = WIDTH - 2.0 * MARGIN;
const STRIP_HEIGHT: f64 = 54.0;
const BLOCK_HEIGHT: f64 = 40.0;
const RIBBON: f64 = 74.0;
/// Width of one column of the heat strip.
const COLUMN: f64 = 2.0;
/// Room between blocks.
const GAP: f64 = 12.0;
/// Rows for the names of regions above the strip.
const NAME_ROWS: usize = 6;

/// The picture of what was found.
pub(super) fn draw(found: &Inspection) -> Drawing {
    let mut sheet = Sheet {
        drawing: Drawing {
            width: WIDTH,
            height: 0.0,
            shapes: Vec::new(),
        },
        y: 0.0,
        found,
        axis: Axis::new(&found.layout),
    };
    sheet.heading();
    if sheet.axis.pieces().is_empty() {
        sheet.y += 30.0;
        let text = "Where the guest sees its RAM is not known.";
        sheet.drawing.words(MARGIN, sheet.y, 15.0, FAINT, text);
        sheet.y += 30.0;
        sheet.blocks(sheet.y);
    } else {
        sheet.guest_memory();
    }
    sheet.legend();
    sheet.tables();
    let mut drawing = sheet.drawing;
    drawing.height = sheet.y + 20.0;
    let paper = super::shapes::Shape::Rectangle {
        x: 0.0,
        y: 0.0,
        width: WIDTH,
        height: drawing.height,
        radius: 0.0,
        fill: PAPER.to_owned(),
        stroke: None,
    };
    drawing.shapes.insert(0, paper);
    drawing
}

pub(super) struct Sheet<'a> {
    pub(super) drawing: Drawing,
    /// How far down the sheet is filled.
    pub(super) y: f64,
    pub(super) found: &'a Inspection,
    axis: Axis,
}

/// Where a place of the axis, from 0 to 1, is on the sheet.
fn across(place: f64) -> f64 {
    MARGIN + place * STRIP
}

impl Sheet<'_> {
    fn heading(&mut self) {
        let found = self.found;
        let (kind, detail) = match &found.identity {
            Identity::Running(vmm) => (
                format!("{} · process {}", vmm.kind, vmm.pid),
                format!(
                    "{} · access {}",
                    output::size(found.ram_bytes),
                    vmm.access()
                ),
            ),
            Identity::Stored { format, .. } => (
                format!("stored dump · {format}"),
                output::size(found.ram_bytes),
            ),
        };
        let name = fitted(&output::plain(&found.name), 26.0, Face::Words, STRIP);
        self.drawing.words(MARGIN, 58.0, 26.0, INK, &name);
        let system = found
            .guest_os
            .as_deref()
            .map_or("system not recognised".into(), output::plain);
        let agent = match (&found.identity, &found.agent) {
            (Identity::Stored { .. }, _) => String::new(),
            (_, None) => " · no agent".to_owned(),
            (_, Some(agent)) => format!(" · agent {}", agent.state.name()),
        };
        let line = format!("{kind} · {detail} · {system}{agent}");
        let line = fitted(&line, 15.0, Face::Words, STRIP);
        self.drawing.words(MARGIN, 84.0, 15.0, FAINT, &line);
        self.y = 100.0;
    }

    fn guest_memory(&mut self) {
        self.y += 22.0;
        let label = "Guest-physical memory: what the guest sees";
        self.drawing.words(MARGIN, self.y, 14.0, INK, label);
        self.y += 8.0;
        let top = self.marks();
        self.strip(top);
        let ticks = self.ticks(top + STRIP_HEIGHT + 8.0);
        let blocks = ticks + RIBBON;
        let places = self.blocks(blocks);
        self.ribbons(ticks + 4.0, blocks, &places);
    }

    /// Beacon and regions above the strip; returns where the strip starts.
    fn marks(&mut self) -> f64 {
        let mut marks: Vec<(f64, &'static str, String)> = Vec::new();
        if let Some(place) = self.found.beacon.and_then(|at| self.axis.place(at)) {
            marks.push((across(place), BEACON, "beacon".to_owned()));
        }
        for (index, region) in self.found.regions.iter().enumerate() {
            let extents = region.extents.iter().flatten();
            let Some(largest) = extents.max_by_key(|extent| extent.length) else {
                continue;
            };
            let middle = GuestPhysical(largest.start.0.saturating_add(largest.length / 2));
            if let Some(place) = self.axis.place(middle) {
                let name = output::plain(region.entry.name.as_str());
                marks.push((across(place), colour::of_region(index), name.into_owned()));
            }
        }
        if marks.is_empty() {
            return self.y + 6.0;
        }
        // From the right to the left, and each above those whose lines its name would
        // cross: so no line goes through a name.
        marks.sort_by(|one, other| other.0.total_cmp(&one.0));
        let mut placed: Vec<(f64, usize, &'static str, String)> = Vec::new();
        for (x, colour, name) in marks {
            let name = fitted(&name, 13.0, Face::Words, 180.0);
            let end = x + 5.0 + text_width(&name, 13.0, Face::Words) + 10.0;
            let crossed = placed.iter().filter(|(other, ..)| *other < end);
            let row = crossed.map(|(_, row, ..)| row + 1).max().unwrap_or(0);
            placed.push((x, row, colour, name));
        }
        let rows = placed.iter().map(|(_, row, ..)| row + 1).max().unwrap_or(0);
        let rows = rows.min(NAME_ROWS);
        let top = self.y + rows as f64 * 18.0 + 12.0;
        // What finds no row is named in the table alone.
        for (x, row, colour, name) in placed.into_iter().filter(|place| place.1 < rows) {
            let base = top - 12.0 - row as f64 * 18.0;
            self.drawing.line((x, base - 10.0), (x, top), colour, 1.5);
            self.drawing.words(x + 5.0, base, 13.0, INK, &name);
        }
        top
    }

    /// The strip itself: how much of each place exists, holes, and how it is known.
    fn strip(&mut self, top: f64) {
        let columns = whole(STRIP / COLUMN);
        let mut run: Option<(f64, String)> = None;
        for column in 0..=columns {
            let from = column as f64 / columns as f64;
            let colour =
                (column < columns).then(|| self.shade(from, (column + 1) as f64 / columns as f64));
            match (&run, colour) {
                (Some((_, running)), Some(colour)) if *running == colour => {}
                (_, colour) => {
                    if let Some((start, running)) = run.take() {
                        let x = across(start);
                        self.drawing
                            .rectangle(x, top, across(from) - x, STRIP_HEIGHT, &running);
                    }
                    run = colour.map(|colour| (from, colour));
                }
            }
        }
        for piece in self.axis.visible(STRIP) {
            let (x, end) = (across(piece.from), across(piece.to));
            let Some(range) = piece.range else {
                self.hole(x, end, top, piece.broken);
                continue;
            };
            let colour = colour::of_source(range.source);
            let width = (end - x).max(1.0);
            self.drawing
                .rectangle(x, top + STRIP_HEIGHT, width, 7.0, colour);
            if end - x > 3.0 {
                self.drawing.frame(x, top, end - x, STRIP_HEIGHT, EDGE);
            }
        }
        self.regions(top);
    }

    fn regions(&mut self, top: f64) {
        for (index, region) in self.found.regions.iter().enumerate() {
            let colour = colour::of_region(index);
            // Several extents in one column are one mark.
            let mut columns: BTreeSet<u64> = BTreeSet::new();
            for extent in region.extents.iter().flatten() {
                let Some(from) = self.axis.place(extent.start) else {
                    continue;
                };
                let last = GuestPhysical(extent.start.0.saturating_add(extent.length - 1));
                let to = self.axis.place(last).unwrap_or(from);
                let (first, last) = (whole(across(from)), whole(across(to)));
                columns.extend(first..=last.min(first + whole(WIDTH)));
            }
            for column in columns {
                self.drawing
                    .rectangle(column as f64, top + 1.0, 1.6, STRIP_HEIGHT - 2.0, colour);
            }
        }
        if let Some(place) = self.found.beacon.and_then(|at| self.axis.place(at)) {
            let x = across(place);
            self.drawing
                .rectangle(x - 0.8, top, 1.6, STRIP_HEIGHT, BEACON);
            let tip = [(x - 5.0, top - 7.0), (x + 5.0, top - 7.0), (x, top)];
            self.drawing.polygon(&tip, BEACON, 1.0);
        }
    }

    fn hole(&mut self, x: f64, end: f64, top: f64, broken: bool) {
        self.drawing.rectangle(x, top, end - x, STRIP_HEIGHT, HOLE);
        let mut at = x - STRIP_HEIGHT;
        while at < end {
            // Slanted lines, cut where the hole ends.
            let (from, to) = (at.max(x), (at + STRIP_HEIGHT).min(end));
            if from < to {
                let low = top + STRIP_HEIGHT - (from - at);
                let high = top + STRIP_HEIGHT - (to - at);
                self.drawing.line((from, low), (to, high), HATCH, 1.0);
            }
            at += 9.0;
        }
        let label = if broken { "not to scale" } else { "no RAM" };
        if end - x > text_width(label, 12.0, Face::Words) + 8.0 {
            let (middle, y) = ((x + end) / 2.0, top + STRIP_HEIGHT / 2.0 + 4.0);
            let half = text_width(label, 12.0, Face::Words) / 2.0 + 4.0;
            self.drawing
                .rectangle(middle - half, y - 13.0, 2.0 * half, 18.0, HOLE);
            self.drawing
                .text(middle, y, 12.0, Anchor::Middle, Face::Words, FAINT, label);
        }
    }

    fn shade(&self, from: f64, to: f64) -> String {
        let (mut weight, mut present) = (0.0, 0.0);
        for (piece, part) in self.axis.between(from, to) {
            let Some(range) = piece.range else { continue };
            let offset = range.at.offset + (part.start.0 - range.extent.start.0);
            if let Some(block) = self.found.blocks.get(range.at.block) {
                weight += part.length as f64;
                present += block.share(&(offset..offset + part.length)) * part.length as f64;
            }
        }
        if weight > 0.0 {
            colour::heat(present / weight)
        } else {
            HOLE.to_owned()
        }
    }

    /// Addresses below the strip, as many as fit; returns where they end.
    fn ticks(&mut self, y: f64) -> f64 {
        let mut places: Vec<(f64, u64)> = Vec::new();
        let pieces = self.axis.visible(STRIP);
        for piece in pieces.iter().filter(|piece| piece.range.is_some()) {
            places.push((piece.from, piece.extent.start.0));
            let end = piece.extent.start.0.saturating_add(piece.extent.length);
            places.push((piece.to, end));
        }
        places.dedup_by_key(|(_, address)| *address);
        // The ends of the line are always named; of the others those that have room.
        let last = places.len().saturating_sub(1);
        let label = |address: u64| format!("{address:#x}");
        let room = |address: u64| text_width(&label(address), 12.0, Face::Numbers);
        let last_from = places
            .get(last)
            .map_or(0.0, |(place, address)| across(*place) - room(*address));
        let mut taken = f64::MIN;
        for (index, (place, address)) in places.iter().enumerate() {
            let (x, width) = (across(*place), room(*address));
            let (anchor, from) = match index {
                0 => (Anchor::Start, x),
                index if index == last => (Anchor::End, x - width),
                _ => (Anchor::Middle, x - width / 2.0),
            };
            let fits = from > taken + 14.0 && (index == last || from + width + 14.0 < last_from);
            if index != 0 && index != last && !fits {
                continue;
            }
            self.drawing.line((x, y - 1.0), (x, y + 5.0), EDGE, 1.0);
            self.drawing
                .numbers(x, y + 18.0, anchor, INK, &label(*address));
            let human = output::size(*address);
            self.drawing
                .text(x, y + 33.0, 11.0, anchor, Face::Words, FAINT, &human);
            taken = from + width;
        }
        y + 40.0
    }

    /// The VMM's blocks from `top` on; returns where on the sheet each one is.
    fn blocks(&mut self, top: f64) -> Vec<Range<f64>> {
        let found = self.found;
        let total: f64 = found
            .blocks
            .iter()
            .map(|view| view.block.length as f64)
            .sum();
        // Many blocks stand closer together, and what then lies within one column is
        // drawn once.
        let between = found.blocks.len().saturating_sub(1) as f64;
        let gap = GAP.min(STRIP / 2.0 / between.max(1.0));
        let mut x = MARGIN;
        let mut places = Vec::new();
        let mut taken = None;
        for (index, view) in found.blocks.iter().enumerate() {
            let room = STRIP - gap * between;
            let width = room * view.block.length as f64 / total.max(1.0);
            let column = Some(whole(x));
            if width >= 1.0 || taken != column {
                self.block(index, view, x, top, width);
                taken = column;
            }
            places.push(x..x + width);
            x += width + gap;
        }
        self.y = top + BLOCK_HEIGHT + 8.0;
        let what = match found.identity {
            Identity::Running(_) => "RAM blocks: what the VMM has",
            Identity::Stored { .. } => "Ranges of the file",
        };
        self.y += 38.0;
        self.drawing.words(MARGIN, self.y, 14.0, INK, what);
        self.y += 12.0;
        places
    }

    fn block(&mut self, index: usize, view: &BlockView, x: f64, top: f64, width: f64) {
        let columns = whole(width / COLUMN).max(1);
        let length = view.block.length;
        for column in 0..columns {
            let offset = |column: u64| {
                u64::try_from(u128::from(length) * u128::from(column) / u128::from(columns))
                    .unwrap_or(length)
            };
            let colour = match view.resident {
                Some(_) => colour::heat(view.share(&(offset(column)..offset(column + 1)))),
                None => HOLE.to_owned(),
            };
            let step = width / columns as f64;
            self.drawing.rectangle(
                x + column as f64 * step,
                top,
                step + 0.2,
                BLOCK_HEIGHT,
                &colour,
            );
        }
        self.drawing.frame(x, top, width, BLOCK_HEIGHT, EDGE);
        self.drawing
            .rectangle(x, top + BLOCK_HEIGHT, width, 5.0, colour::of_block(index));
        let label = fitted(
            &format!("block {index} · {}", output::size(length)),
            12.0,
            Face::Words,
            width,
        );
        if width > 40.0 {
            let y = top + BLOCK_HEIGHT + 20.0;
            self.drawing.words(x, y, 12.0, INK, &label);
        }
    }

    /// Which part of the guest's memory is which part of a block.
    fn ribbons(&mut self, top: f64, bottom: f64, places: &[Range<f64>]) {
        for piece in self.axis.visible(STRIP) {
            let Some(range) = piece.range else { continue };
            let (Some(place), Some(view)) = (
                places.get(range.at.block),
                self.found.blocks.get(range.at.block),
            ) else {
                continue;
            };
            let width = place.end - place.start;
            let length = view.block.length.max(1) as f64;
            let x = |offset: u64| place.start + width * (offset as f64 / length).min(1.0);
            let end = range.at.offset.saturating_add(range.extent.length);
            let points = [
                (across(piece.from), top),
                (across(piece.to), top),
                (x(end), bottom),
                (x(range.at.offset), bottom),
            ];
            let colour = colour::of_block(range.at.block);
            self.drawing.polygon(&points, colour, 0.32);
            let [first, last, last_below, first_below] = points;
            self.drawing.line(first, first_below, colour, 1.0);
            self.drawing.line(last, last_below, colour, 1.0);
        }
    }
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
