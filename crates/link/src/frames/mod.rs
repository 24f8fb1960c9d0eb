//! Frames of a screen: which picture is the newest, where its pixels are, and what of it
//! has changed.
//!
//! A screen has two regions. The *frames* region (this module) is small, lives as long as
//! the screen, and is written by the source in the guest, but for the readers' lines. The
//! *pixels* region holds nothing but pictures, is only ever read by hosts, and is replaced
//! by another when a mode needs more room.
//!
//! ```text
//! frames   page 0       magic, layout, newest serial, state, one serial for each pixel slot
//!          page 1       readers' lines, 128 bytes each, one per session slot
//!          pages 2–3    records, 512 bytes each; frame n in record n mod 16
//! pixels   slot 0 │ slot 1 │ slot 2 …  each one picture, as the records say where
//! ```
//!
//! *Writing.* The source marks a pixel slot with the serial that it is going to write there,
//! writes the picture (or lets a compositor do it), writes the record, and announces the
//! serial. It may announce before all rows are there: the record's *progress* says how many
//! are. Beginning the next frame says that all rows of this one are there. A source that goes on
//! where another one has died voids all slots first (mark zero), since it cannot know what is in
//! them; so does one that lays the slots out anew in the same region. The first frame of a source,
//! and one of another size than the frame before it, has changed as a whole.
//!
//! *Reading.* A reader loads the newest serial, copies the record, looks at the slot's mark,
//! copies pixels, and then looks whether the slot is still marked with that serial. If it is not, the copy may be
//! torn, and the reader takes the newest frame again. Readers write only their own line:
//! which frame they have taken in, which one they are copying (the writer avoids that slot
//! while it has another), and a beat.
//! A reader that is slow, stopped or dead is waited for by nobody.
//!
//! *Time.* Only durations cross: how long the source took, and how long after announcing a
//! frame it saw the first reader's acknowledgement.
//!
//! *Before all that.* A region of zeros is one whose source has not come yet: no frame, and
//! starting.
//!
//! Pairs: `frames-layout`, `frames-newest`, `frames-record`, `frames-progress`, `frames-ack`,
//! `frames-opened`. Beside them the source orders a slot's mark before the pixels and a record's
//! odd stamp before its words, and a reader its copies before the second look at either: stores
//! among stores and loads among loads.

mod damage;
mod geometry;
mod reader;
mod record;
mod writer;

pub use damage::{Damage, MAX_DAMAGE};
pub use geometry::{MAX_REFRESH, MAX_SIDE, Mode, PixelFormat, Rectangle};
pub(crate) use geometry::{halves, pair};
pub use reader::{FrameReader, Look, ReaderState};
pub use record::{Frame, Place};
pub use writer::{FrameWriter, PixelSlots, ReaderLine, Wants};

use crate::beacon::PAGE;
use crate::directory::SLOTS;

/// Bytes of a frames region.
pub const FRAMES_SIZE: u64 = 4 * PAGE;
/// Readers that a screen can have: one per session slot, by the slot's index.
pub const READERS: usize = SLOTS;
/// The most pictures in one pixels region.
pub const MAX_PIXEL_SLOTS: usize = 8;
/// Frames whose records are kept.
pub const RECORDS: u64 = 16;

const MAGIC: u64 = u64::from_le_bytes(*b"vmshmfrm");
const LAYOUT: u64 = 1;
const MAGIC_AT: u64 = 0;
const LAYOUT_AT: u64 = 0x08;
const NEWEST_AT: u64 = 0x40;
const STATE_AT: u64 = 0x48;
const SLOTS_AT: u64 = 0x100;
const READERS_AT: u64 = PAGE;
const READER_LINE: u64 = 128;
const RECORDS_AT: u64 = 2 * PAGE;
const RECORD: u64 = 512;

const ACK_AT: u64 = 0;
const COPYING_AT: u64 = 8;
const BEAT_AT: u64 = 16;
const WANTS_AT: u64 = 24;
const OPENED_AT: u64 = 32;

const _: () = assert!(READERS as u64 * READER_LINE <= PAGE);
const _: () = assert!(RECORDS_AT + RECORDS * RECORD <= FRAMES_SIZE);
const _: () = assert!(SLOTS_AT + 64 * MAX_PIXEL_SLOTS as u64 <= PAGE);

/// What the source of a screen is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceState {
    /// No frame of it yet, or none since something changed.
    Starting,
    /// It delivers.
    Live,
    /// The screen is gone: its output was removed, or its compositor has ended.
    Gone,
}

impl SourceState {
    const fn to_word(self) -> u64 {
        match self {
            Self::Starting => 0,
            Self::Live => 1,
            Self::Gone => 2,
        }
    }

    const fn from_word(word: u64) -> Self {
        match word {
            0 => Self::Starting,
            1 => Self::Live,
            _ => Self::Gone,
        }
    }
}

const fn slot_at(slot: usize) -> u64 {
    SLOTS_AT + 64 * slot as u64
}

const fn reader_at(reader: usize) -> u64 {
    READERS_AT + READER_LINE * reader as u64
}

const fn record_at(serial: u64) -> u64 {
    RECORDS_AT + RECORD * (serial % RECORDS)
}
