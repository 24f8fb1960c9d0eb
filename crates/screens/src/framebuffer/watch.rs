//! A framebuffer that is watched: what was seen of it, and which frames follow from that.
//!
//! Where the device's own memory is shown, nothing is copied here: a frame says where the
//! picture lies and what of it has changed. The guest may draw again while a host copies, and
//! may end with what was seen before; so what changed is announced once more as soon as a look
//! finds all quiet.

use std::time::{Duration, Instant};

use vmshm_link::frames::{Damage, Frame, Place};
use vmshm_shm::{PAGE_SIZE, SharedMemory};

use super::pace::Pace;
use super::pan::{Came, Panning};
use super::picture::Picture;
use super::tiles::Tiles;
use crate::outlet::{Outlet, OutletError};

/// Pictures that pinned memory has room for: one shown, one copied by a slow reader, one drawn.
const PINNED_SLOTS: u64 = 3;
/// How soon readers are looked at again that have not taken a frame in.
const SOON: Duration = Duration::from_millis(1);
/// The longest time until then.
const LATER: Duration = Duration::from_millis(16);

/// Why a watched framebuffer cannot be shown any more.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// Frames cannot be written.
    #[error(transparent)]
    Outlet(#[from] OutletError),
    /// The device's memory cannot be read.
    #[error("the device's memory cannot be read: {0}")]
    Fault(#[from] vmshm_shm::Fault),
}

/// Where the pictures are that frames name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pixels {
    /// Nowhere yet.
    Nowhere,
    /// In the device's memory of so many bytes.
    Device(u64),
    /// In pinned memory with slots of so many bytes.
    Pinned(u64),
}

/// A framebuffer that is watched.
#[derive(Debug)]
pub struct Watch<M> {
    /// The way of its frames.
    pub outlet: Outlet,
    /// Where pictures are.
    pub pixels: Pixels,
    /// How often to look.
    pub pace: Pace,
    /// What was seen of panning.
    pub panning: Panning,
    /// The number of a request for pixels that is not answered yet.
    pub requested: Option<u64>,
    memory: M,
    mapped: u64,
    tiles: Tiles,
    /// Seen, and not announced yet.
    pending: Damage,
    /// Announced, and perhaps changed while it was copied.
    unsettled: Damage,
    touched: u64,
    /// The slot announced last.
    announced: Option<usize>,
    /// The guest draws over what was announced last, and a reader was still copying.
    spoiled: bool,
    patience: Duration,
}

/// What a look led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Looked {
    /// Whether a picture that differs was announced.
    pub changed: bool,
}

impl<M: SharedMemory> Watch<M> {
    /// Begins to watch; `memory` is the device's, of `mapped` bytes.
    #[must_use]
    pub fn new(outlet: Outlet, memory: M, mapped: u64) -> Self {
        Self {
            outlet,
            pixels: Pixels::Nowhere,
            pace: Pace::default(),
            panning: Panning::default(),
            requested: None,
            memory,
            mapped,
            tiles: Tiles::new(0, 0),
            pending: Damage::none(),
            unsettled: Damage::none(),
            touched: 0,
            announced: None,
            spoiled: false,
            patience: SOON,
        }
    }

    /// How many bytes of the device are mapped.
    #[must_use]
    pub const fn mapped(&self) -> u64 {
        self.mapped
    }

    /// The device's memory has been mapped anew.
    pub fn remap(&mut self, memory: M, mapped: u64) {
        self.memory = memory;
        self.mapped = mapped;
        self.forget();
    }

    /// Nothing that was seen counts any more: the mode or the memory is another.
    pub fn forget(&mut self) {
        self.tiles.forget();
        self.pending = Damage::none();
        self.unsettled = Damage::none();
        self.announced = None;
        self.spoiled = false;
        self.panning = Panning::default();
        self.outlet.refresh();
        self.pace.hurry();
    }

    /// Whether the pixels that there are have room for this picture.
    #[must_use]
    pub fn has_room(&self, picture: &Picture) -> bool {
        match self.pixels {
            Pixels::Nowhere => false,
            Pixels::Device(size) => size == picture.memory,
            Pixels::Pinned(slot) => slot_bytes(picture) <= slot,
        }
    }

    /// Reads the picture; what has changed is kept until it is announced.
    ///
    /// # Errors
    /// [`WatchError::Fault`].
    pub fn look(&mut self, picture: &Picture) -> Result<(), WatchError> {
        let found = self.tiles.look(&self.memory, picture)?;
        self.pending.add_all(&found.damage);
        self.touched += found.bytes;
        Ok(())
    }

