//! Frames of a guest, copied into memory of this process, for a monitor that cannot map the
//! guest's: RAM that is the VMM's alone, or that lies in several files or in huge pages.
//!
//! The relay is a reader of the guest's frames and the writer of its own. It copies what
//! has changed and what its slot lacks, publishes only what is whole, and acknowledges a
//! frame to the guest when the monitor has taken it in. It waits for nothing: whoever owns
//! it calls [`Relay::step`] again after [`Relay::pause`].

use std::io;
use std::time::{Duration, Instant};

use vmshm_channel::sink::Run;
use vmshm_channel::{Handed, HandedRef};
use vmshm_link::LinkError;
use vmshm_link::frames::{
    Damage, FRAMES_SIZE, Frame, FrameReader, FrameWriter, Look, PixelSlots, Place, Rectangle,
    SourceState,
};
use vmshm_shm::{Fault, Mapping, SharedMemory};

use super::copying::copy_part;
use super::own_memory::{MOST_PICTURE, OwnMemory, OwnPixels, SLOTS};

/// The monitor's index among the readers of the relay's own frames.
pub(super) const READER: usize = 0;
/// How often this reader says that it lives.
const BEAT_EVERY: Duration = Duration::from_millis(200);
/// A monitor that has not taken a frame in by then gets a newer one all the same.
const OVERDUE: Duration = Duration::from_millis(250);
/// A monitor that says nothing for so long stands still.
const STALL: Duration = Duration::from_secs(1);

/// Why the relay cannot go on.
#[derive(Debug)]
pub(super) enum RelayError {
    /// The guest's memory, or what stands in it.
    Link(LinkError),
    /// Memory of our own.
    System(io::Error),
}

impl From<LinkError> for RelayError {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl From<Fault> for RelayError {
    fn from(fault: Fault) -> Self {
        Self::Link(fault.into())
    }
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// There is nothing to do.
    Idle,
    /// A frame was relayed.
    Relayed,
    /// The newest frame lies in this region of the guest, which has to be opened.
    Needs(u64),
}

/// What the relay has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RelayCounts {
    /// Frames that were relayed.
    pub frames: u64,
    /// Bytes of pixels that were copied, torn ones included.
    pub copied_bytes: u64,
    /// Copies that were torn, and taken again.
    pub retaken: u64,
}

/// A frame that the monitor has not taken in yet.
#[derive(Debug, Clone, Copy)]
struct InFlight {
    own_serial: u64,
    frame: Frame,
    since: Instant,
}

/// The relay of one watched screen. `F` is the guest's frames, `P` its pixels.
#[derive(Debug)]
pub(super) struct Relay<F, P> {
    guest: FrameReader<F>,
    guest_pixels: Option<(u64, P)>,
    /// A region that cannot be had; newer frames may name another.
    refused: Option<u64>,
    file: OwnMemory,
    writer: FrameWriter<Mapping>,
    slots: PixelSlots,
    /// The newest last; the one before it stays for a monitor that still copies from it.
    pixels: Vec<OwnPixels>,
    last_region: u64,
    in_flight: Option<InFlight>,
    /// Frames up to this one are of no use.
    not_before: u64,
    state: SourceState,
    monitor_beat: u64,
    /// When the monitor said last that it lives.
    heard: Instant,
    looked: Instant,
    active: Instant,
    counts: RelayCounts,
    buffer: Vec<u8>,
}

impl<F: SharedMemory, P: SharedMemory> Relay<F, P> {
    /// Takes over a reader's end of the guest's frames. With `only_new`, frames that are
    /// there already are passed over.
    pub(super) fn new(guest: FrameReader<F>, only_new: bool) -> Result<Self, RelayError> {
        let (file, memory) =
            OwnMemory::new("vmshm-frames", FRAMES_SIZE).map_err(RelayError::System)?;
        let not_before = if only_new { guest.state()?.newest } else { 0 };
        let writer = FrameWriter::resume(memory)?;
        writer.set_state(SourceState::Starting)?;
        let now = Instant::now();
        Ok(Self {
            guest,
            guest_pixels: None,
            refused: None,
            file,
            writer,
            slots: PixelSlots::new(SLOTS),
            pixels: Vec::new(),
            last_region: 0,
            in_flight: None,
            not_before,
            state: SourceState::Starting,
            monitor_beat: 0,
            heard: now,
            looked: now,
            active: now,
            counts: RelayCounts::default(),
            buffer: Vec::new(),
        })
    }

