//! Words over the picture, in a font of 8 x 8 pixels that comes with the program: nothing may
//! be opened any more when they are needed.

use font8x8::UnicodeFonts;
use vmshm_link::frames::Rectangle;

use super::painter::Target;

/// Pixels of a letter's side.
const SIDE: u32 = 8;
/// From one line to the next.
const LINE: u32 = 11;
/// Around a text.
const BORDER: u32 = 6;
/// The most letters of a line.
const COLUMNS: usize = 64;
/// The most lines.
const LINES: usize = 12;

const PAPER: u32 = 0x0010_1418;
const INK: u32 = 0x00f0_f0f0;

/// Where a text stands in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the middle.
    Middle,
    /// In the upper left corner.
    Corner,
}

/// Lines of text with a dark ground.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    lines: Vec<String>,
    place: Place,
    /// Pixels of a dot of a letter.
    dot: u32,
}

impl Note {
    /// A text, broken into lines; what is too long is left out.
    pub fn new(text: &str, place: Place, dot: u32) -> Self {
        let lines = text.lines().flat_map(broken).take(LINES).collect();
        Self {
            lines,
            place,
            dot: dot.clamp(1, 8),
        }
    }

    /// The part of a window that it covers; dots shrink where it would not fit.
    pub fn area(&self, window: (u32, u32)) -> Rectangle {
        let (width, height) = self.size(self.fitting_dot(window));
        let (width, height) = (width.min(window.0), height.min(window.1));
        let (x, y) = match self.place {
            Place::Middle => ((window.0 - width) / 2, (window.1 - height) / 2),
            Place::Corner => (0, 0),
        };
        Rectangle {
            x,
            y,
            width,
            height,
        }
    }

    /// Draws it.
    pub fn draw(&self, target: &mut Target<'_>) {
        let window = (target.width, target.height);
        let (area, dot) = (self.area(window), self.fitting_dot(window));
        target.fill(&area, PAPER);
        for (number, line) in (0..).zip(&self.lines) {
            let y = area.y + (BORDER + number * LINE) * dot;
            for (column, letter) in (0..).zip(line.chars()) {
                draw_letter(
                    target,
                    letter,
                    area.x + (BORDER + column * SIDE) * dot,
                    y,
                    dot,
                );
            }
        }
    }

    fn size(&self, dot: u32) -> (u32, u32) {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let letters = self.lines.iter().map(|line| line.chars().count());
        let columns = count(letters.max().unwrap_or(0));
        (
            dot * (columns * SIDE + 2 * BORDER),
            dot * (count(self.lines.len()) * LINE + 2 * BORDER),
        )
    }

    fn fitting_dot(&self, window: (u32, u32)) -> u32 {
        let fits = |dot: &u32| {
            let (width, height) = self.size(*dot);
            width <= window.0 && height <= window.1
        };
        (1..=self.dot).rev().find(fits).unwrap_or(1)
    }
}

/// A line, broken at spaces where that is possible.
fn broken(line: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in line.split_inclusive(' ') {
        let length = word.chars().count();
        if used > 0 && used + length > COLUMNS {
            lines.push(String::new());
            used = 0;
        }
        for letter in word.chars() {
            if used == COLUMNS {
                lines.push(String::new());
                used = 0;
            }
            if let Some(last) = lines.last_mut() {
                last.push(letter);
                used += 1;
            }
        }
    }
    lines
}

fn draw_letter(target: &mut Target<'_>, letter: char, x: u32, y: u32, dot: u32) {
    let shape = font8x8::BASIC_FONTS
        .get(letter)
        .or_else(|| font8x8::LATIN_FONTS.get(letter))
        .or_else(|| font8x8::BASIC_FONTS.get('?'))
        .unwrap_or_default();
    for (row, bits) in (0..).zip(shape) {
        for column in (0..SIDE).filter(|column| bits >> column & 1 == 1) {
            let part = Rectangle {
                x: x + column * dot,
                y: y + row * dot,
                width: dot,
                height: dot,
            };
            target.fill(&part, INK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_broken_and_bounded() {
        let note = Note::new(&"word ".repeat(100), Place::Middle, 2);
        assert!(note.lines.len() > 5 && note.lines.len() <= LINES);
        assert!(
            note.lines
                .iter()
                .all(|line| line.chars().count() <= COLUMNS)
        );
        let note = Note::new(&"x".repeat(100_000), Place::Middle, 2);
        assert_eq!(note.lines.len(), LINES);
    }

    #[test]
    fn texts_are_drawn_within_any_window() {
        for (width, height) in [(1, 1), (20, 3), (300, 200), (2000, 900)] {
            let mut pixels = vec![0x00ff_0000; (width * height) as usize];
            let mut target = Target {
                pixels: &mut pixels,
                width,
                height,
            };
            let note = Note::new("the VM is paused — äöü \u{1f600}", Place::Middle, 2);
            let area = note.area((width, height));
            assert!(area.is_within(width, height));
            note.draw(&mut target);
            if width > 200 {
                assert!(pixels.contains(&INK) && pixels.contains(&0x00ff_0000));
            }
        }
    }
}
