//! Draws a part of a window: the picture, scaled, and black around it.
//!
//! It knows no window system: the tests draw into a vector.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use vmshm_link::frames::Rectangle;
use zerocopy::IntoBytes;

use super::layout::{Layout, Way};
use crate::canvas::{Canvas, index};

/// The colours of a pixel; the byte above them must be zero for the window system.
const COLOURS: u32 = 0x00ff_ffff;

/// A window's pixels in packed rows.
#[derive(Debug)]
pub struct Target<'a> {
    /// The pixels.
    pub pixels: &'a mut [u32],
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Target<'_> {
    /// Some pixels of a row; nothing where there are none.
    pub fn span(&mut self, row: u32, x: u32, width: u32) -> &mut [u32] {
        let start = index(row) * index(self.width) + index(x);
        let inside = row < self.height && u64::from(x) + u64::from(width) <= self.width.into();
        let span = self.pixels.get_mut(start..start + index(width));
        span.filter(|_| inside).unwrap_or_default()
    }

    /// Fills a part with one colour.
    pub fn fill(&mut self, part: &Rectangle, colour: u32) {
        let part = part.intersection(&Rectangle::whole(self.width, self.height));
        for row in part.y..part.y + part.height {
            self.span(row, part.x, part.width).fill(colour);
        }
    }

    /// Halves the brightness of a part.
    pub fn dim(&mut self, part: &Rectangle) {
        let part = part.intersection(&Rectangle::whole(self.width, self.height));
        for row in part.y..part.y + part.height {
            for pixel in self.span(row, part.x, part.width) {
                *pixel = (*pixel >> 1) & 0x007f_7f7f;
            }
        }
    }
}

/// Draws pictures; keeps what it needs for scaling.
#[derive(Debug, Default)]
pub struct Painter {
    resizer: Resizer,
    scaled: Vec<u8>,
}

impl Painter {
    /// Draws what of a window lies in `part`.
    pub fn paint(
        &mut self,
        target: &mut Target<'_>,
        canvas: &Canvas,
        layout: &Layout,
        part: &Rectangle,
    ) {
        let part = part.intersection(&Rectangle::whole(target.width, target.height));
        let inside = part.intersection(&layout.at);
        if inside != part {
            target.fill(&part, 0);
        }
        if inside.is_empty() || canvas.size() != layout.picture {
            return;
        }
        match layout.way {
            Way::Exact(times) => exact(target, canvas, layout, &inside, times.max(1)),
            Way::Smooth => self.smooth(target, canvas, layout, &inside),
        }
    }

    fn smooth(
        &mut self,
        target: &mut Target<'_>,
        canvas: &Canvas,
        layout: &Layout,
        part: &Rectangle,
    ) {
        // What lies beside the part takes a share in its edges.
        let margin = layout.margin();
        let wide = Rectangle {
            x: part.x.saturating_sub(margin),
            y: part.y.saturating_sub(margin),
            width: part.width + 2 * margin,
            height: part.height + 2 * margin,
        };
        let wide = wide.union(part).intersection(&layout.at);
        let length = index(wide.width) * index(wide.height) * 4;
        self.scaled.resize(length, 0);
        let (width, height) = canvas.size();
        let source = ImageRef::new(width, height, canvas.pixels().as_bytes(), PixelType::U8x4);
        let scaled =
            Image::from_slice_u8(wide.width, wide.height, &mut self.scaled, PixelType::U8x4);
        let (Ok(source), Ok(mut scaled)) = (source, scaled) else {
            return;
        };
        let (left, crop_width) = crop(wide.x - layout.at.x, wide.width, layout.at.width, width);
        let (top, crop_height) = crop(wide.y - layout.at.y, wide.height, layout.at.height, height);
        let filter = if layout.at.width < width {
            FilterType::Hamming
        } else {
            FilterType::Bilinear
        };
        let options = ResizeOptions::new()
            .use_alpha(false)
            .resize_alg(ResizeAlg::Convolution(filter))
            .crop(left, top, crop_width, crop_height);
        if self.resizer.resize(&source, &mut scaled, &options).is_err() {
            return;
        }
        let skipped = index(part.x - wide.x) * 4;
        for row in part.y..part.y + part.height {
            let start = index(row - wide.y) * index(wide.width) * 4 + skipped;
            let from = self.scaled.get(start..).unwrap_or_default();
            let to = target.span(row, part.x, part.width);
            for (to, from) in to.iter_mut().zip(from.as_chunks::<4>().0) {
                *to = u32::from_le_bytes(*from) & COLOURS;
            }
        }
    }
}

/// Where in a picture's side of `count` pixels a span of its `length` window pixels lies.
fn crop(start: u32, span: u32, length: u32, count: u32) -> (f64, f64) {
    let scale = f64::from(count) / f64::from(length.max(1));
    let from = f64::from(start) * scale;
    (from, (f64::from(span) * scale).min(f64::from(count) - from))
}

