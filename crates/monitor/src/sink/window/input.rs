//! What the user does in the window, as events for the guest.
//!
//! Positions are mapped by the [`Layout`]; keys keep the codes of the host's keyboard. The
//! guest repeats keys, so repetitions are left out.

use std::collections::BTreeSet;

use vmshm_link::input::InputEvent;
use winit::event::{ElementState, KeyEvent, MouseButton, MouseScrollDelta};

use super::layout::Layout;
use crate::os::key_code;

const BTN_LEFT: u32 = 0x110;
const BTN_RIGHT: u32 = 0x111;
const BTN_MIDDLE: u32 = 0x112;
const BTN_SIDE: u32 = 0x113;
const BTN_EXTRA: u32 = 0x114;

/// A turn of the wheel by one notch.
const NOTCH: f64 = 120.0;
/// Pixels that stand for one notch, as libinput has it.
const PIXELS_OF_NOTCH: f64 = 15.0;

/// Key codes that lock something: Caps Lock, Num Lock, Scroll Lock.
const LOCKS: [u32; 3] = [58, 69, 70];

/// Events that were not sent yet.
#[derive(Debug, Default)]
pub struct Events {
    waiting: Vec<InputEvent>,
    held: BTreeSet<u32>,
    /// Parts of a 120th that the wheel has turned.
    wheel: (f64, f64),
}

impl Events {
    /// The pointer is at a place in the window.
    pub fn pointer(&mut self, layout: &Layout, x: f64, y: f64) {
        let (x, y) = layout.picture_pixel(x, y);
        let event = InputEvent::PointerTo {
            x,
            y,
            width: layout.picture.0,
            height: layout.picture.1,
        };
        match self.waiting.last_mut() {
            // Only where it comes to rest counts.
            Some(last @ InputEvent::PointerTo { .. }) => *last = event,
            _ => self.waiting.push(event),
        }
    }

    /// A button.
    pub fn button(&mut self, button: MouseButton, state: ElementState) {
        let code = match button {
            MouseButton::Left => BTN_LEFT,
            MouseButton::Right => BTN_RIGHT,
            MouseButton::Middle => BTN_MIDDLE,
            MouseButton::Back => BTN_SIDE,
            MouseButton::Forward => BTN_EXTRA,
            MouseButton::Other(_) => return,
        };
        let pressed = state.is_pressed();
        if self.note(code, pressed) {
            self.waiting.push(InputEvent::Button { code, pressed });
        }
    }

    /// The wheel.
    pub fn wheel(&mut self, delta: MouseScrollDelta) {
        // Positive: the content moves right and down, so the wheel turns left and up.
        let (right, down) = match delta {
            MouseScrollDelta::LineDelta(x, y) => (-f64::from(x) * NOTCH, -f64::from(y) * NOTCH),
            MouseScrollDelta::PixelDelta(pixels) => (
                -pixels.x * NOTCH / PIXELS_OF_NOTCH,
                -pixels.y * NOTCH / PIXELS_OF_NOTCH,
            ),
        };
        let horizontal = whole_part(&mut self.wheel.0, right);
        let vertical = whole_part(&mut self.wheel.1, down);
        if (horizontal, vertical) != (0, 0) {
            self.waiting.push(InputEvent::Wheel {
                horizontal,
                vertical,
            });
        }
    }

    /// A key; whether it locks something.
    pub fn key(&mut self, event: &KeyEvent) -> bool {
        match key_code(event.physical_key) {
            Some(code) if !event.repeat => self.key_code(code, event.state.is_pressed()),
            _ => false,
        }
    }

    fn key_code(&mut self, code: u32, pressed: bool) -> bool {
        if !self.note(code, pressed) {
            return false;
        }
        self.waiting.push(InputEvent::Key { code, pressed });
        LOCKS.contains(&code)
    }

