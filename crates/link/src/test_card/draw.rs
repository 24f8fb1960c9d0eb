//! Drawing a test card, row by row, any part of a row, into private memory.

use super::{CODE_MARK, CODE_PIXELS, MIN_SIDE, SWEEP};
use crate::frames::{Damage, MAX_SIDE, Rectangle};
use crate::mix::mix;

/// The unused byte of every pixel.
const OPAQUE: u32 = 0xff00_0000;
/// How far the sweep goes in one frame.
const SWEEP_STEP: u64 = 8;
/// How far the box goes in one frame, to the side and down.
const BOX_STEPS: [u64; 2] = [5, 3];
/// How many bars there are.
const BARS_ACROSS: u32 = 8;
/// Their colours.
const BARS: [u32; BARS_ACROSS as usize] = [
    0xc0_c0_c0, 0xc0_c0_00, 0x00_c0_c0, 0x00_c0_00, 0xc0_00_c0, 0xc0_00_00, 0x00_00_c0, 0x10_10_10,
];
/// Digits 0 to 9 in 3×5 dots, upper left dot in the highest of 15 bits.
const DIGITS: [u16; 10] = [
    0b111_101_101_101_111,
    0b010_110_010_010_111,
    0b111_001_111_100_111,
    0b111_001_111_001_111,
    0b101_101_111_001_001,
    0b111_100_111_001_111,
    0b111_100_111_101_111,
    0b111_001_010_010_010,
    0b111_101_111_101_111,
    0b111_101_111_001_111,
];
/// How many digits are shown: the lower ones of the serial.
const DIGIT_COUNT: u32 = 6;
/// Dots of a digit's cell, with the space around it.
const CELL: (u32, u32) = (4, 7);

/// One picture of the test card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TestCard {
    width: u32,
    height: u32,
    serial: u64,
    sweep: Rectangle,
    noise: Rectangle,
    digits: Rectangle,
    /// Pixels of a digit's dot.
    dot: u32,
}

impl TestCard {
    /// The picture of this size with this serial; nothing below [`MIN_SIDE`] or beyond what a
    /// screen may have.
    #[must_use]
    pub fn new(width: u32, height: u32, serial: u64) -> Option<Self> {
        let range = MIN_SIDE..=MAX_SIDE;
        if !range.contains(&width) || !range.contains(&height) {
            return None;
        }
        let sweep = Rectangle {
            x: wrapped(serial.wrapping_mul(SWEEP_STEP), width - SWEEP),
            y: 0,
            width: SWEEP,
            height,
        };
        let side = (width.min(height) / 8).clamp(16, 128);
        let noise = Rectangle {
            x: bounced(serial.wrapping_mul(BOX_STEPS[0]), width - side),
            y: bounced(serial.wrapping_mul(BOX_STEPS[1]), height - side),
            width: side,
            height: side,
        };
        let dot = (width.min(height * 2) / 160).clamp(1, 8);
        let digits = Rectangle {
            x: (width - DIGIT_COUNT * CELL.0 * dot) / 2,
            y: (height - CELL.1 * dot) / 4,
            width: DIGIT_COUNT * CELL.0 * dot,
            height: CELL.1 * dot,
        };
        Some(Self {
            width,
            height,
            serial,
            sweep,
            noise,
            digits,
            dot,
        })
    }

    /// The same card some frames earlier or later.
    #[must_use]
    pub fn at(&self, serial: u64) -> Self {
        Self::new(self.width, self.height, serial).unwrap_or(*self)
    }

    /// Pixels in a row.
    #[must_use]
    pub const fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    #[must_use]
    pub const fn height(&self) -> u32 {
        self.height
    }

    /// Its number.
    #[must_use]
    pub const fn serial(&self) -> u64 {
        self.serial
    }

    /// What differs between this picture and the one with serial `other`: all changed pixels
    /// are in it.
    #[must_use]
    pub fn damage(&self, other: u64) -> Damage {
        let mut damage = Damage::none();
        if other == self.serial {
            return damage;
        }
        let other = self.at(other);
        damage.add(self.code());
        damage.add(self.digits);
        for one in [self.sweep, other.sweep, self.noise, other.noise] {
            damage.add(one);
        }
        damage
    }

    /// Where the code is.
    pub(super) const fn code(&self) -> Rectangle {
        Rectangle {
            x: 0,
            y: 0,
            width: CODE_PIXELS,
            height: 1,
        }
    }

    /// Draws the pixels of row `row` from column `column` on, as many as `into` has room for;
    /// 4 bytes each, as in `XRGB8888`. `checksum` is that of this picture
    /// ([`Checksum`](super::Checksum)); only the first pixels of row 0 show it. What lies beyond
    /// the picture is left as it is.
    pub fn draw(&self, row: u32, column: u32, checksum: u64, into: &mut [u8]) {
        if row >= self.height || column >= self.width {
            return;
        }
        let room = into.len() / 4;
        let count = room.min((self.width - column) as usize);
        let part = Part {
            row,
            start: column,
            end: column + u32::try_from(count).unwrap_or(0),
        };
        let into = &mut into[..4 * count];
        self.draw_ground(part, into);
        // The sweep is above the digits: no row is without what changes.
        part.over(&self.digits, into, |x, y| self.digit_pixel(x, y));
        let serial = self.serial;
        part.over(&self.sweep, into, |x, _| {
            let bit = serial >> x & 1;
            if bit == 1 { 0xff_ff_ff } else { 0x20_00_00 }
        });
        let seed = mix(serial, 0x6e6f_6973);
        part.over(&self.noise, into, |x, y| noise(seed, x, y));
        part.over(&self.code(), into, |x, _| {
            code_pixel(serial, checksum, x as usize)
        });
    }

