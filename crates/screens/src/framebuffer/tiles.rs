//! What has changed in a picture that nobody reports changes of: it is read, and tiles of it
//! are compared with what they were by a 64-bit hash.
//!
//! A hash takes half the reading that a second copy of the picture would. Two different tiles
//! with the same hash would go unseen until the next change; one in 2^64 pairs is. Of the hashes
//! that keep up with memory this one needs no vector instructions, which cost dearly in a
//! guest whose processor is emulated.
//! It refuses nothing: what cannot be read is the caller's error.

use vmshm_link::frames::{Damage, Rectangle};
use vmshm_shm::{Fault, SharedMemory};
use xxhash_rust::xxh64::xxh64;

use super::picture::Picture;

/// Pixels in a row of a tile.
pub const TILE_WIDTH: u32 = 64;
/// Rows of a tile.
pub const TILE_HEIGHT: u32 = 32;

const TILE_ROW_BYTES: usize = TILE_WIDTH as usize * 4;
/// The tiles of a picture, and what they were.
#[derive(Debug)]
pub struct Tiles {
    width: u32,
    height: u32,
    columns: usize,
    hashes: Vec<u64>,
    /// Whether `hashes` says anything yet.
    known: bool,
    /// Which tiles changed in the last look.
    changed: Vec<bool>,
    row: Vec<u8>,
}

/// What a look at a picture found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// What has changed since the last look; all of it in the first.
    pub damage: Damage,
    /// Bytes that were read and written for it.
    pub bytes: u64,
}

impl Tiles {
    /// Tiles of a picture of this size; nothing is known of it yet.
    #[must_use]
    pub fn new(width: u32, height: u32) -> Self {
        let columns = width.div_ceil(TILE_WIDTH) as usize;
        let count = columns * height.div_ceil(TILE_HEIGHT) as usize;
        Self {
            width,
            height,
            columns,
            hashes: vec![0; count],
            known: false,
            changed: vec![false; count],
            row: vec![0; width as usize * 4],
        }
    }

    /// What was seen counts for nothing: the next look finds all changed.
    pub fn forget(&mut self) {
        self.known = false;
    }

    /// Reads the whole picture, and says what has changed.
    ///
    /// # Errors
    /// [`Fault`]; the next look finds all changed then.
    pub fn look(&mut self, memory: &impl SharedMemory, picture: &Picture) -> Result<Found, Fault> {
        if (picture.width, picture.height) != (self.width, self.height) {
            *self = Self::new(picture.width, picture.height);
        }
        let known = std::mem::replace(&mut self.known, false);
        let mut sums = vec![0_u64; self.columns];
        for band in 0..self.height.div_ceil(TILE_HEIGHT) {
            sums.fill(0);
            for y in rows(band, self.height) {
                memory.read(row_at(picture, y), &mut self.row)?;
                let parts = self.row.chunks(TILE_ROW_BYTES);
                for (sum, part) in sums.iter_mut().zip(parts) {
                    *sum = fold(*sum, part);
                }
            }
            let first = band as usize * self.columns;
            for (column, sum) in sums.iter().enumerate() {
                self.changed[first + column] = !known || self.hashes[first + column] != *sum;
                self.hashes[first + column] = *sum;
            }
        }
        self.known = true;
        let damage = if known {
            self.joined()
        } else {
            Damage::whole(self.width, self.height)
        };
        let bytes = u64::from(self.width) * u64::from(self.height) * 4;
        Ok(Found { damage, bytes })
    }

    /// Copies `wanted` into packed rows at `offset` of `to`, and what `found` says has changed;
    /// tiles that have changed again meanwhile are added to it. What is known afterwards is
    /// what was copied.
    ///
    /// # Errors
    /// [`Fault`]; the next look finds all changed then.
    pub fn copy(
        &mut self,
        from: &impl SharedMemory,
        picture: &Picture,
        wanted: &Damage,
        (to, offset): (&impl SharedMemory, u64),
        found: &mut Found,
    ) -> Result<(), Fault> {
        let known = std::mem::replace(&mut self.known, false);
        let mut wanted = *wanted;
        wanted.add_all(&found.damage);
        let mut again = Damage::none();
        for index in 0..self.hashes.len() {
            let tile = self.tile(index);
            let touched = |one: &Rectangle| !one.intersection(&tile).is_empty();
            if !wanted.rectangles().iter().any(touched) {
                continue;
            }
            let length = tile.width as usize * 4;
            let column = u64::from(tile.x) * 4;
            let mut sum = 0;
            for y in tile.y..tile.y + tile.height {
                let part = &mut self.row[..length];
                from.read(row_at(picture, y) + column, part)?;
                sum = fold(sum, part);
                let at = offset + u64::from(y) * u64::from(self.width) * 4 + column;
                to.write(at, part)?;
            }
            found.bytes += 2 * tile.area() * 4;
            if self.hashes[index] != sum {
                self.hashes[index] = sum;
                again.add(tile);
            }
        }
        found.damage.add_all(&again);
        self.known = known;
        Ok(())
    }