    /// Which locks are on, and the layout.
    pub fn locks(&mut self, (locks, group): (u32, u32)) {
        self.waiting.push(InputEvent::Locks { locks, group });
    }

    /// The focus is lost: whatever is held is let go.
    pub fn release_all(&mut self) {
        self.held.clear();
        self.wheel = (0.0, 0.0);
        self.waiting.push(InputEvent::ReleaseAll);
    }

    /// What is to be sent, as the channel carries it.
    pub fn take(&mut self) -> Vec<[u64; 3]> {
        let events = self.waiting.drain(..);
        events.map(InputEvent::to_words).collect()
    }

    /// Notes what is held. False when nothing has changed: a release of what was let go with
    /// the focus, or a press of what is down.
    fn note(&mut self, code: u32, pressed: bool) -> bool {
        if pressed {
            self.held.insert(code)
        } else {
            self.held.remove(&code)
        }
    }
}

/// Adds to a sum and takes its whole part.
#[allow(clippy::cast_possible_truncation, reason = "clamped to 32 bits before")]
fn whole_part(sum: &mut f64, more: f64) -> i32 {
    *sum += if more.is_finite() { more } else { 0.0 };
    let whole = sum.trunc().clamp(f64::from(i32::MIN), f64::from(i32::MAX));
    *sum = (*sum - whole).clamp(-1.0, 1.0);
    whole as i32
}

#[cfg(test)]
mod tests {
    use vmshm_channel::sink::Scaling;
    use winit::dpi::PhysicalPosition;

    use super::*;

    fn taken(events: &mut Events) -> Vec<InputEvent> {
        let words = events.take().into_iter();
        words
            .map(|words| InputEvent::from_words(words).expect("known"))
            .collect()
    }

    #[test]
    fn only_the_last_of_several_positions_is_sent_but_clicks_stay_in_place() {
        let layout = Layout::fit((100, 100), (100, 100), Scaling::Integer);
        let mut events = Events::default();
        let at = |x, y| InputEvent::PointerTo {
            x,
            y,
            width: 100,
            height: 100,
        };
        events.pointer(&layout, 1.0, 1.0);
        events.pointer(&layout, 2.0, 2.9);
        events.button(MouseButton::Left, ElementState::Pressed);
        events.pointer(&layout, 3.0, 3.0);
        let button = InputEvent::Button {
            code: BTN_LEFT,
            pressed: true,
        };
        assert_eq!(taken(&mut events), [at(2, 2), button, at(3, 3)]);
        assert!(taken(&mut events).is_empty());
    }

    #[test]
    fn wheels_turn_in_whole_parts_and_lose_nothing() {
        let mut events = Events::default();
        events.wheel(MouseScrollDelta::LineDelta(0.0, -1.0));
        for _ in 0..15 {
            events.wheel(MouseScrollDelta::PixelDelta(PhysicalPosition::new(
                1.0, 0.0,
            )));
        }
        let (mut right, mut down) = (0, 0);
        for event in taken(&mut events) {
            if let InputEvent::Wheel {
                horizontal,
                vertical,
            } = event
            {
                right += horizontal;
                down += vertical;
            }
        }
        assert_eq!((right, down), (-120, 120));
        events.wheel(MouseScrollDelta::PixelDelta(PhysicalPosition::new(
            f64::NAN,
            f64::INFINITY,
        )));
        assert!(taken(&mut events).is_empty());
    }

    #[test]
    fn what_the_focus_let_go_is_not_let_go_twice() {
        let mut events = Events::default();
        assert!(!events.key_code(30, true));
        assert!(!events.key_code(30, true));
        events.release_all();
        assert!(!events.key_code(30, false));
        assert!(events.key_code(58, true));
        assert_eq!(
            taken(&mut events),
            [
                InputEvent::Key {
                    code: 30,
                    pressed: true
                },
                InputEvent::ReleaseAll,
                InputEvent::Key {
                    code: 58,
                    pressed: true
                },
            ]
        );
    }
}
