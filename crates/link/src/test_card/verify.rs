//! The checksum of a test card, kept up from frame to frame, and the judgement of a picture of
//! unknown origin. It refuses nothing: whatever bytes come, the verdict says what they are.

use super::draw::TestCard;
use super::{CODE_MARK, CODE_PIXELS, PIECE};
use crate::frames::{Damage, MAX_SIDE, Rectangle, pair};
use crate::mix::mix;

const PIECE_BYTES: usize = PIECE as usize * 4;
/// Pieces of the widest row.
const PIECES: usize = MAX_SIDE.div_ceil(PIECE) as usize;
/// Two pixels without their unused bytes.
const COLOURS: u64 = 0x00ff_ffff_00ff_ffff;

/// The checksum of a picture that moves on.
#[derive(Debug, Clone, Copy)]
pub struct Checksum {
    card: TestCard,
    sum: u64,
}

impl Checksum {
    /// Of this picture: hashes all of it.
    #[must_use]
    pub fn of(card: TestCard) -> Self {
        let whole = Damage::whole(card.width(), card.height());
        let sum = sum_of(&card, &whole);
        Self { card, sum }
    }

    /// Goes on to the picture with this serial: hashes only what differs, and says what that is.
    pub fn advance(&mut self, serial: u64) -> Damage {
        let next = self.card.at(serial);
        let damage = next.damage(self.card.serial());
        let before = sum_of(&self.card, &damage);
        let after = sum_of(&next, &damage);
        self.sum = self.sum.wrapping_sub(before).wrapping_add(after);
        self.card = next;
        damage
    }

    /// The picture.
    #[must_use]
    pub const fn card(&self) -> &TestCard {
        &self.card
    }

    /// The checksum.
    #[must_use]
    pub const fn get(&self) -> u64 {
        let card = &self.card;
        finished(self.sum, card.serial(), card.width(), card.height())
    }
}

/// The sum over the pieces that a damage touches, each taken once.
fn sum_of(card: &TestCard, damage: &Damage) -> u64 {
    let mut sum = 0_u64;
    let mut bytes = [0_u8; PIECE_BYTES];
    for row in 0..card.height() {
        let mut touched = [0_u64; PIECES.div_ceil(64)];
        let here = |one: &&Rectangle| row >= one.y && row - one.y < one.height;
        for one in damage.rectangles().iter().filter(here) {
            let end = (one.x + one.width).min(card.width()).div_ceil(PIECE);
            for piece in one.x / PIECE..end {
                touched[piece as usize / 64] |= 1 << (piece % 64);
            }
        }
        for (first, mut word) in (0..).step_by(64).zip(touched) {
            while word != 0 {
                let column = (first + word.trailing_zeros()) * PIECE;
                word &= word - 1;
                let count = PIECE_BYTES.min(4 * (card.width() - column) as usize);
                let piece = &mut bytes[..count];
                card.draw(row, column, 0, piece);
                sum = sum.wrapping_add(hash(row, column, piece));
            }
        }
    }
    sum
}

/// The hash of a piece that begins at this place. The code counts for nothing.
fn hash(row: u32, column: u32, piece: &[u8]) -> u64 {
    let code = if row == 0 && column == 0 {
        4 * CODE_PIXELS as usize
    } else {
        0
    };
    let piece = piece.get(code..).unwrap_or_default();
    let mut lanes = [
        pair(row, column),
        0x9e37_79b9_7f4a_7c15,
        0xd1b5_4a32_d192_ed03,
        0x8cb9_2ba7_2f3d_8dd7,
    ];
    let mut blocks = piece.chunks_exact(32);
    for block in &mut blocks {
        for (lane, bytes) in lanes.iter_mut().zip(block.chunks_exact(8)) {
            *lane = step(*lane, bytes.try_into().map_or(0, u64::from_le_bytes));
        }
    }
    for (lane, bytes) in lanes.iter_mut().zip(blocks.remainder().chunks(8)) {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        *lane = step(*lane, u64::from_le_bytes(word));
    }
    mix(mix(lanes[0], lanes[1]), mix(lanes[2], lanes[3]))
}

/// Takes a word in; for each lane, other words give other results.
const fn step(lane: u64, word: u64) -> u64 {
    (lane.rotate_left(29) ^ (word & COLOURS)).wrapping_mul(0x9fb2_1c65_1e98_df25)
}

const fn finished(sum: u64, serial: u64, width: u32, height: u32) -> u64 {
    mix(sum, mix(serial, pair(width, height)))
}

/// What a picture is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The serial that it shows.
    pub serial: u64,
    /// The checksum that it shows.
    pub stated: u64,
    /// The checksum that its pixels have, for that serial.
    pub computed: u64,
    /// It is that frame of the test card, whole.
    pub is_right: bool,
}

/// Judges a picture whose rows come one by one.
#[derive(Debug, Clone, Copy)]
pub struct Verifier {
    width: u32,
    height: u32,
    row: u32,
    sum: u64,
    serial: u64,
    stated: u64,
    /// All rows had the right length, and the code's pixels are a code.
    is_sound: bool,
}

impl Verifier {
    /// For a picture of this size.
    #[must_use]
    pub fn new(width: u32, height: u32) -> Self {
        Self {
            width,
            height,
            row: 0,
            sum: 0,
            serial: 0,
            stated: 0,
            is_sound: width <= MAX_SIDE && TestCard::new(width, height, 0).is_some(),
        }
    }

    /// Takes the next row: 4 bytes a pixel, as in `XRGB8888`, all of it.
    pub fn row(&mut self, pixels: &[u8]) {
        if pixels.len() as u64 != 4 * u64::from(self.width) || self.row >= self.height {
            self.is_sound = false;
            return;
        }
        if self.row == 0 {
            self.read_code(pixels);
        }
        let mut column = 0;
        for piece in pixels.chunks(PIECE_BYTES) {
            self.sum = self.sum.wrapping_add(hash(self.row, column, piece));
            column += PIECE;
        }
        self.row += 1;
    }

    fn read_code(&mut self, pixels: &[u8]) {
        for (index, pixel) in pixels
            .chunks_exact(4)
            .take(CODE_PIXELS as usize)
            .enumerate()
        {
            let bits = u64::from(pixel[0]) | u64::from(pixel[1]) << 8;
            self.is_sound &= u32::from(pixel[2]) == CODE_MARK;
            let word = if index < 4 {
                &mut self.serial
            } else {
                &mut self.stated
            };
            *word |= bits << (16 * (index % 4));
        }
    }

    /// What it is; nothing is right before all rows were taken.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let computed = finished(self.sum, self.serial, self.width, self.height);
        Verdict {
            serial: self.serial,
            stated: self.stated,
            computed,
            is_right: self.is_sound && self.row == self.height && computed == self.stated,
        }
    }
}