    /// The changed tiles as rectangles: neighbours in a band are joined, and so are runs
    /// below each other.
    fn joined(&self) -> Damage {
        let mut done: Vec<Rectangle> = Vec::new();
        let mut above: Vec<Rectangle> = Vec::new();
        for first in (0..self.changed.len()).step_by(self.columns.max(1)) {
            let mut runs: Vec<Rectangle> = Vec::new();
            for index in first..first + self.columns {
                if !self.changed[index] {
                    continue;
                }
                let tile = self.tile(index);
                match runs.last_mut().filter(|run| run.x + run.width == tile.x) {
                    Some(run) => run.width += tile.width,
                    None => runs.push(tile),
                }
            }
            for run in &mut runs {
                let same = |one: &Rectangle| (one.x, one.width) == (run.x, run.width);
                if let Some(at) = above.iter().position(same) {
                    let upper = above.swap_remove(at);
                    run.y = upper.y;
                    run.height += upper.height;
                }
            }
            done.append(&mut above);
            above = runs;
        }
        done.append(&mut above);
        let mut damage = Damage::none();
        done.into_iter().for_each(|one| damage.add(one));
        damage
    }

    fn tile(&self, index: usize) -> Rectangle {
        let columns = self.columns.max(1);
        let x = to_u32(index % columns).saturating_mul(TILE_WIDTH);
        let y = to_u32(index / columns).saturating_mul(TILE_HEIGHT);
        Rectangle {
            x,
            y,
            width: TILE_WIDTH.min(self.width.saturating_sub(x)),
            height: TILE_HEIGHT.min(self.height.saturating_sub(y)),
        }
    }
}

/// The rows of a band of tiles.
fn rows(band: u32, height: u32) -> std::ops::Range<u32> {
    let first = band * TILE_HEIGHT;
    first..height.min(first + TILE_HEIGHT)
}

/// Where a row begins in the device's memory.
fn row_at(picture: &Picture, y: u32) -> u64 {
    picture.offset + u64::from(y) * u64::from(picture.stride)
}

/// Takes the next row of a tile into its hash; rows in another order give another one.
fn fold(sum: u64, part: &[u8]) -> u64 {
    xxh64(part, sum)
}

