//! Which parts of a picture have changed: a few rectangles, never fewer pixels than changed.

use super::geometry::Rectangle;

/// The most rectangles of one frame.
pub const MAX_DAMAGE: usize = 24;

/// Rectangles that cover what has changed. They may overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Damage {
    rectangles: [Rectangle; MAX_DAMAGE],
    count: usize,
}

impl Damage {
    /// Nothing has changed.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// A whole picture has changed.
    #[must_use]
    pub fn whole(width: u32, height: u32) -> Self {
        let mut damage = Self::none();
        damage.add(Rectangle::whole(width, height));
        damage
    }

    /// The rectangles.
    #[must_use]
    pub fn rectangles(&self) -> &[Rectangle] {
        self.rectangles.get(..self.count).unwrap_or_default()
    }

    /// Whether nothing has changed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The sum of the rectangles' pixels.
    #[must_use]
    pub fn area(&self) -> u64 {
        let areas = self.rectangles().iter().map(Rectangle::area);
        areas.fold(0, u64::saturating_add)
    }

    /// Adds a rectangle. One that does not fit any more is joined with the one that grows
    /// least by it.
    pub fn add(&mut self, rectangle: Rectangle) {
        if rectangle.is_empty() {
            return;
        }
        let growth = |one: &Rectangle| one.union(&rectangle).area().saturating_sub(one.area());
        let nearest = (0..self.count).min_by_key(|index| growth(&self.rectangles[*index]));
        match nearest {
            // Joining costs no more than carrying both.
            Some(index) if growth(&self.rectangles[index]) <= rectangle.area() => {
                self.rectangles[index] = self.rectangles[index].union(&rectangle);
            }
            Some(index) if self.count == MAX_DAMAGE => {
                self.rectangles[index] = self.rectangles[index].union(&rectangle);
            }
            _ => {
                self.rectangles[self.count] = rectangle;
                self.count += 1;
            }
        }
    }

    /// Adds all of another damage.
    pub fn add_all(&mut self, other: &Self) {
        other.rectangles().iter().for_each(|one| self.add(*one));
    }

    /// Only what lies in a picture of this size.
    #[must_use]
    pub fn clipped(&self, width: u32, height: u32) -> Self {
        let bounds = Rectangle::whole(width, height);
        let mut clipped = Self::none();
        for one in self.rectangles() {
            clipped.add(one.intersection(&bounds));
        }
        clipped
    }
}