    /// The frames' memory, for the monitor to map.
    pub(super) fn frames(&self) -> (HandedRef<'_>, Vec<Run>) {
        (self.file.to_write(), self.file.runs())
    }

    /// A pixels memory of the relay's own, for the monitor to map; nothing when there is
    /// none of this number any more.
    pub(super) fn pixels(&self, region: u64) -> io::Result<Option<(Handed, Vec<Run>)>> {
        let found = self.pixels.iter().find(|pixels| pixels.region == region);
        found
            .map(|pixels| Ok((pixels.file.to_read()?, pixels.file.runs())))
            .transpose()
    }

    /// The guest's pixels region that is open; the one before it is given back.
    pub(super) fn take_guest_pixels(&mut self, region: u64, memory: P) -> Option<u64> {
        let before = self.guest_pixels.replace((region, memory));
        before.map(|(region, _)| region)
    }

    /// The guest does not give that region.
    pub(super) fn refuse_guest_pixels(&mut self, region: u64) -> Result<(), RelayError> {
        self.refused = Some(region);
        Ok(self.guest.let_go()?)
    }

    /// What the source in the guest does.
    pub(super) fn state(&self) -> Result<SourceState, RelayError> {
        Ok(self.guest.state()?.source)
    }

    /// What was done.
    pub(super) const fn counts(&self) -> RelayCounts {
        self.counts
    }

    /// How long there is nothing to be done: short while frames flow, and longer and longer
    /// while the picture stands still.
    pub(super) fn pause(&self) -> Duration {
        let quiet = self.active.elapsed();
        if quiet < Duration::from_millis(100) {
            Duration::from_micros(500)
        } else if quiet < Duration::from_secs(1) {
            Duration::from_millis(2)
        } else {
            Duration::from_millis(8)
        }
    }

    /// Does what there is to do.
    pub(super) fn step(&mut self) -> Result<Step, RelayError> {
        self.hand_back()?;
        if self.looked.elapsed() >= BEAT_EVERY {
            self.looked = Instant::now();
            self.tell_life()?;
        }
        if let Some(in_flight) = &self.in_flight {
            let since = in_flight.since.elapsed();
            // Nothing is copied for a monitor that stands still.
            if since < OVERDUE || self.heard.elapsed() > STALL {
                return Ok(Step::Idle);
            }
        }
        let newest = self.guest.state()?.newest;
        let last = self.in_flight.map_or(0, |in_flight| in_flight.frame.serial);
        if newest <= self.not_before.max(last) {
            return Ok(Step::Idle);
        }
        let Some(look) = self.guest.look()? else {
            return Ok(Step::Idle);
        };
        self.active = Instant::now();
        self.relay(&look)
    }

    /// Acknowledges to the guest what the monitor has taken in.
    fn hand_back(&mut self) -> Result<(), RelayError> {
        let Some(in_flight) = self.in_flight else {
            return Ok(());
        };
        let line = self.writer.reader(READER)?;
        if line.acknowledged >= in_flight.own_serial {
            self.guest.acknowledge(&in_flight.frame)?;
            self.in_flight = None;
            self.active = Instant::now();
        }
        Ok(())
    }