fn to_u32(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vmshm_shm::LocalMemory;

    use super::super::picture::tests::vfb;
    use super::*;

    fn picture(width: u32, height: u32, stride: u32) -> Picture {
        let (variable, mut fixed) = vfb(width, height, stride * height);
        fixed.line_length = stride;
        Picture::new(&variable, &fixed).expect("fits")
    }

    fn memory_of(picture: &Picture) -> LocalMemory {
        LocalMemory::new(usize::try_from(picture.memory).expect("fits"))
    }

    fn draw(memory: &LocalMemory, picture: &Picture, x: u32, y: u32, value: u32) {
        let at = row_at(picture, y) + u64::from(x) * 4;
        memory.write(at, &value.to_le_bytes()).expect("is inside");
    }

    fn covers(damage: &Damage, x: u32, y: u32) -> bool {
        let pixel = Rectangle {
            x,
            y,
            width: 1,
            height: 1,
        };
        let rectangles = damage.rectangles().iter();
        rectangles
            .into_iter()
            .any(|one| !one.intersection(&pixel).is_empty())
    }

    fn pixels() -> impl Strategy<Value = Vec<(u32, u32, u32)>> {
        proptest::collection::vec((0..300_u32, 0..200_u32, 1..5_u32), 0..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn damage_covers_every_change(
            (width, height, padding) in (1..300_u32, 1..200_u32, 0..9_u32),
            rounds in proptest::collection::vec(pixels(), 1..4),
        ) {
            let picture = picture(width, height, width * 4 + padding * 4);
            let memory = memory_of(&picture);
            let mut tiles = Tiles::new(width, height);
            let first = tiles.look(&memory, &picture).expect("is read");
            prop_assert_eq!(first.damage, Damage::whole(width, height));
            let mut shown = std::collections::HashMap::new();
            for round in rounds {
                let mut now = shown.clone();
                for (x, y, value) in round {
                    let (x, y) = (x % width, y % height);
                    draw(&memory, &picture, x, y, value);
                    now.insert((x, y), value);
                }
                let found = tiles.look(&memory, &picture).expect("is read");
                let mut any = false;
                for (place, value) in &now {
                    if shown.get(place) != Some(value) {
                        any = true;
                        prop_assert!(covers(&found.damage, place.0, place.1));
                    }
                }
                prop_assert_eq!(found.damage.is_empty(), !any);
                for one in found.damage.rectangles() {
                    prop_assert!(one.is_within(width, height));
                }
                shown = now;
            }
        }

        #[test]
        fn slots_that_take_turns_are_always_whole(
            (width, height) in (1..200_u32, 1..150_u32),
            rounds in proptest::collection::vec(pixels(), 1..8),
        ) {
            let picture = picture(width, height, width * 4);
            let memory = memory_of(&picture);
            let bytes = u64::from(width) * u64::from(height) * 4;
            let slot_bytes = bytes.next_multiple_of(4096);
            let slots = LocalMemory::new(usize::try_from(2 * slot_bytes).expect("fits"));
            let mut stale = [Damage::whole(width, height); 2];
            let mut tiles = Tiles::new(width, height);
            for (number, round) in rounds.into_iter().enumerate() {
                for (x, y, value) in round {
                    draw(&memory, &picture, x % width, y % height, value);
                }
                let mut found = tiles.look(&memory, &picture).expect("is read");
                let slot = number % 2;
                let at = slot as u64 * slot_bytes;
                tiles
                    .copy(&memory, &picture, &stale[slot], (&slots, at), &mut found)
                    .expect("is copied");
                stale[1 - slot].add_all(&found.damage);
                stale[slot] = Damage::none();
                let mut whole = vec![0; usize::try_from(bytes).expect("fits")];
                let mut copied = whole.clone();
                memory.read(0, &mut whole).expect("is read");
                slots.read(at, &mut copied).expect("is read");
                prop_assert!(whole == copied);
            }
        }
    }

    #[test]
    fn neighbours_are_joined() {
        let picture = picture(640, 480, 2560);
        let memory = memory_of(&picture);
        let mut tiles = Tiles::new(640, 480);
        tiles.look(&memory, &picture).expect("is read");
        for (x, y) in [(70, 40), (130, 40), (70, 70), (130, 70), (600, 470)] {
            draw(&memory, &picture, x, y, 1);
        }
        let found = tiles.look(&memory, &picture).expect("is read");
        let expected = [
            Rectangle {
                x: 64,
                y: 32,
                width: 128,
                height: 64,
            },
            Rectangle {
                x: 576,
                y: 448,
                width: 64,
                height: 32,
            },
        ];
        assert_eq!(found.damage.rectangles(), expected);
        assert_eq!(found.bytes, 640 * 480 * 4);
    }

    #[test]
    fn what_changes_between_looking_and_copying_is_damage() {
        let picture = picture(128, 64, 512);
        let memory = memory_of(&picture);
        let slot = memory_of(&picture);
        let mut tiles = Tiles::new(128, 64);
        tiles.look(&memory, &picture).expect("is read");
        let mut found = tiles.look(&memory, &picture).expect("is read");
        assert!(found.damage.is_empty());
        draw(&memory, &picture, 100, 50, 7);
        let all = Damage::whole(128, 64);
        tiles
            .copy(&memory, &picture, &all, (&slot, 0), &mut found)
            .expect("is copied");
        assert!(covers(&found.damage, 100, 50));
        let next = tiles.look(&memory, &picture).expect("is read");
        assert!(next.damage.is_empty());
    }

    #[test]
    fn rows_that_change_places_are_seen() {
        let picture = picture(64, 32, 256);
        let memory = memory_of(&picture);
        draw(&memory, &picture, 3, 3, 5);
        let mut tiles = Tiles::new(64, 32);
        tiles.look(&memory, &picture).expect("is read");
        draw(&memory, &picture, 3, 3, 0);
        draw(&memory, &picture, 3, 4, 5);
        let found = tiles.look(&memory, &picture).expect("is read");
        assert!(!found.damage.is_empty());
    }
}
