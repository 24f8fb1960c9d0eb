//! A screen's pointer: absolute and relative motion, wheel and buttons of all its readers.
//!
//! Made at the first event. Events then wait for [`WARM_UP`]: programs of the desktop learn only
//! now that there is a pointer, and would miss a click that came at once.

use std::time::{Duration, Instant};

use vmshm_link::frames::MAX_SIDE;
use vmshm_link::input::InputEvent;
use wayland_client::protocol::wl_pointer::{Axis, AxisSource, ButtonState};
use wayland_protocols_wlr::virtual_pointer::v1::client::zwlr_virtual_pointer_v1::ZwlrVirtualPointerV1;

use super::held::{Held, Who};

/// How long programs have to learn of a new pointer or keyboard.
pub const WARM_UP: Duration = Duration::from_millis(150);
/// Events that wait meanwhile.
const LIMIT: usize = 1024;
/// Buttons of mice: `BTN_MOUSE` and what follows.
const BUTTONS: std::ops::Range<u32> = 0x110..0x120;
/// 120ths of a notch in a notch.
const NOTCH: i32 = 120;
/// What compositors make of a notch, in their coordinates.
const NOTCH_LENGTH: f64 = 15.0;

/// A pointer.
#[derive(Debug)]
pub struct Pointer {
    proxy: ZwlrVirtualPointerV1,
    held: Held,
    made: Instant,
    pending: Vec<(Who, InputEvent)>,
}

/// Where a pixel's middle is, in halves of pixels of a picture, and the picture's size in them.
fn middle(at: u32, size: u32) -> Option<(u32, u32)> {
    let size = Some(size).filter(|size| (1..=MAX_SIDE).contains(size))?;
    Some((2 * at.min(size - 1) + 1, 2 * size))
}

impl Pointer {
    /// Takes a new pointer.
    pub fn new(proxy: ZwlrVirtualPointerV1) -> Self {
        Self {
            proxy,
            held: Held::default(),
            made: Instant::now(),
            pending: Vec::new(),
        }
    }

    /// Passes an event on, or keeps it a little.
    pub fn take(&mut self, who: Who, event: InputEvent) {
        if self.pending.is_empty() && self.made.elapsed() >= WARM_UP {
            self.pass(who, event);
        } else if self.pending.len() < LIMIT {
            self.pending.push((who, event));
        }
    }

    /// Passes on what was kept long enough. When to look again, if anything is left.
    pub fn step(&mut self) -> Option<Duration> {
        if self.pending.is_empty() {
            return None;
        }
        let left = WARM_UP.saturating_sub(self.made.elapsed());
        if !left.is_zero() {
            return Some(left);
        }
        for (who, event) in std::mem::take(&mut self.pending) {
            self.pass(who, event);
        }
        None
    }

    fn pass(&mut self, who: Who, event: InputEvent) {
        let time = self.time();
        match event {
            InputEvent::PointerTo {
                x,
                y,
                width,
                height,
            } => {
                let Some(((x, width), (y, height))) = middle(x, width).zip(middle(y, height))
                else {
                    return;
                };
                self.proxy.motion_absolute(time, x, y, width, height);
            }
            InputEvent::PointerBy { x, y } => {
                let pixels = |part: i32| f64::from(part) / 256.0;
                self.proxy.motion(time, pixels(x), pixels(y));
            }
            InputEvent::Wheel {
                horizontal,
                vertical,
            } => {
                self.turn(Axis::HorizontalScroll, horizontal);
                self.turn(Axis::VerticalScroll, vertical);
            }
            InputEvent::Button { code, pressed } if BUTTONS.contains(&code) => {
                let changes = if pressed {
                    self.held.press(who, code)
                } else {
                    self.held.release(who, code)
                };
                if !changes {
                    return;
                }
                self.button(code, pressed);
            }
            InputEvent::ReleaseAll => self.release(|one| one == who),
            _ => return,
        }
        self.proxy.frame();
    }

    fn turn(&self, axis: Axis, by: i32) {
        // Far more than any hand turns at once.
        let by = by.clamp(-100 * NOTCH, 100 * NOTCH);
        if by == 0 {
            return;
        }
        let length = f64::from(by) / f64::from(NOTCH) * NOTCH_LENGTH;
        let time = self.time();
        if by % NOTCH == 0 {
            self.proxy.axis_source(AxisSource::Wheel);
            self.proxy.axis_discrete(time, axis, length, by / NOTCH);
        } else {
            // Parts of notches are smooth scrolling.
            self.proxy.axis_source(AxisSource::Continuous);
            self.proxy.axis(time, axis, length);
        }
    }

    /// Those whom `goes` names let go of their buttons.
    pub fn release(&mut self, goes: impl Fn(Who) -> bool) {
        self.pending.retain(|(who, _)| !goes(*who));
        for code in self.held.release_all(goes) {
            self.button(code, false);
            self.proxy.frame();
        }
    }

    fn button(&self, code: u32, pressed: bool) {
        let state = if pressed {
            ButtonState::Pressed
        } else {
            ButtonState::Released
        };
        self.proxy.button(self.time(), code, state);
    }

    fn time(&self) -> u32 {
        milliseconds(self.made)
    }
}

/// Since then, as events carry it; it may wrap around.
#[allow(clippy::cast_possible_truncation, reason = "event times wrap around")]
pub fn milliseconds(since: Instant) -> u32 {
    since.elapsed().as_millis() as u32
}

impl Drop for Pointer {
    fn drop(&mut self) {
        self.release(|_| true);
        self.proxy.destroy();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pixel_is_hit_in_its_middle() {
        for size in [1, 2, 3, 640, 1920, MAX_SIDE] {
            for at in [0, 1, size / 2, size - 1] {
                let (x, extent) = middle(at, size).expect("is a picture");
                let hit = u64::from(x) * u64::from(size) / u64::from(extent);
                assert_eq!(hit, u64::from(at.min(size - 1)), "{at} of {size}");
            }
        }
    }

    #[test]
    fn what_is_outside_hits_the_border_and_no_picture_is_not_hit() {
        assert_eq!(middle(u32::MAX, 100), Some((199, 200)));
        assert_eq!(middle(5, 0), None);
        assert_eq!(middle(5, u32::MAX), None);
    }
}