    /// Announces what the looks since `started` found, if there is something to say. `steady`:
    /// the guest has not panned meanwhile; `fresh`: a reader has come.
    ///
    /// # Errors
    /// [`WatchError`].
    pub fn announce(
        &mut self,
        picture: &Picture,
        started: Instant,
        steady: bool,
        fresh: bool,
    ) -> Result<Looked, WatchError> {
        let changed = !self.pending.is_empty();
        if changed || fresh || !self.unsettled.is_empty() {
            match self.pixels {
                Pixels::Nowhere => {}
                Pixels::Device(_) => {
                    self.announce_device(picture, started, steady, fresh, changed)?;
                }
                Pixels::Pinned(_) => self.announce_copy(picture, started)?,
            }
        }
        self.patience = SOON;
        self.pace.looked(started.elapsed(), changed);
        Ok(Looked { changed })
    }

    /// Announces a picture in the device's own memory.
    fn announce_device(
        &mut self,
        picture: &Picture,
        started: Instant,
        steady: bool,
        fresh: bool,
        changed: bool,
    ) -> Result<(), WatchError> {
        self.panning.ended(std::mem::take(&mut self.spoiled));
        let apart = if changed {
            steady && self.panning.came(picture) == Came::ByPanning
        } else {
            steady && self.panning.is_panning()
        };
        let mut damage = self.pending;
        if !changed {
            damage.add_all(&self.unsettled);
        }
        let place = picture.place();
        if let Some(before) = self.announced.filter(|before| *before != place.slot) {
            // What was shown before is where the guest draws next.
            self.outlet.begin_in(before)?;
        }
        self.outlet.begin_in(place.slot)?;
        let frame = self.frame(place, damage, started, !apart);
        self.outlet.publish(&frame, picture.height)?;
        self.announced = Some(place.slot);
        if apart || !changed {
            self.unsettled = Damage::none();
        }
        if !apart {
            self.unsettled.add_all(&self.pending);
            if fresh {
                self.unsettled = Damage::whole(picture.width, picture.height);
            }
        }
        self.pending = Damage::none();
        self.touched = 0;
        Ok(())
    }

    /// Copies what has changed into pinned memory, and announces it there.
    fn announce_copy(&mut self, picture: &Picture, started: Instant) -> Result<(), WatchError> {
        let Some((slot, offset)) = self.outlet.begin()? else {
            return Ok(());
        };
        let all = Damage::whole(picture.width, picture.height);
        let stale = self.outlet.slots().and_then(|slots| slots.stale(slot));
        let stale = stale.unwrap_or(all);
        let Some((_, to)) = self.outlet.pixels() else {
            return Ok(());
        };
        let mut found = super::tiles::Found {
            damage: self.pending,
            bytes: 0,
        };
        self.tiles
            .copy(&self.memory, picture, &stale, (to, offset), &mut found)?;
        self.touched += found.bytes;
        let place = Place {
            slot,
            offset,
            stride: picture.width * 4,
            ..picture.place()
        };
        let frame = self.frame(place, found.damage, started, false);
        self.outlet.publish(&frame, picture.height)?;
        self.announced = Some(slot);
        self.pending = Damage::none();
        self.touched = 0;
        Ok(())
    }

    fn frame(&self, place: Place, damage: Damage, started: Instant, live: bool) -> Frame {
        let capture = started.elapsed().as_nanos();
        Frame {
            serial: 0,
            place,
            damage,
            has_pointer: false,
            is_live_scanout: live,
            capture_nanos: u64::try_from(capture).unwrap_or(u64::MAX),
            bytes_touched: self.touched,
            acknowledged_nanos: 0,
            checksum: 0,
        }
    }

    /// Readers are still copying what was announced last, and the picture lies here now. Where
    /// the guest has panned away and draws into what they copy, says so, and has the next
    /// picture announced without waiting for them: what they copy will not do.
    ///
    /// # Errors
    /// [`WatchError`].
    pub fn note_pan(&mut self, picture: &Picture) -> Result<(), WatchError> {
        if let Some(slot) = self.announced
            && self.panning.is_panning()
            && slot != picture.slot()
        {
            self.outlet.begin_in(slot)?;
            self.outlet.refresh();
            self.spoiled = true;
        }
        Ok(())
    }

    /// How soon to look at readers again that have not taken the newest frame in.
    pub fn patience(&mut self) -> Duration {
        let patience = self.patience;
        // While a guest pans, what readers copy may be drawn over at any time.
        if !self.panning.is_panning() {
            self.patience = (self.patience * 2).min(LATER);
        }
        patience
    }
}

/// Bytes of a slot of pinned memory for this picture.
#[must_use]
pub fn slot_bytes(picture: &Picture) -> u64 {
    let bytes = u64::from(picture.width) * u64::from(picture.height) * 4;
    bytes.next_multiple_of(PAGE_SIZE)
}

/// Bytes of pinned memory for pictures like this one.
#[must_use]
pub fn pinned_bytes(picture: &Picture) -> u64 {
    slot_bytes(picture) * PINNED_SLOTS
}