    /// What never changes: bars above, a ramp below, a thin frame around.
    fn draw_ground(&self, part: Part, into: &mut [u8]) {
        if part.row == 0 || part.row == self.height - 1 {
            fill(into, 0xff_ff_ff);
            return;
        }
        if part.row < self.height / 4 * 3 {
            let mut start = part.start;
            while start < part.end {
                let bar = start * BARS_ACROSS / self.width;
                // The first column of the next bar.
                let end = ((bar + 1) * self.width).div_ceil(BARS_ACROSS).min(part.end);
                let colour = BARS[bar as usize % BARS.len()];
                fill(part.slice(start, end, into), colour);
                start = end.max(start + 1);
            }
        } else {
            // In 65536ths of a grey, so that no division is needed for a pixel.
            let step = (255 << 16) / self.width;
            for (x, pixel) in (part.start..part.end).zip(into.chunks_exact_mut(4)) {
                let grey = (x * step) >> 16;
                put(pixel, grey << 16 | grey << 8 | (255 - grey));
            }
        }
        for x in [0, self.width - 1] {
            let edge = Rectangle {
                x,
                ..Rectangle::whole(1, self.height)
            };
            part.over(&edge, into, |_, _| 0xff_ff_ff);
        }
    }

    fn digit_pixel(&self, x: u32, y: u32) -> u32 {
        let (column, row) = (x / self.dot, y / self.dot);
        let place = DIGIT_COUNT - 1 - (column / CELL.0).min(DIGIT_COUNT - 1);
        let digit = self.serial / 10_u64.pow(place) % 10;
        let glyph = DIGITS[usize::try_from(digit).unwrap_or(0)];
        let (column, row) = (column % CELL.0, row % CELL.1);
        let is_dot = column < 3
            && (1..6).contains(&row)
            && glyph >> (14 - ((row - 1) * 3 + column)) & 1 == 1;
        if is_dot { 0xff_ff_ff } else { 0x18_18_18 }
    }
}

/// A part of a row.
#[derive(Debug, Clone, Copy)]
struct Part {
    row: u32,
    start: u32,
    end: u32,
}

impl Part {
    /// The bytes of columns `start` to `end` in the part's own.
    fn slice<'a>(&self, start: u32, end: u32, into: &'a mut [u8]) -> &'a mut [u8] {
        let at = |column: u32| 4 * column.saturating_sub(self.start) as usize;
        into.get_mut(at(start)..at(end)).unwrap_or_default()
    }

    /// Draws what of `rectangle` lies in it; `colour` gets places in the rectangle.
    fn over(&self, rectangle: &Rectangle, into: &mut [u8], colour: impl Fn(u32, u32) -> u32) {
        if self.row < rectangle.y || self.row - rectangle.y >= rectangle.height {
            return;
        }
        let start = self.start.max(rectangle.x);
        let end = self.end.min(rectangle.x + rectangle.width);
        if start >= end {
            return;
        }
        let pixels = self.slice(start, end, into).chunks_exact_mut(4);
        for (x, pixel) in (start..end).zip(pixels) {
            put(pixel, colour(x - rectangle.x, self.row - rectangle.y));
        }
    }
}

/// A colour for each place and seed, by one multiplication.
fn noise(seed: u64, x: u32, y: u32) -> u32 {
    let place = u64::from(x) | u64::from(y) << 32;
    let mixed = (seed ^ place).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    #[allow(clippy::cast_possible_truncation, reason = "the upper bits are meant")]
    let colour = (mixed >> 40) as u32;
    colour
}

/// Pixel `index` of the code.
fn code_pixel(serial: u64, checksum: u64, index: usize) -> u32 {
    let word = if index < 4 { serial } else { checksum };
    let bits = word >> (16 * (index % 4)) & 0xffff;
    CODE_MARK << 16 | u32::try_from(bits).unwrap_or(0)
}

fn put(pixel: &mut [u8], colour: u32) {
    pixel.copy_from_slice(&(OPAQUE | colour).to_le_bytes());
}

fn fill(pixels: &mut [u8], colour: u32) {
    for pixel in pixels.chunks_exact_mut(4) {
        put(pixel, colour);
    }
}

/// From 0 to `room`, again and again.
fn wrapped(way: u64, room: u32) -> u32 {
    u32::try_from(way % (u64::from(room) + 1)).unwrap_or(0)
}

/// From 0 to `room` and back.
fn bounced(way: u64, room: u32) -> u32 {
    let room = u64::from(room).max(1);
    let at = way % (2 * room);
    u32::try_from(at.min(2 * room - at)).unwrap_or(0)
}
