//! Input to a guest by devices of its own making (`/dev/uinput`): an absolute pointer, a
//! relative one, and a keyboard.
//!
//! They are made when the first event arrives, and events wait [`SETTLE`] from then on, since a
//! desktop needs that long to open new devices. Key codes mean what the guest's own keymap
//! says; its locks are its own, too. It refuses codes that no keyboard or pointer has, and more
//! events in waiting than [`WAITING`].

mod devices;
mod held;
mod repeat;

use std::io;
use std::time::{Duration, Instant};

use evdev::{AbsoluteAxisCode, EventType, RelativeAxisCode};
use vmshm_link::input::InputEvent;

use self::devices::{AXIS_MAX, Devices, Sink, Which, is_button, is_key};
use self::held::Held;
use self::repeat::Repeat;

/// How long new devices are left alone.
pub const SETTLE: Duration = Duration::from_millis(300);
/// The most events that wait meanwhile; later ones are lost.
pub const WAITING: usize = 4096;

/// 120ths of a notch.
const NOTCH: i32 = 120;
/// 256ths of a pixel.
const PIXEL: i32 = 256;

/// Gives the guest what users do.
#[derive(Debug)]
pub struct Injector {
    devices: Option<Devices>,
    /// When new devices may be used, and what waits for that.
    settled: Option<Instant>,
    waiting: Vec<(usize, InputEvent)>,
    hands: Hands,
}

impl Injector {
    /// Nothing where the system has no way to make input devices.
    #[must_use]
    pub fn find() -> Option<Self> {
        Devices::can_be_made().then(|| Self {
            devices: None,
            settled: None,
            waiting: Vec::new(),
            hands: Hands::default(),
        })
    }

    /// A reader's user did this.
    ///
    /// # Errors
    /// What the system says; input is not possible then.
    pub fn take(&mut self, reader: usize, events: &[InputEvent], now: Instant) -> io::Result<()> {
        if self.devices.is_none() {
            self.devices = Some(Devices::make()?);
            self.settled = Some(now + SETTLE);
        }
        let room = WAITING.saturating_sub(self.waiting.len());
        let events = events.iter().take(room);
        self.waiting.extend(events.map(|event| (reader, *event)));
        self.turn(now)
    }

    /// Only these readers are there: what others held is let go.
    ///
    /// # Errors
    /// What the system says.
    pub fn keep_readers(&mut self, readers: &[usize]) -> io::Result<()> {
        self.waiting.retain(|(reader, _)| readers.contains(reader));
        match &mut self.devices {
            Some(devices) => self.hands.keep_readers(readers, devices),
            None => Ok(()),
        }
    }

    /// When [`turn`](Self::turn) has something to do.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let waiting = self.settled.filter(|_| !self.waiting.is_empty());
        match (waiting, self.hands.repeat.due()) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// Does what is due.
    ///
    /// # Errors
    /// What the system says.
    pub fn turn(&mut self, now: Instant) -> io::Result<()> {
        let Some(devices) = &mut self.devices else {
            return Ok(());
        };
        if self.settled.is_some_and(|settled| now < settled) {
            return Ok(());
        }
        self.settled = None;
        for (reader, event) in std::mem::take(&mut self.waiting) {
            self.hands.act(reader, event, now, devices)?;
        }
        self.hands.repeat_key(now, devices)
    }
}

/// What users hold, and what is left over of their motions.
#[derive(Debug)]
struct Hands {
    held: Held,
    repeat: Repeat,
    /// The pointer that moved last has the buttons and the wheel.
    pointer: Which,
    moved: [i32; 2],
    turned: [i32; 2],
}

impl Default for Hands {
    fn default() -> Self {
        Self {
            held: Held::default(),
            repeat: Repeat::default(),
            pointer: Which::Absolute,
            moved: [0; 2],
            turned: [0; 2],
        }
    }
}

