//! The test card: a screen whose picture moves, says which frame it is, and proves that it is
//! whole (`vmshm_link::test_card`). For measuring, and for proving that nothing tears.
//!
//! It has any size from [`MIN_SIDE`] on and up to [`MAX_REFRESH`] frames a second. With a refresh
//! of [`STILL`] it is drawn for each reader that comes, and nothing changes otherwise: it then
//! sleeps. It has no pointer and takes no input; other modes are refused with those that there are.

mod paint;

use std::time::{Duration, Instant};

use vmshm_channel::source::{FromSource, Screen, ToSource};
use vmshm_channel::{Channel, ChannelError, Size};
use vmshm_link::frames::MAX_SIDE;
use vmshm_link::test_card::MIN_SIDE;

use crate::SourceError;
use crate::outlet::{Demand, OutletError, slot_bytes};
use crate::watched::{self, Change, Watched};
use paint::Painter;

/// The fastest mode, in thousandths of a frame per second.
pub const MAX_REFRESH: u32 = 240_000;
/// The refresh of a card that stands still.
pub const STILL: u32 = 1;

/// The card is its source's only screen.
const SCREEN: u64 = 0;
/// Pictures that a pixels region has room for: one that is drawn, one that is copied, and the
/// newest one.
const SLOTS: u64 = 3;
/// How often readers are looked at that stand still, and whether one has opened its line.
const SELDOM: Duration = Duration::from_millis(100);
/// How often readers are looked at that have not taken the newest frame in, at the most.
const SOON: Duration = Duration::from_millis(1);
/// How long after memory was refused it is asked for again.
const AGAIN: Duration = Duration::from_secs(2);
/// Messages that are taken before the next frame.
const MESSAGES: usize = 64;

const DEFAULT: Size = size(1920, 1080, 60_000);
const MODES: [Size; 9] = [
    DEFAULT,
    size(1920, 1080, STILL),
    size(1920, 1080, 120_000),
    size(640, 480, 60_000),
    size(1024, 768, 60_000),
    size(1280, 720, 60_000),
    size(1280, 1024, 60_000),
    size(2560, 1440, 60_000),
    size(3840, 2160, 60_000),
];

const fn size(width: u32, height: u32, refresh_millihertz: u32) -> Size {
    Size {
        width,
        height,
        refresh_millihertz,
    }
}

/// Delivers the test card.
///
/// # Errors
/// [`SourceError`].
pub fn serve(channel: &mut Channel) -> Result<(), SourceError> {
    let mut source = Source::new();
    source.announce(channel)?;
    let mut readable = true;
    loop {
        if readable {
            for _ in 0..MESSAGES {
                let Some((message, descriptor)) = channel.receive::<ToSource>()? else {
                    readable = false;
                    break;
                };
                let change = source.watched.take(channel, &message, descriptor)?;
                match (change, message) {
                    (Some(change), _) => source.changed(channel, change)?,
                    (None, other) => source.asked(channel, other)?,
                }
            }
        }
        let pause = source.deliver(channel)?;
        // More messages are there already.
        let pause = if readable {
            Some(Duration::ZERO)
        } else {
            pause
        };
        readable |= watched::wait(channel, pause)?;
    }
}

/// A mode that waits for memory.
#[derive(Debug, Clone, Copy)]
struct Pending {
    request: u64,
    mode: Size,
}

#[derive(Debug)]
struct Source {
    watched: Watched,
    mode: Size,
    pending: Option<Pending>,
    painter: Painter,
    /// When the next picture is due.
    due: Instant,
    /// When memory that was refused is asked for again.
    again: Option<Instant>,
}

impl Source {
    fn new() -> Self {
        Self {
            watched: Watched::new(SCREEN),
            mode: DEFAULT,
            pending: None,
            painter: Painter::default(),
            due: Instant::now(),
            again: None,
        }
    }

    fn announce(&self, channel: &mut Channel) -> Result<(), ChannelError> {
        let screen = Screen {
            screen: SCREEN,
            name: "test-card".to_owned(),
            source: "test card".to_owned(),
            mode: self.mode,
            modes: MODES.to_vec(),
            any_size: true,
            scale_thousandths: 1000,
            input: false,
            set_mode: true,
            added: false,
            may_tear: false,
        };
        let screens = FromSource::Screens {
            screens: vec![screen],
            can_add: false,
        };
        channel.send(&screens, None)
    }

    /// What the agent said of memory or readers.
    fn changed(&mut self, channel: &mut Channel, change: Change) -> Result<(), SourceError> {
        match change {
            Change::Watched => {
                self.again = None;
                self.need(channel, self.mode)?;
            }
            Change::Unwatched => {
                self.again = None;
                self.finish_pending(channel)?;
            }
            Change::Pixels => {
                self.again = None;
                if let Some(outlet) = self.watched.outlet() {
                    let populated = outlet.populate_pixels();
                    populated.map_err(|error| watched::failed(&error))?;
                }
                self.due = Instant::now();
                self.finish_pending(channel)?;
            }
            Change::NoPixels(message) => {
                // Said once, not at every try.
                match self.pending.take() {
                    Some(pending) => refuse(channel, pending.request, message)?,
                    None if self.again.is_some() => {}
                    None => {
                        let message = format!("the test card has no memory: {message}");
                        watched::note(channel, message)?;
                    }
                }
                self.again = Some(Instant::now() + AGAIN);
            }
            Change::Readers => {}
        }
        Ok(())
    }

