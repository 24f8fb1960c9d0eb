//! The monitor's own copy of a picture: what sinks show, and the only pixels that they read.
//!
//! It refuses sizes for which there is no memory.

use std::sync::{Mutex, MutexGuard, PoisonError};

use vmshm_link::frames::{Damage, Rectangle};
use zerocopy::IntoBytes;

/// A picture of packed rows. A pixel is a word of four bytes: blue, green, red, and one without
/// meaning (the lowest byte first).
#[derive(Debug, Default)]
pub struct Canvas {
    pixels: Vec<u32>,
    width: u32,
    height: u32,
}

impl Canvas {
    /// Pixels in a row, and rows.
    pub const fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// All pixels.
    pub fn pixels(&self) -> &[u32] {
        &self.pixels
    }

    /// One row; nothing beyond the last.
    pub fn row(&self, row: u32) -> &[u32] {
        let width = index(self.width);
        let start = index(row) * width;
        self.pixels.get(start..start + width).unwrap_or_default()
    }

    /// The bytes of some pixels of a row.
    pub fn row_bytes_mut(&mut self, row: u32, x: u32, width: u32) -> Option<&mut [u8]> {
        self.rows_bytes_mut(row, x, u64::from(width))
    }

    /// The bytes of `count` pixels from a place on, over the ends of rows.
    pub fn rows_bytes_mut(&mut self, row: u32, x: u32, count: u64) -> Option<&mut [u8]> {
        let start = index(row) * index(self.width) + index(x);
        let count = usize::try_from(count).ok()?;
        let pixels = self.pixels.get_mut(start..start.checked_add(count)?)?;
        Some(pixels.as_mut_bytes())
    }

    /// Gives it another size, and makes it black. False when there is no memory for that.
    #[must_use]
    pub fn resize(&mut self, width: u32, height: u32) -> bool {
        let count = index(width) * index(height);
        self.pixels.clear();
        self.pixels.shrink_to(count);
        if self.pixels.try_reserve_exact(count).is_err() {
            (self.width, self.height) = (0, 0);
            return false;
        }
        self.pixels.resize(count, 0);
        (self.width, self.height) = (width, height);
        true
    }
}

/// What the thread that takes pictures in shares with whoever shows them.
#[derive(Debug, Default)]
pub struct Shown {
    /// The picture.
    pub canvas: Canvas,
    /// Whether it is one picture: no copy into it is under way, and the last one was not torn.
    pub is_whole: bool,
    /// What has changed since it was last shown.
    pub damage: Damage,
    /// The number of the frame in it; zero: none yet.
    pub serial: u64,
    /// Whether the guest's pointer is part of it.
    pub has_pointer: bool,
}

impl Shown {
    /// What must be shown anew, once.
    pub fn take_damage(&mut self) -> Damage {
        std::mem::take(&mut self.damage)
    }

    /// All of it must be shown anew.
    pub fn damage_all(&mut self) {
        let (width, height) = self.canvas.size();
        self.damage = Damage::none();
        self.damage.add(Rectangle::whole(width, height));
    }
}

/// Locks, whatever became of the one who held it before.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number of pixels as an index.
pub const fn index(number: u32) -> usize {
    number as usize
}