impl Hands {
    fn act(
        &mut self,
        reader: usize,
        event: InputEvent,
        now: Instant,
        sink: &mut impl Sink,
    ) -> io::Result<()> {
        match event {
            InputEvent::PointerTo {
                x,
                y,
                width,
                height,
            } => {
                self.pointer = Which::Absolute;
                let axes = [
                    absolute(AbsoluteAxisCode::ABS_X, on_axis(x, width)),
                    absolute(AbsoluteAxisCode::ABS_Y, on_axis(y, height)),
                ];
                sink.emit(Which::Absolute, &axes)
            }
            InputEvent::PointerBy { x, y } => {
                self.pointer = Which::Relative;
                let x = whole(&mut self.moved[0], x, PIXEL);
                let y = whole(&mut self.moved[1], y, PIXEL);
                let axes = [
                    relative(RelativeAxisCode::REL_X, x),
                    relative(RelativeAxisCode::REL_Y, y),
                ];
                emit_moved(sink, Which::Relative, &axes)
            }
            InputEvent::Wheel {
                horizontal,
                vertical,
            } => {
                // The system counts a wheel's turning away from the user.
                let vertical = vertical.saturating_neg();
                let right = whole(&mut self.turned[0], horizontal, NOTCH);
                let up = whole(&mut self.turned[1], vertical, NOTCH);
                let axes = [
                    relative(RelativeAxisCode::REL_HWHEEL_HI_RES, horizontal),
                    relative(RelativeAxisCode::REL_HWHEEL, right),
                    relative(RelativeAxisCode::REL_WHEEL_HI_RES, vertical),
                    relative(RelativeAxisCode::REL_WHEEL, up),
                ];
                emit_moved(sink, self.pointer, &axes)
            }
            InputEvent::Button { code, pressed } => {
                self.press(reader, code, pressed, now, is_button, self.pointer, sink)
            }
            InputEvent::Key { code, pressed } => {
                self.press(reader, code, pressed, now, is_key, Which::Keyboard, sink)
            }
            // The guest's locks follow the lock keys that are pressed.
            InputEvent::Locks { .. } => Ok(()),
            InputEvent::ReleaseAll => self.release_all(|one| one == reader, sink),
        }
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "one press has so many sides, and this is its only home"
    )]
    fn press(
        &mut self,
        reader: usize,
        code: u32,
        pressed: bool,
        now: Instant,
        known: impl Fn(u16) -> bool,
        which: Which,
        sink: &mut impl Sink,
    ) -> io::Result<()> {
        let Some(code) = u16::try_from(code).ok().filter(|code| known(*code)) else {
            return Ok(());
        };
        let goes = if pressed {
            self.held.press(reader, code, which)
        } else {
            self.held.release(reader, code)
        };
        let Some(which) = goes else {
            return Ok(());
        };
        if which == Which::Keyboard {
            if pressed {
                self.repeat.pressed(code, now);
            } else {
                self.repeat.released(code);
            }
        }
        sink.emit(which, &[key(code, i32::from(pressed))])
    }

    fn keep_readers(&mut self, readers: &[usize], sink: &mut impl Sink) -> io::Result<()> {
        self.release_all(|reader| !readers.contains(&reader), sink)
    }

    fn release_all(
        &mut self,
        gone: impl Fn(usize) -> bool,
        sink: &mut impl Sink,
    ) -> io::Result<()> {
        for (which, code) in self.held.release_all(gone) {
            if which == Which::Keyboard {
                self.repeat.released(code);
            }
            sink.emit(which, &[key(code, 0)])?;
        }
        Ok(())
    }

    fn repeat_key(&mut self, now: Instant, sink: &mut impl Sink) -> io::Result<()> {
        match self.repeat.turn(now) {
            Some(code) => sink.emit(Which::Keyboard, &[key(code, 2)]),
            None => Ok(()),
        }
    }
}

/// Where on an axis the middle of a pixel lies. A pixel beyond the picture is its last.
fn on_axis(pixel: u32, pixels: u32) -> i32 {
    let pixels = u64::from(pixels.max(1));
    let pixel = u64::from(pixel).min(pixels - 1);
    let steps = u64::try_from(AXIS_MAX).unwrap_or(0) + 1;
    let value = (2 * pixel + 1) * steps / (2 * pixels);
    i32::try_from(value).unwrap_or(AXIS_MAX).min(AXIS_MAX)
}

/// How many whole units a motion comes to; the rest is kept for the next one.
fn whole(rest: &mut i32, by: i32, unit: i32) -> i32 {
    let sum = rest.saturating_add(by);
    *rest = sum % unit;
    sum / unit
}

/// Gives what is not zero, if anything.
fn emit_moved(sink: &mut impl Sink, which: Which, axes: &[evdev::InputEvent]) -> io::Result<()> {
    let moved = axes.iter().filter(|event| event.value() != 0);
    let moved: Vec<_> = moved.copied().collect();
    if moved.is_empty() {
        return Ok(());
    }
    sink.emit(which, &moved)
}

fn absolute(axis: AbsoluteAxisCode, value: i32) -> evdev::InputEvent {
    evdev::InputEvent::new(EventType::ABSOLUTE.0, axis.0, value)
}

fn relative(axis: RelativeAxisCode, value: i32) -> evdev::InputEvent {
    evdev::InputEvent::new(EventType::RELATIVE.0, axis.0, value)
}

/// 1: down, 0: up, 2: still down.
fn key(code: u16, value: i32) -> evdev::InputEvent {
    evdev::InputEvent::new(EventType::KEY.0, code, value)
}

#[cfg(test)]
mod tests;
