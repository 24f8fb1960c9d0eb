//! Lays the picture out: what the guest sees on top, what the VMM has below, and between
//! them which part of one is which part of the other; then the same in figures.

use std::collections::BTreeSet;
use std::ops::Range;

use vmshm_host::inspect::{BlockView, Identity, Inspection};
use vmshm_link::GuestPhysical;
use vmshm_ram::{LayoutRange, Source};

use super::axis::Axis;
use super::colour::{self, BEACON, EDGE, FAINT, HATCH, HOLE, INK, PAPER};
use super::shapes::{Anchor, Drawing, Face, fitted, text_width};
use crate::output;

const WIDTH: f64 = 1240.0;
const MARGIN: f64 = 48.0;
const STRIP: f64 = WIDTH - 2.0 * MARGIN;
const STRIP_HEIGHT: f64 = 54.0;
const BLOCK_HEIGHT: f64 = 40.0;
const RIBBON: f64 = 74.0;
/// Width of one column of the heat strip.
const COLUMN: f64 = 2.0;
/// Room between blocks.
const GAP: f64 = 12.0;
/// Rows for the names of regions above the strip.
const NAME_ROWS: usize = 6;
const ROW: f64 = 22.0;
/// More rows of a table than this are counted and not shown.
const MOST_ROWS: usize = 24;

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