fn exact(target: &mut Target<'_>, canvas: &Canvas, layout: &Layout, part: &Rectangle, times: u32) {
    let (left, top) = (part.x - layout.at.x, part.y - layout.at.y);
    for row in 0..part.height {
        let from = canvas.row((top + row) / times);
        let to = target.span(part.y + row, part.x, part.width);
        if times == 1 {
            let from = from.get(index(left)..).unwrap_or_default();
            for (to, from) in to.iter_mut().zip(from) {
                *to = *from & COLOURS;
            }
        } else {
            for (to, column) in to.iter_mut().zip(left..) {
                let pixel = from.get(index(column / times)).copied();
                *to = pixel.unwrap_or(0) & COLOURS;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use vmshm_channel::sink::Scaling;

    use super::*;

    fn canvas(width: u32, height: u32) -> Canvas {
        let mut canvas = Canvas::default();
        assert!(canvas.resize(width, height));
        for row in 0..height {
            let bytes = canvas.row_bytes_mut(row, 0, width).expect("is there");
            for (index, byte) in bytes.iter_mut().enumerate() {
                let value = index * 7 + row as usize * 13;
                *byte = u8::try_from(value % 256).expect("fits");
            }
        }
        canvas
    }

    fn paint(canvas: &Canvas, layout: &Layout, parts: &[Rectangle]) -> Vec<u32> {
        let (width, height) = layout.window;
        let mut pixels = vec![0xdead_beef; index(width) * index(height)];
        let mut painter = Painter::default();
        for part in parts {
            let mut target = Target {
                pixels: &mut pixels,
                width,
                height,
            };
            painter.paint(&mut target, canvas, layout, part);
        }
        pixels
    }

    #[test]
    fn a_picture_of_the_windows_size_is_drawn_as_it_is() {
        let canvas = canvas(50, 40);
        let layout = Layout::fit((50, 40), (50, 40), Scaling::Smooth);
        let drawn = paint(&canvas, &layout, &[Rectangle::whole(50, 40)]);
        let expected: Vec<u32> = canvas
            .pixels()
            .iter()
            .map(|pixel| pixel & COLOURS)
            .collect();
        assert_eq!(drawn, expected);
    }

    #[test]
    fn whole_numbers_make_squares_with_black_around() {
        let canvas = canvas(5, 4);
        let layout = Layout::fit((17, 13), (5, 4), Scaling::Integer);
        assert_eq!(layout.way, Way::Exact(3));
        let drawn = paint(&canvas, &layout, &[Rectangle::whole(17, 13)]);
        for (index, pixel) in drawn.iter().enumerate() {
            let (x, y) = (
                u32::try_from(index % 17).expect("fits"),
                u32::try_from(index / 17).expect("fits"),
            );
            let expected = match (x.checked_sub(1), y.checked_sub(0)) {
                (Some(x), Some(y)) if x < 15 && y < 12 => {
                    canvas.row(y / 3)[(x / 3) as usize] & COLOURS
                }
                _ => 0,
            };
            assert_eq!(*pixel, expected, "at {x},{y}");
        }
    }

    #[test]
    fn parts_make_the_same_window_as_the_whole() {
        let canvas = canvas(64, 48);
        for window in [(200, 100), (31, 29), (64, 48), (97, 150), (640, 480)] {
            for scaling in [Scaling::Smooth, Scaling::Integer] {
                let layout = Layout::fit(window, (64, 48), scaling);
                let whole = paint(&canvas, &layout, &[Rectangle::whole(window.0, window.1)]);
                assert!(!whole.contains(&0xdead_beef));
                let mut parts = Vec::new();
                for y in (0..window.1).step_by(17) {
                    for x in (0..window.0).step_by(23) {
                        parts.push(Rectangle {
                            x,
                            y,
                            width: 23,
                            height: 17,
                        });
                    }
                }
                let pieced = paint(&canvas, &layout, &parts);
                for (one, other) in whole.iter().zip(&pieced) {
                    for shift in [0, 8, 16] {
                        let difference = ((one >> shift) & 0xff).abs_diff((other >> shift) & 0xff);
                        // Rounding of where a part begins.
                        assert!(difference <= 1, "{window:?} {scaling:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn one_colour_stays_one_colour() {
        let mut canvas = Canvas::default();
        assert!(canvas.resize(100, 100));
        for row in 0..100 {
            canvas
                .row_bytes_mut(row, 0, 100)
                .expect("is there")
                .fill(0x80);
        }
        let layout = Layout::fit((37, 37), (100, 100), Scaling::Smooth);
        let drawn = paint(&canvas, &layout, &[Rectangle::whole(37, 37)]);
        assert!(drawn.iter().all(|pixel| *pixel == 0x0080_8080));
    }
}
