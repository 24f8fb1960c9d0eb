//! What is said of one frame, and how it is written and read whole.

use vmshm_shm::SharedMemory;

use super::damage::{Damage, MAX_DAMAGE};
use super::geometry::{MAX_SIDE, Mode, PixelFormat, Rectangle};
use super::{MAX_PIXEL_SLOTS, RECORD, halves, pair, record_at};
use crate::error::LinkError;
use crate::fields::{put_word, word_at};

const STAMP_AT: u64 = 0;
const SERIAL: usize = 0x08;
const REGION: usize = 0x10;
const OFFSET: usize = 0x18;
const SIZE: usize = 0x20;
const STRIDE: usize = 0x28;
const SLOT: usize = 0x30;
const FLAGS: usize = 0x38;
const CAPTURE: usize = 0x40;
const TOUCHED: usize = 0x48;
const ACKED: usize = 0x50;
const CHECKSUM: usize = 0x58;
const DAMAGE_COUNT: usize = 0x60;
/// Beside the record, since it changes after the frame was announced.
const PROGRESS: usize = 0x68;
const DAMAGE: usize = 0x80;
const RECORD_BYTES: usize = 512;

const POINTER: u64 = 1;
const LIVE_SCANOUT: u64 = 2;

const _: () = assert!(RECORD_BYTES as u64 == RECORD);
const _: () = assert!(DAMAGE + 16 * MAX_DAMAGE <= RECORD_BYTES);

/// Where a picture lies in the pixels region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The pixels region.
    pub region: u64,
    /// Which of its slots.
    pub slot: usize,
    /// The picture's first byte in the region.
    pub offset: u64,
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Bytes from one row to the next.
    pub stride: u32,
    /// How pixels are laid out.
    pub format: PixelFormat,
}

impl Place {
    /// Bytes from the picture's first to behind its last.
    #[must_use]
    pub const fn length(&self) -> u64 {
        let rows = self.stride as u64 * (self.height as u64).saturating_sub(1);
        rows.saturating_add(self.width as u64 * 4)
    }

    /// Whether it lies in a region of `size` bytes and is a picture at all.
    ///
    /// # Errors
    /// [`LinkError::Violation`], with what is impossible.
    pub fn check(&self, size: u64) -> Result<(), LinkError> {
        let violation = |what, value| Err(LinkError::Violation { what, value });
        if self.slot >= MAX_PIXEL_SLOTS {
            return violation("a frame's slot", self.slot as u64);
        }
        let mode = Mode {
            width: self.width,
            height: self.height,
            refresh_millihertz: 0,
        };
        if !mode.is_possible() {
            return violation("a frame's size", pair(self.width, self.height));
        }
        let widest = 4 * u64::from(MAX_SIDE) * 2;
        let stride = u64::from(self.stride);
        if stride < u64::from(self.width) * 4 || stride > widest || !stride.is_multiple_of(4) {
            return violation("a frame's stride", stride);
        }
        let end = self.offset.checked_add(self.length());
        if !self.offset.is_multiple_of(4) || end.is_none_or(|end| end > size) {
            return violation("a frame's place in its region", self.offset);
        }
        Ok(())
    }
}

/// One frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Its number, counted from 1.
    pub serial: u64,
    /// Where its pixels are.
    pub place: Place,
    /// What has changed since the frame before it.
    pub damage: Damage,
    /// Whether the guest's pointer is part of the picture.
    pub has_pointer: bool,
    /// Whether the guest goes on drawing into this very memory: the slot's mark says nothing
    /// then, and a copy may show two pictures.
    pub is_live_scanout: bool,
    /// How long the source took from knowing of the change to announcing it, in nanoseconds.
    pub capture_nanos: u64,
    /// Bytes of pixels that the source itself read or wrote for it.
    pub bytes_touched: u64,
    /// How long after announcing the frame before it the source saw it acknowledged, in
    /// nanoseconds; zero: not seen yet.
    pub acknowledged_nanos: u64,
    /// For a test card, the picture's checksum; else zero.
    pub checksum: u64,
}