struct Sheet<'a> {
    drawing: Drawing,
    y: f64,
    found: &'a Inspection,
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
            .map_or_else(|| "system not recognised".to_owned(), output::plain);
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
                marks.push((across(place), colour::of_region(index), name));
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
        let columns = (STRIP / COLUMN) as usize;
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
        for piece in self.axis.pieces().to_vec() {
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
                let (first, last) = (across(from) as u64, across(to) as u64);
                columns.extend(first..=last.min(first + WIDTH as u64));
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
        for piece in self
            .axis
            .pieces()
            .iter()
            .filter(|piece| piece.range.is_some())
        {
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
        let gaps = GAP * found.blocks.len().saturating_sub(1) as f64;
        let mut x = MARGIN;
        let mut places = Vec::new();
        for (index, view) in found.blocks.iter().enumerate() {
            let width = (STRIP - gaps).max(1.0) * view.block.length as f64 / total.max(1.0);
            self.block(index, view, x, top, width);
            places.push(x..x + width);
            x += width + GAP;
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
        let columns = ((width / COLUMN) as u64).max(1);
        let length = view.block.length;
        for column in 0..columns {
            let offset = |column: u64| {
                (u128::from(length) * u128::from(column) / u128::from(columns)) as u64
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
        for piece in self.axis.pieces().to_vec() {
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

    fn legend(&mut self) {
        self.y += 20.0;
        let y = self.y;
        let mut x = MARGIN;
        self.drawing.words(x, y, 12.0, FAINT, "pages that exist");
        x += 104.0;
        self.drawing.words(x, y, 12.0, INK, "none");
        x += 34.0;
        for step in 0..32_u32 {
            let colour = colour::heat(f64::from(step) / 31.0);
            self.drawing
                .rectangle(x + f64::from(step) * 3.0, y - 10.0, 3.2, 12.0, &colour);
        }
        x += 102.0;
        self.drawing.words(x, y, 12.0, INK, "all");
        x += 40.0;
        let sources: BTreeSet<Source> = self
            .found
            .layout
            .ranges()
            .iter()
            .map(|range| range.source)
            .collect();
        let mut entries: Vec<(&'static str, String)> = sources
            .into_iter()
            .map(|source| (colour::of_source(source), source.to_string()))
            .collect();
        if self.found.beacon.is_some() {
            entries.push((BEACON, "beacon".to_owned()));
        }
        for (colour, text) in entries {
            let width = text_width(&text, 12.0, Face::Words) + 40.0;
            if x + width > MARGIN + STRIP {
                x = MARGIN;
                self.y += ROW;
            }
            self.drawing.rectangle(x, self.y - 10.0, 14.0, 12.0, colour);
            self.drawing.words(x + 20.0, self.y, 12.0, INK, &text);
            x += width;
        }
        self.y += 14.0;
    }

    fn tables(&mut self) {
        let found = self.found;
        let heading = ["guest-physical", "size", "in the VMM", "known"];
        let rows: Vec<_> = found.layout.ranges().iter().map(layout_row).collect();
        let widths = [250.0, 110.0, 240.0, 300.0];
        self.table(heading.map(str::to_owned).to_vec(), rows, &widths);
        let rows = found.blocks.iter().enumerate();
        let stored = matches!(found.identity, Identity::Stored { .. });
        let rows: Vec<_> = rows
            .map(|(index, view)| block_row(index, view, stored))
            .collect();
        let start = if stored { "from byte" } else { "VMM-virtual" };
        let heading = ["block", "size", "pages that exist", start, "behind it"];
        let widths = [70.0, 110.0, 180.0, 180.0, 560.0];
        self.table(heading.map(str::to_owned).to_vec(), rows, &widths);
        if found.regions.is_empty() {
            return;
        }
        let rows = found.regions.iter().enumerate();
        let rows: Vec<_> = rows
            .map(|(index, region)| {
                let extents = region.extents.as_ref();
                let pieces =
                    extents.map_or_else(|| "not told".to_owned(), |all| all.len().to_string());
                let first = extents.and_then(|all| all.first());
                let first = first.map_or_else(String::new, |extent| extent.start.to_string());
                let entry = &region.entry;
                let cells = vec![
                    output::plain(entry.name.as_str()),
                    entry.kind.name().to_owned(),
                    output::size(entry.size),
                    pieces,
                    first,
                ];
                (Some(colour::of_region(index)), cells)
            })
            .collect();
        let heading = ["region", "kind", "size", "extents", "first at"];
        let widths = [360.0, 100.0, 130.0, 110.0, 250.0];
        self.table(heading.map(str::to_owned).to_vec(), rows, &widths);
    }

    fn table(
        &mut self,
        heading: Vec<String>,
        rows: Vec<(Option<&'static str>, Vec<String>)>,
        widths: &[f64],
    ) {
        if rows.is_empty() {
            return;
        }
        self.y += 26.0;
        let mut x = MARGIN + 18.0;
        for (cell, width) in heading.iter().zip(widths) {
            self.drawing.words(x, self.y, 12.0, FAINT, cell);
            x += width;
        }
        self.y += 7.0;
        let (start, end) = ((MARGIN, self.y), (MARGIN + STRIP, self.y));
        self.drawing.line(start, end, HATCH, 1.0);
        let hidden = rows.len().saturating_sub(MOST_ROWS);
        for (colour, cells) in rows.into_iter().take(MOST_ROWS) {
            self.y += ROW - 4.0;
            if let Some(colour) = colour {
                self.drawing
                    .rectangle(MARGIN, self.y - 10.0, 10.0, 12.0, colour);
            }
            let mut x = MARGIN + 18.0;
            for (cell, width) in cells.iter().zip(widths) {
                let cell = fitted(cell, 12.0, Face::Numbers, width - 12.0);
                self.drawing.numbers(x, self.y, Anchor::Start, INK, &cell);
                x += width;
            }
        }
        if hidden > 0 {
            self.y += ROW - 4.0;
            let text = format!("and {hidden} more");
            self.drawing
                .words(MARGIN + 18.0, self.y, 12.0, FAINT, &text);
        }
        self.y += 8.0;
    }
}

fn layout_row(range: &LayoutRange) -> (Option<&'static str>, Vec<String>) {
    let end = range.extent.start.0.saturating_add(range.extent.length);
    let cells = vec![
        format!("{:#x} – {end:#x}", range.extent.start.0),
        output::size(range.extent.length),
        range.at.to_string(),
        range.source.to_string(),
    ];
    (Some(colour::of_source(range.source)), cells)
}

fn block_row(index: usize, view: &BlockView, stored: bool) -> (Option<&'static str>, Vec<String>) {
    let block = &view.block;
    let resident = match (view.resident, super::text::percent(view)) {
        (Some(bytes), Some(percent)) => format!("{} ({percent} %)", output::size(bytes)),
        _ => "not known".to_owned(),
    };
    let behind = if stored {
        output::plain(&block.name)
    } else if block.name.is_empty() {
        block.backing.to_string()
    } else {
        format!("{}: {}", block.backing, output::plain(&block.name))
    };
    let cells = vec![
        index.to_string(),
        output::size(block.length),
        resident,
        block.start.to_string(),
        behind,
    ];
    (Some(colour::of_block(index)), cells)
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
