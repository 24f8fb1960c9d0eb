//! Sizes, formats, modes and rectangles of screens, each checked where it comes from the
//! other side.

use crate::error::LinkError;

/// The widest and highest picture, in pixels.
pub const MAX_SIDE: u32 = 16384;
/// The fastest mode in thousandths of a frame per second.
pub const MAX_REFRESH: u32 = 1_000_000;

/// What a screen shows: so many pixels, so many times a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mode {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Frames per 1000 seconds; zero leaves it to the source.
    pub refresh_millihertz: u32,
}

impl Mode {
    /// Whether a screen may have this mode.
    #[must_use]
    pub const fn is_possible(&self) -> bool {
        self.width >= 1
            && self.width <= MAX_SIDE
            && self.height >= 1
            && self.height <= MAX_SIDE
            && self.refresh_millihertz <= MAX_REFRESH
    }

    /// Bytes of one frame of packed rows with 4 bytes a pixel.
    #[must_use]
    pub const fn frame_bytes(&self) -> u64 {
        self.width as u64 * self.height as u64 * 4
    }

    pub(crate) const fn to_words(self) -> [u64; 2] {
        [
            pair(self.width, self.height),
            self.refresh_millihertz as u64,
        ]
    }

    pub(crate) fn from_words(words: [u64; 2]) -> Result<Self, LinkError> {
        let (width, height) = halves(words[0]);
        let mode = Self {
            width,
            height,
            refresh_millihertz: u32::try_from(words[1]).unwrap_or(u32::MAX),
        };
        if mode.is_possible() {
            Ok(mode)
        } else {
            Err(LinkError::Violation {
                what: "a screen's mode",
                value: words[0],
            })
        }
    }
}

/// How a pixel's four bytes are laid out, as in DRM (`drm_fourcc.h`): little-endian words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PixelFormat {
    /// Bytes B, G, R, unused.
    Xrgb8888,
    /// Bytes B, G, R, alpha; alpha premultiplied.
    Argb8888,
    /// Bytes R, G, B, unused: what Linux's `vfb` driver calls 32 bits.
    Xbgr8888,
}

impl PixelFormat {
    /// The DRM code.
    #[must_use]
    pub const fn fourcc(self) -> u32 {
        match self {
            Self::Xrgb8888 => u32::from_le_bytes(*b"XR24"),
            Self::Argb8888 => u32::from_le_bytes(*b"AR24"),
            Self::Xbgr8888 => u32::from_le_bytes(*b"XB24"),
        }
    }

    /// From the DRM code.
    ///
    /// # Errors
    /// [`LinkError::Violation`] for formats that frames do not come in.
    pub const fn from_fourcc(code: u32) -> Result<Self, LinkError> {
        match &code.to_le_bytes() {
            b"XR24" => Ok(Self::Xrgb8888),
            b"AR24" => Ok(Self::Argb8888),
            b"XB24" => Ok(Self::Xbgr8888),
            _ => Err(LinkError::Violation {
                what: "a frame's pixel format (fourcc)",
                value: code as u64,
            }),
        }
    }
}

/// A part of a picture, in pixels from its upper left corner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Rectangle {
    /// Columns left of it.
    pub x: u32,
    /// Rows above it.
    pub y: u32,
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Rectangle {
    /// A whole picture.
    #[must_use]
    pub const fn whole(width: u32, height: u32) -> Self {
        Self {
            x: 0,
            y: 0,
            width,
            height,
        }
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0
    }

    /// How many pixels it has.
    #[must_use]
    pub const fn area(&self) -> u64 {
        self.width as u64 * self.height as u64
    }

    /// Whether it lies in a picture of this size.
    #[must_use]
    pub const fn is_within(&self, width: u32, height: u32) -> bool {
        self.x as u64 + self.width as u64 <= width as u64
            && self.y as u64 + self.height as u64 <= height as u64
    }

    /// The smallest rectangle that holds both; an empty one adds nothing.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        if self.is_empty() {
            return *other;
        }
        if other.is_empty() {
            return *self;
        }
        let x = self.x.min(other.x);
        let y = self.y.min(other.y);
        let right = self.right().max(other.right());
        let bottom = self.bottom().max(other.bottom());
        Self {
            x,
            y,
            width: right - x,
            height: bottom - y,
        }
    }

    /// The part that both have.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let x = self.x.max(other.x);
        let y = self.y.max(other.y);
        Self {
            x,
            y,
            width: self.right().min(other.right()).saturating_sub(x),
            height: self.bottom().min(other.bottom()).saturating_sub(y),
        }
    }

    const fn right(&self) -> u32 {
        self.x.saturating_add(self.width)
    }

    const fn bottom(&self) -> u32 {
        self.y.saturating_add(self.height)
    }

    pub(crate) const fn to_words(self) -> [u64; 2] {
        [pair(self.x, self.y), pair(self.width, self.height)]
    }

    pub(crate) const fn from_words(words: [u64; 2]) -> Self {
        let (x, y) = halves(words[0]);
        let (width, height) = halves(words[1]);
        Self {
            x,
            y,
            width,
            height,
        }
    }
}

/// Two numbers in a word, the first in its lower half.
pub(crate) const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

/// The inverse of [`pair`].
#[allow(
    clippy::cast_possible_truncation,
    reason = "each half is exactly 32 bits"
)]
pub(crate) const fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}
