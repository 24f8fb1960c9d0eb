//! What a user does at a screen: pointer, wheel, buttons, keys. Codes are those of Linux's
//! `input-event-codes.h`.

use crate::fields::word_at;
use crate::frames::{halves, pair};

/// Bytes of one event on the wire.
pub const EVENT_BYTES: usize = 24;

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputEvent {
    /// The pointer is at this pixel of a picture of this size.
    PointerTo {
        /// Column.
        x: u32,
        /// Row.
        y: u32,
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// The pointer moved, in 256ths of a pixel.
    PointerBy {
        /// To the right.
        x: i32,
        /// Downwards.
        y: i32,
    },
    /// The wheel turned, in 120ths of a notch.
    Wheel {
        /// To the right.
        horizontal: i32,
        /// Downwards.
        vertical: i32,
    },
    /// A button (`BTN_LEFT` is 0x110).
    Button {
        /// Its code.
        code: u32,
        /// Whether it is down now.
        pressed: bool,
    },
    /// A key (`KEY_A` is 30). The guest repeats keys that are held.
    Key {
        /// Its code.
        code: u32,
        /// Whether it is down now.
        pressed: bool,
    },
    /// Which locks are on, and which layout of the keymap is in use: bit 0 Caps Lock, bit 1
    /// Num Lock, bit 2 Scroll Lock; the layout's index.
    Locks {
        /// The locks.
        locks: u32,
        /// The layout.
        group: u32,
    },
    /// Whatever is held is let go: the window has lost the focus.
    ReleaseAll,
}

impl InputEvent {
    /// As words: number, and two of content.
    #[must_use]
    pub const fn to_words(self) -> [u64; 3] {
        match self {
            Self::PointerTo {
                x,
                y,
                width,
                height,
            } => [1, pair(x, y), pair(width, height)],
            Self::PointerBy { x, y } => [2, pair(x.cast_unsigned(), y.cast_unsigned()), 0],
            Self::Wheel {
                horizontal,
                vertical,
            } => [
                3,
                pair(horizontal.cast_unsigned(), vertical.cast_unsigned()),
                0,
            ],
            Self::Button { code, pressed } => [4, pair(code, pressed as u32), 0],
            Self::Key { code, pressed } => [5, pair(code, pressed as u32), 0],
            Self::Locks { locks, group } => [6, pair(locks, group), 0],
            Self::ReleaseAll => [7, 0, 0],
        }
    }

    /// The inverse; nothing for an event of a newer minor version.
    #[must_use]
    pub const fn from_words(words: [u64; 3]) -> Option<Self> {
        let (low, high) = halves(words[1]);
        Some(match words[0] {
            1 => {
                let (width, height) = halves(words[2]);
                Self::PointerTo {
                    x: low,
                    y: high,
                    width,
                    height,
                }
            }
            2 => Self::PointerBy {
                x: low.cast_signed(),
                y: high.cast_signed(),
            },
            3 => Self::Wheel {
                horizontal: low.cast_signed(),
                vertical: high.cast_signed(),
            },
            4 => Self::Button {
                code: low,
                pressed: high == 1,
            },
            5 => Self::Key {
                code: low,
                pressed: high == 1,
            },
            6 => Self::Locks {
                locks: low,
                group: high,
            },
            7 => Self::ReleaseAll,
            _ => return None,
        })
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::from_words([word_at(bytes, 0), word_at(bytes, 8), word_at(bytes, 16)])
    }
}
