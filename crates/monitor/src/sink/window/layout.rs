//! Where in a window a picture lies, and which of its pixels a place in the window shows.

use vmshm_channel::sink::Scaling;
use vmshm_link::frames::Rectangle;

/// How a picture fills its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Every pixel as a square of so many.
    Exact(u32),
    /// Between pixels.
    Smooth,
}

/// A picture's place in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The window's size.
    pub window: (u32, u32),
    /// The picture's size.
    pub picture: (u32, u32),
    /// Where it lies.
    pub at: Rectangle,
    /// How it fills that.
    pub way: Way,
}

impl Layout {
    /// Places a picture in the middle of a window.
    pub fn fit(window: (u32, u32), picture: (u32, u32), scaling: Scaling) -> Self {
        let (width, height) = (picture.0.max(1), picture.1.max(1));
        let times = (window.0 / width).min(window.1 / height);
        let (way, size) = match scaling {
            Scaling::Integer if times >= 1 => (Way::Exact(times), (width * times, height * times)),
            _ => match as_large_as_fits(window, (width, height)) {
                size if size == picture => (Way::Exact(1), size),
                size => (Way::Smooth, size),
            },
        };
        Self {
            window,
            picture: (width, height),
            at: Rectangle {
                x: (window.0.saturating_sub(size.0)) / 2,
                y: (window.1.saturating_sub(size.1)) / 2,
                width: size.0,
                height: size.1,
            },
            way,
        }
    }

    /// The picture's pixel at a place in the window; the nearest one beside the picture.
    pub fn picture_pixel(&self, x: f64, y: f64) -> (u32, u32) {
        (
            to_pixel(x, self.at.x, self.at.width, self.picture.0),
            to_pixel(y, self.at.y, self.at.height, self.picture.1),
        )
    }

    /// The part of the window that changes with a part of the picture.
    pub fn window_part(&self, part: &Rectangle) -> Rectangle {
        let margin = self.margin();
        let (x, width) = to_span(
            (part.x, part.width),
            (self.at.x, self.at.width),
            self.picture.0,
            margin,
        );
        let (y, height) = to_span(
            (part.y, part.height),
            (self.at.y, self.at.height),
            self.picture.1,
            margin,
        );
        Rectangle {
            x,
            y,
            width,
            height,
        }
    }

    /// How far in the window a pixel of the picture is seen beyond its own place.
    pub fn margin(&self) -> u32 {
        match self.way {
            Way::Exact(_) => 0,
            Way::Smooth => self.at.width.div_ceil(self.picture.0) + 2,
        }
    }
}

/// The largest size of a picture's proportions in a window; at least one pixel.
fn as_large_as_fits(window: (u32, u32), picture: (u32, u32)) -> (u32, u32) {
    let scaled = |side: u32, by: u32, of: u32| {
        let side = (u64::from(side) * u64::from(by) + u64::from(of) / 2) / u64::from(of);
        u32::try_from(side).unwrap_or(u32::MAX).max(1)
    };
    let (width, height) = (window.0.max(1), window.1.max(1));
    // Compared as fractions: width / picture.0 against height / picture.1.
    let by_width =
        u64::from(width) * u64::from(picture.1) <= u64::from(height) * u64::from(picture.0);
    if by_width {
        (width, scaled(picture.1, width, picture.0).min(height))
    } else {
        (scaled(picture.0, height, picture.1).min(width), height)
    }
}

/// Which pixel of `count` a place shows, where they fill `length` from `start` on.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 32 bits before"
)]
fn to_pixel(place: f64, start: u32, length: u32, count: u32) -> u32 {
    let place = place.floor().clamp(0.0, f64::from(u32::MAX)) as u32;
    let place = place.saturating_sub(start).min(length.saturating_sub(1));
    // The middle of the window's pixel, in halves.
    let pixel = (2 * u64::from(place) + 1) * u64::from(count) / (2 * u64::from(length.max(1)));
    u32::try_from(pixel).unwrap_or(u32::MAX).min(count - 1)
}

