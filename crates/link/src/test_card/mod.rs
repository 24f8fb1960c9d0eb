//! The test card: a moving picture that says which frame it is, and proves that it is whole.
//!
//! A picture is a function of its size and serial and nothing else, so both sides draw the same.
//! Sizes below [`MIN_SIDE`] are refused; whatever else is asked for is cut to the picture.
//!
//! ```text
//!  ┌code─────────────────────────────┐  code    8 pixels: serial and checksum, 16 bits each
//!  │ bars     │sweep│     ┌digits┐   │  sweep   full height, its columns are bits of the serial
//!  │          │     │     └──────┘   │  digits  the serial for people
//!  │ ramp     │     │   ┌noise┐      │  noise   differs in every frame
//!  └─────────────────────────────────┘  the rest never changes
//! ```
//!
//! *Checksum.* Rows are cut into pieces of [`PIECE`] pixels. Each piece has a hash of 64 bits of
//! its pixels (without the unused byte) and its place; the checksum is their sum, mixed with the
//! serial and the size. So it covers every pixel, and moving parts change it at the price of the
//! pieces that they touch. The code is not part of it, but is compared bit by bit.
//!
//! *How sure.* The sweep crosses every row, so that rows differ from frame to frame. A picture that
//! is put together of several frames, in whatever parts, is equal to one of them, or differs in a
//! piece from each and passes as right with a probability of about 2⁻⁶⁴. That is so against
//! accidents, not against somebody who computes a collision.

mod draw;
mod verify;

pub use draw::TestCard;
pub use verify::{Checksum, Verdict, Verifier};

/// The smallest width and height.
pub const MIN_SIDE: u32 = 64;
/// Pixels that are hashed together.
pub const PIECE: u32 = 64;

/// Pixels of the code.
const CODE_PIXELS: u32 = 8;
/// The upper byte of a code pixel's colour.
const CODE_MARK: u32 = 0x5a;
/// Columns of the sweep, one for each of the serial's lower bits.
const SWEEP: u32 = 16;