    /// Says to the guest that somebody reads, as long as the monitor says so, and to the
    /// monitor what the guest's source does.
    fn tell_life(&mut self) -> Result<(), RelayError> {
        let beat = self.writer.reader(READER)?.beat;
        // Until the monitor has come, this process speaks for it.
        if beat == 0 || beat != self.monitor_beat {
            self.monitor_beat = beat;
            self.heard = Instant::now();
            self.guest.beat()?;
        }
        let state = self.guest.state()?.source;
        if state != self.state {
            self.state = state;
            self.writer.set_state(state)?;
        }
        Ok(())
    }

    fn relay(&mut self, look: &Look) -> Result<Step, RelayError> {
        let start = Instant::now();
        let frame = &look.frame;
        let from = &frame.place;
        if self.refused == Some(from.region) {
            self.guest.let_go()?;
            return Ok(Step::Idle);
        }
        match &self.guest_pixels {
            Some((region, memory)) if *region == from.region => from.check(memory.size())?,
            _ => return Ok(Step::Needs(from.region)),
        }
        if self.guest.progress(frame)? < from.height {
            return Ok(Step::Idle);
        }
        let picture = u64::from(from.width) * u64::from(from.height) * 4;
        if picture > MOST_PICTURE {
            return Err(RelayError::Link(LinkError::Violation {
                what: "the bytes of a picture",
                value: picture,
            }));
        }
        self.provide(picture)?;
        let damage = look.damage.map_or_else(
            || Damage::whole(from.width, from.height),
            |damage| damage.clipped(from.width, from.height),
        );
        let slot = self
            .writer
            .begin(&mut self.slots, std::iter::once(READER))?;
        let copied = self.copy(from, slot, &damage)?;
        self.counts.copied_bytes += copied.1;
        if !self.guest.is_whole(frame)? {
            // What the slot holds now lies within the damage of the frame that comes next.
            self.counts.retaken += 1;
            return Ok(Step::Idle);
        }
        self.guest.let_go()?;
        let spent = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let own = Frame {
            place: copied.0,
            damage,
            is_live_scanout: false,
            capture_nanos: frame.capture_nanos.saturating_add(spent),
            ..*frame
        };
        let own_serial = self.writer.publish(&mut self.slots, &own, from.height)?;
        if self.state != SourceState::Live {
            self.state = SourceState::Live;
            self.writer.set_state(SourceState::Live)?;
        }
        self.counts.frames += 1;
        self.in_flight = Some(InFlight {
            own_serial,
            frame: *frame,
            since: Instant::now(),
        });
        Ok(Step::Relayed)
    }

    /// Makes room for pictures of so many bytes.
    fn provide(&mut self, picture: u64) -> Result<(), RelayError> {
        if self.pixels.last().is_some_and(|last| last.suits(picture)) {
            return Ok(());
        }
        self.last_region += 1;
        let new = OwnPixels::new(self.last_region, picture).map_err(RelayError::System)?;
        if self.pixels.len() > 1 {
            self.pixels.remove(0);
        }
        self.pixels.push(new);
        self.slots = PixelSlots::new(SLOTS);
        Ok(())
    }

    /// Copies what has changed, and what the slot lacks. Where it lies now, and how many
    /// bytes it took.
    fn copy(
        &mut self,
        from: &Place,
        slot: usize,
        damage: &Damage,
    ) -> Result<(Place, u64), RelayError> {
        let (Some((_, source)), Some(target)) = (&self.guest_pixels, self.pixels.last()) else {
            return Err(RelayError::System(io::ErrorKind::NotFound.into()));
        };
        let to = FrameWriter::<Mapping>::packed(
            Place {
                region: target.region,
                slot,
                ..*from
            },
            target.slot_bytes,
        );
        let whole = Damage::whole(from.width, from.height);
        let parts = self.slots.stale(slot).map_or(whole, |mut stale| {
            stale.add_all(damage);
            stale.clipped(from.width, from.height)
        });
        let mut copied = 0;
        for part in parts.rectangles() {
            let part: &Rectangle = part;
            copied += copy_part(source, from, &target.memory, &to, part, &mut self.buffer)?;
        }
        Ok((to, copied))
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