    /// Other messages.
    fn asked(&mut self, channel: &mut Channel, message: ToSource) -> Result<(), ChannelError> {
        match message {
            ToSource::SetMode {
                request,
                screen: SCREEN,
                mode,
            } => self.set_mode(channel, request, mode),
            ToSource::SetMode { request, .. } => {
                refuse(channel, request, "there is no such screen".to_owned())
            }
            ToSource::Add { request, .. } => {
                let message = "the test card plugs no screens in".to_owned();
                refuse(channel, request, message)
            }
            _ => Ok(()),
        }
    }

    fn set_mode(
        &mut self,
        channel: &mut Channel,
        request: u64,
        mode: Size,
    ) -> Result<(), ChannelError> {
        if let Some(earlier) = self.pending.take() {
            let message = "another mode was asked for meanwhile".to_owned();
            refuse(channel, earlier.request, message)?;
        }
        let sides = MIN_SIDE..=MAX_SIDE;
        let is_possible = sides.contains(&mode.width)
            && sides.contains(&mode.height)
            && mode.refresh_millihertz <= MAX_REFRESH;
        if !is_possible {
            return refuse(channel, request, no_such_mode());
        }
        let mode = match mode.refresh_millihertz {
            0 => Size {
                refresh_millihertz: self.mode.refresh_millihertz,
                ..mode
            },
            _ => mode,
        };
        self.pending = Some(Pending { request, mode });
        if self.watched.is_watched() && picture_bytes(mode) > self.room() {
            // The card goes on as it is until the memory is there.
            return self.need(channel, mode);
        }
        self.finish_pending(channel)
    }

    fn finish_pending(&mut self, channel: &mut Channel) -> Result<(), ChannelError> {
        let Some(Pending { request, mode }) = self.pending.take() else {
            return Ok(());
        };
        self.mode = mode;
        self.due = Instant::now();
        if let Some(outlet) = self.watched.outlet() {
            outlet.refresh();
        }
        self.announce(channel)?;
        channel.send(&FromSource::ModeSet { request }, None)
    }

    /// The largest picture that there is room for.
    fn room(&mut self) -> u64 {
        self.watched
            .outlet()
            .map_or(0, |outlet| outlet.slot_bytes())
    }

    fn need(&mut self, channel: &mut Channel, mode: Size) -> Result<(), ChannelError> {
        let slot_bytes = slot_bytes(picture_bytes(mode));
        self.watched.need(channel, slot_bytes, SLOTS)
    }

    /// Frames cannot go on: nobody watches, or the source ends.
    fn lose(&mut self, error: &OutletError) -> Result<Option<Duration>, SourceError> {
        if error.is_taken_back() {
            self.watched.forget();
            return Ok(None);
        }
        Err(watched::failed(error))
    }

    /// Draws a picture if one is due and wanted, and says how long there is nothing to do.
    fn deliver(&mut self, channel: &mut Channel) -> Result<Option<Duration>, SourceError> {
        let mode = self.mode;
        let is_too_small = self.room() < picture_bytes(mode);
        let Some(outlet) = self.watched.outlet() else {
            return Ok(None);
        };
        if is_too_small {
            let Some(again) = self.again else {
                return Ok(None);
            };
            let now = Instant::now();
            if now >= again && !self.watched.is_asking() {
                self.need(channel, mode)?;
            }
            return Ok(Some(AGAIN));
        }
        let demand = match outlet.demand() {
            Ok(demand) => demand,
            Err(error) => return self.lose(&error),
        };
        let fresh = match demand {
            Demand::Nobody if outlet.readers().next().is_none() => return Ok(None),
            Demand::Nobody => return Ok(Some(SELDOM)),
            Demand::NotYet => return Ok(Some(look_again(mode))),
            Demand::Wanted { fresh, .. } => fresh,
        };
        let now = Instant::now();
        let period = period(mode);
        let is_due = period.is_some() && now >= self.due;
        if fresh || is_due {
            let drawn = self.painter.paint(outlet, mode.width, mode.height);
            if let Err(error) = drawn {
                return self.lose(&error);
            }
        }
        let Some(period) = period else {
            return Ok(Some(SELDOM));
        };
        if is_due {
            // Whoever is late by more than a frame does not catch up.
            let next = self.due + period;
            self.due = if next < now { now + period } else { next };
        }
        // Drawing took its time; the first look after it is soon enough.
        Ok(Some(self.due.saturating_duration_since(now).min(SELDOM)))
    }
}

/// From one picture to the next; nothing when it stands still.
fn period(mode: Size) -> Option<Duration> {
    let nanos = 1_000_000_000_000 / u64::from(mode.refresh_millihertz.max(1));
    (mode.refresh_millihertz > STILL).then(|| Duration::from_nanos(nanos))
}

fn look_again(mode: Size) -> Duration {
    period(mode).map_or(SELDOM, |period| (period / 8).clamp(SOON, SELDOM))
}

const fn picture_bytes(mode: Size) -> u64 {
    mode.width as u64 * mode.height as u64 * 4
}

fn refuse(channel: &mut Channel, request: u64, message: String) -> Result<(), ChannelError> {
    channel.send(&FromSource::Refused { request, message }, None)
}

fn no_such_mode() -> String {
    format!(
        "the test card has sizes from {MIN_SIDE}x{MIN_SIDE} to {MAX_SIDE}x{MAX_SIDE}, and up to {} \
         frames a second",
        MAX_REFRESH / 1000
    )
}
