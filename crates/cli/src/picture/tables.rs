//! The picture's lower part: what its colours mean, and the same facts in figures.

use std::collections::BTreeSet;

use vmshm_host::inspect::{BlockView, Identity};
use vmshm_ram::{LayoutRange, Source};

use super::colour::{self, BEACON, FAINT, HATCH, INK};
use super::draw::{MARGIN, STRIP, Sheet};
use super::shapes::{Anchor, Face, fitted, text_width};
use crate::output;

const ROW: f64 = 22.0;
/// More rows of a table than this are counted and not shown.
const MOST_ROWS: usize = 24;

impl Sheet<'_> {
    /// What the colours mean.
    pub(super) fn legend(&mut self) {
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

    /// Ranges, blocks and regions.
    pub(super) fn tables(&mut self) {
        let found = self.found;
        let heading = ["guest-physical", "size", "in the VMM", "known"];
        let rows = found.layout.ranges().iter().map(layout_row);
        let widths = [250.0, 110.0, 240.0, 300.0];
        self.table(&heading, rows, &widths);
        let rows = found.blocks.iter().enumerate();
        let stored = matches!(found.identity, Identity::Stored { .. });
        let rows = rows.map(|(index, view)| block_row(index, view, stored));
        let start = if stored { "from byte" } else { "VMM-virtual" };
        let heading = ["block", "size", "pages that exist", start, "behind it"];
        let widths = [70.0, 110.0, 180.0, 180.0, 560.0];
        self.table(&heading, rows, &widths);
        if found.regions.is_empty() {
            return;
        }
        let rows = found.regions.iter().enumerate();
        let rows = rows.map(|(index, region)| {
            let extents = region.extents.as_ref();
            let pieces = extents.map_or_else(|| "not told".to_owned(), |all| all.len().to_string());
            let first = extents.and_then(|all| all.first());
            let first = first.map_or_else(String::new, |extent| extent.start.to_string());
            let entry = &region.entry;
            let cells = vec![
                output::plain(entry.name.as_str()).into_owned(),
                entry.kind.name().to_owned(),
                output::size(entry.size),
                pieces,
                first,
            ];
            (Some(colour::of_region(index)), cells)
        });
        let heading = ["region", "kind", "size", "extents", "first at"];
        let widths = [360.0, 100.0, 130.0, 110.0, 250.0];
        self.table(&heading, rows, &widths);
    }

    fn table(
        &mut self,
        heading: &[&str],
        rows: impl ExactSizeIterator<Item = (Option<&'static str>, Vec<String>)>,
        widths: &[f64],
    ) {
        if rows.len() == 0 {
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
        for (colour, cells) in rows.take(MOST_ROWS) {
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
        output::plain(&block.name).into_owned()
    } else if block.name.is_empty() {
        block.backing.to_string()
    } else {
        format!("{}: {}", block.backing, output::plain(&block.name))
    };
    let cells = vec![
        index.to_string(),
        output::size(block.length),
        resident,
        block.place().map_or_else(
            || "held by its handle".to_owned(),
            |place| place.to_string(),
        ),
        behind,
    ];
    (Some(colour::of_block(index)), cells)
}