impl Frame {
    /// Writes the record; a reader meanwhile sees that it changes. `progress` rows are there.
    pub(super) fn write<M: SharedMemory>(
        &self,
        memory: &M,
        progress: u32,
    ) -> Result<(), LinkError> {
        let at = record_at(self.serial);
        let mut bytes = [0_u8; RECORD_BYTES];
        let place = &self.place;
        put_word(&mut bytes, SERIAL, self.serial);
        put_word(&mut bytes, REGION, place.region);
        put_word(&mut bytes, OFFSET, place.offset);
        put_word(&mut bytes, SIZE, pair(place.width, place.height));
        put_word(
            &mut bytes,
            STRIDE,
            pair(place.stride, place.format.fourcc()),
        );
        put_word(&mut bytes, SLOT, place.slot as u64);
        let pointer = if self.has_pointer { POINTER } else { 0 };
        let live = if self.is_live_scanout {
            LIVE_SCANOUT
        } else {
            0
        };
        put_word(&mut bytes, FLAGS, pointer | live);
        put_word(&mut bytes, CAPTURE, self.capture_nanos);
        put_word(&mut bytes, TOUCHED, self.bytes_touched);
        put_word(&mut bytes, ACKED, self.acknowledged_nanos);
        put_word(&mut bytes, CHECKSUM, self.checksum);
        let rectangles = self.damage.rectangles();
        put_word(&mut bytes, DAMAGE_COUNT, rectangles.len() as u64);
        put_word(&mut bytes, PROGRESS, u64::from(progress));
        for (index, rectangle) in rectangles.iter().enumerate() {
            let [corner, size] = rectangle.to_words();
            put_word(&mut bytes, DAMAGE + 16 * index, corner);
            put_word(&mut bytes, DAMAGE + 16 * index + 8, size);
        }
        memory.store_relaxed(at + STAMP_AT, 2 * self.serial + 1)?;
        // Whoever sees a byte of this record change sees the odd stamp, too.
        memory.order_stores();
        let used = DAMAGE + 16 * rectangles.len();
        memory.write(at + 8, bytes.get(8..used).unwrap_or_default())?;
        // release: frames-record
        memory.store_release(at + STAMP_AT, 2 * self.serial)?;
        Ok(())
    }

    /// How many rows are there.
    pub(super) fn set_progress<M: SharedMemory>(
        serial: u64,
        memory: &M,
        rows: u32,
    ) -> Result<(), LinkError> {
        // release: frames-progress
        Ok(memory.store_release(record_at(serial) + PROGRESS as u64, u64::from(rows))?)
    }

    /// How many rows are there, at most `height`. A writer that has gone on to the next frame of
    /// this record had all rows of this one, or has voided its slot.
    pub(super) fn progress<M: SharedMemory>(
        serial: u64,
        memory: &M,
        height: u32,
    ) -> Result<u32, LinkError> {
        let at = record_at(serial);
        // acquire: frames-progress
        let rows = memory.load_acquire(at + PROGRESS as u64)?;
        memory.order_loads();
        if memory.load_relaxed(at + STAMP_AT)? != 2 * serial {
            return Ok(height);
        }
        Ok(u32::try_from(rows).unwrap_or(u32::MAX).min(height))
    }

    /// Reads the record of a frame; nothing when it is being overwritten or was.
    pub(super) fn read<M: SharedMemory>(
        serial: u64,
        memory: &M,
    ) -> Result<Option<Self>, LinkError> {
        let at = record_at(serial);
        let mut bytes = [0_u8; RECORD_BYTES];
        // acquire: frames-record
        if memory.load_acquire(at + STAMP_AT)? != 2 * serial {
            return Ok(None);
        }
        memory.read(at + 8, bytes.get_mut(8..).unwrap_or_default())?;
        memory.order_loads();
        if memory.load_relaxed(at + STAMP_AT)? != 2 * serial {
            return Ok(None);
        }
        Self::from_bytes(serial, &bytes).map(Some)
    }

    /// Reads a private copy of a record. Whether the place lies in its region is for
    /// whoever knows the region's size.
    fn from_bytes(serial: u64, bytes: &[u8; RECORD_BYTES]) -> Result<Self, LinkError> {
        let violation = |what, value| LinkError::Violation { what, value };
        let stated = word_at(bytes, SERIAL);
        if stated != serial {
            return Err(violation("a frame record's serial", stated));
        }
        let (width, height) = halves(word_at(bytes, SIZE));
        let (stride, format) = halves(word_at(bytes, STRIDE));
        let slot = word_at(bytes, SLOT);
        let place = Place {
            region: word_at(bytes, REGION),
            slot: usize::try_from(slot).unwrap_or(usize::MAX),
            offset: word_at(bytes, OFFSET),
            width,
            height,
            stride,
            format: PixelFormat::from_fourcc(format)?,
        };
        // All but the end, which only the region's owner knows.
        place.check(u64::MAX)?;
        let count = word_at(bytes, DAMAGE_COUNT);
        let count = usize::try_from(count)
            .ok()
            .filter(|count| *count <= MAX_DAMAGE)
            .ok_or(violation("a frame's number of damaged rectangles", count))?;
        let mut damage = Damage::none();
        for index in 0..count {
            let at = DAMAGE + 16 * index;
            let rectangle = Rectangle::from_words([word_at(bytes, at), word_at(bytes, at + 8)]);
            if !rectangle.is_within(width, height) {
                return Err(violation(
                    "a damaged rectangle outside its frame",
                    word_at(bytes, at),
                ));
            }
            damage.add(rectangle);
        }
        let flags = word_at(bytes, FLAGS);
        Ok(Self {
            serial,
            place,
            damage,
            has_pointer: flags & POINTER != 0,
            is_live_scanout: flags & LIVE_SCANOUT != 0,
            capture_nanos: word_at(bytes, CAPTURE),
            bytes_touched: word_at(bytes, TOUCHED),
            acknowledged_nanos: word_at(bytes, ACKED),
            checksum: word_at(bytes, CHECKSUM),
        })
    }
}