/// A span of pixels of a picture's side as a span of the window.
fn to_span(part: (u32, u32), at: (u32, u32), count: u32, margin: u32) -> (u32, u32) {
    let scale = |pixel: u32| u64::from(pixel) * u64::from(at.1);
    let count = u64::from(count.max(1));
    let from = (scale(part.0) / count).saturating_sub(u64::from(margin));
    let end = scale(part.0.saturating_add(part.1)).div_ceil(count) + u64::from(margin);
    let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).min(at.1);
    let (from, end) = (narrow(from), narrow(end));
    (at.0 + from, end.saturating_sub(from))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn smooth(window: (u32, u32), picture: (u32, u32)) -> Layout {
        Layout::fit(window, picture, Scaling::Smooth)
    }

    #[test]
    fn pictures_of_the_windows_size_are_not_scaled() {
        for scaling in [Scaling::Smooth, Scaling::Integer] {
            let layout = Layout::fit((800, 600), (800, 600), scaling);
            assert_eq!(layout.way, Way::Exact(1));
            assert_eq!(layout.at, Rectangle::whole(800, 600));
        }
    }

    #[test]
    fn whole_numbers_leave_a_border_and_large_pictures_shrink() {
        let layout = Layout::fit((1000, 700), (320, 200), Scaling::Integer);
        assert_eq!(layout.way, Way::Exact(3));
        assert_eq!((layout.at.x, layout.at.y), (20, 50));
        let layout = Layout::fit((960, 600), (1920, 1080), Scaling::Integer);
        assert_eq!(layout.way, Way::Smooth);
        assert_eq!((layout.at.width, layout.at.height), (960, 540));
        assert_eq!((layout.at.x, layout.at.y), (0, 30));
    }

    #[test]
    fn corners_and_borders_meet_the_outermost_pixels() {
        let layout = smooth((1000, 1000), (640, 480));
        let (right, bottom) = (
            f64::from(layout.at.x + layout.at.width - 1),
            f64::from(layout.at.y + layout.at.height - 1),
        );
        assert_eq!(layout.picture_pixel(0.0, f64::from(layout.at.y)), (0, 0));
        assert_eq!(layout.picture_pixel(right, bottom), (639, 479));
        assert_eq!(layout.picture_pixel(-5.0, -5.0), (0, 0));
        assert_eq!(layout.picture_pixel(1e12, f64::INFINITY), (639, 479));
        assert_eq!(layout.picture_pixel(f64::NAN, f64::NAN), (0, 0));
    }

    proptest! {
        /// Of every window's pixel: the guest's pixel lies under it, for all scales.
        #[test]
        fn places_map_to_the_pixel_under_them(
            window in (1_u32..3000, 1_u32..3000),
            picture in (1_u32..3000, 1_u32..3000),
            place in (0_u32..3000, 0_u32..3000),
            integer: bool,
        ) {
            let scaling = if integer { Scaling::Integer } else { Scaling::Smooth };
            let layout = Layout::fit(window, picture, scaling);
            prop_assert!(layout.at.is_within(window.0, window.1));
            let place = (
                layout.at.x + place.0 % layout.at.width,
                layout.at.y + place.1 % layout.at.height,
            );
            let (x, y) = layout.picture_pixel(f64::from(place.0) + 0.25, f64::from(place.1));
            prop_assert!(x < picture.0 && y < picture.1);
            let off = |place: u32, start: u32, length: u32, count: u32, pixel: u32| {
                let exact = (f64::from(place - start) + 0.5) * f64::from(count) / f64::from(length);
                (exact - f64::from(pixel) - 0.5).abs()
            };
            prop_assert!(off(place.0, layout.at.x, layout.at.width, picture.0, x) <= 0.5 + 1e-9);
            prop_assert!(off(place.1, layout.at.y, layout.at.height, picture.1, y) <= 0.5 + 1e-9);
            // And what changes with that pixel holds the place.
            let part = Rectangle { x, y, width: 1, height: 1 };
            let seen = layout.window_part(&part);
            prop_assert!(seen.is_within(window.0, window.1));
            prop_assert!(seen.x <= place.0 && place.0 < seen.x + seen.width);
            prop_assert!(seen.y <= place.1 && place.1 < seen.y + seen.height);
        }
    }
}
