//! Drawing the test card into an outlet's slots: only what the slot's picture lacks. A picture
//! that is drawn as a whole is announced after its first band, and readers follow the bands.

use std::time::Instant;

use vmshm_link::frames::{Damage, Frame, PixelFormat, Place};
use vmshm_link::test_card::{Checksum, TestCard};
use vmshm_shm::SharedMemory;

use crate::outlet::{Outlet, OutletError};

/// Rows that are drawn before readers are told.
const BAND: u32 = 64;
/// From so many bytes on, a picture is announced before it is finished.
const LARGE: u64 = 1 << 20;

/// The picture that was drawn last.
#[derive(Debug, Default)]
pub struct Painter {
    checksum: Option<Checksum>,
    /// A part of a row, before it goes into shared memory.
    row: Vec<u8>,
}

/// What is drawn where.
struct Job<'a> {
    card: TestCard,
    checksum: u64,
    at: u64,
    stride: u32,
    todo: &'a Damage,
}

impl Painter {
    /// Draws the next picture and announces it. Nothing happens without a pixels region, or
    /// in a size that no card has.
    ///
    /// # Errors
    /// [`OutletError`].
    pub fn paint(
        &mut self,
        outlet: &mut Outlet,
        width: u32,
        height: u32,
    ) -> Result<(), OutletError> {
        let began = Instant::now();
        let serial = outlet.next_serial();
        let Some(card) = TestCard::new(width, height, serial) else {
            return Ok(());
        };
        let Some((slot, at)) = outlet.begin()? else {
            return Ok(());
        };
        let of_this_size = |checksum: &&mut Checksum| {
            let last = checksum.card();
            (last.width(), last.height()) == (width, height)
        };
        let (checksum, damage) = match self.checksum.as_mut().filter(of_this_size) {
            Some(checksum) => {
                let damage = checksum.advance(serial);
                (checksum.get(), damage)
            }
            None => {
                let checksum = self.checksum.insert(Checksum::of(card));
                (checksum.get(), Damage::whole(width, height))
            }
        };
        let stale = outlet.slots().and_then(|slots| slots.stale(slot));
        let todo = match stale {
            Some(mut stale) => {
                stale.add_all(&damage);
                stale
            }
            None => Damage::whole(width, height),
        };
        let place = Place {
            region: 0,
            slot,
            offset: at,
            width,
            height,
            stride: 4 * width,
            format: PixelFormat::Xrgb8888,
        };
        let frame = |began: Instant| Frame {
            serial,
            place,
            damage,
            has_pointer: false,
            is_live_scanout: false,
            capture_nanos: u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX),
            bytes_touched: 4 * todo.area(),
            acknowledged_nanos: 0,
            checksum,
        };
        let job = Job {
            card,
            checksum,
            at,
            stride: place.stride,
            todo: &todo,
        };
        let first = if 4 * todo.area() < LARGE {
            height
        } else {
            BAND.min(height)
        };
        self.draw(outlet, &job, 0, first)?;
        outlet.publish(&frame(began), first)?;
        let mut done = first;
        while done < height {
            let next = (done + BAND).min(height);
            self.draw(outlet, &job, done, next)?;
            outlet.progress(next)?;
            done = next;
        }
        Ok(())
    }

    /// Draws what of the job lies in rows `start` to `end`.
    fn draw(
        &mut self,
        outlet: &Outlet,
        job: &Job<'_>,
        start: u32,
        end: u32,
    ) -> Result<(), OutletError> {
        let Some((_, memory)) = outlet.pixels() else {
            return Ok(());
        };
        for row in start..end {
            for one in job.todo.rectangles() {
                if row < one.y || row - one.y >= one.height {
                    continue;
                }
                self.row.resize(4 * one.width as usize, 0);
                job.card.draw(row, one.x, job.checksum, &mut self.row);
                let row_at = job.at + u64::from(row) * u64::from(job.stride);
                let written = memory.write(row_at + 4 * u64::from(one.x), &self.row);
                written.map_err(vmshm_link::LinkError::from)?;
            }
        }
        Ok(())
    }
}
