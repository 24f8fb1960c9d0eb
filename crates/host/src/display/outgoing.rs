//! What a user did, on its way to the guest: in order, and never waiting. Where the guest
//! takes it in too slowly, motion is thinned out first; when even that does not help,
//! everything is let go, so that no key stays held for ever.

use std::collections::VecDeque;

use vmshm_link::control::Request;
use vmshm_link::input::InputEvent;
use vmshm_link::screens::{
    EVENTS_PER_REQUEST, Events, KEYMAP_PART, KeymapPart, MAX_KEYMAP, ScreenRequest,
};

use crate::ending::SessionEnd;
use crate::session::Session;

/// The most events that wait.
const MOST: usize = 4096;

/// What waits for room in the ring.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// The keymap's bytes, and how many of them are sent. It goes before events.
    keymap: Option<(Vec<u8>, usize)>,
    events: VecDeque<InputEvent>,
}

impl Outgoing {
    /// Takes an event.
    pub(super) fn push(&mut self, event: InputEvent) {
        if self.events.len() >= MOST {
            self.events.retain(|event| !is_motion(event));
            if self.events.len() >= MOST {
                self.events.clear();
                self.events.push_back(InputEvent::ReleaseAll);
            }
        }
        // What is waiting already need not tell every step of the way.
        match (self.events.back_mut(), event) {
            (Some(last @ InputEvent::PointerTo { .. }), InputEvent::PointerTo { .. }) => {
                *last = event;
            }
            (
                Some(InputEvent::PointerBy { x, y }),
                InputEvent::PointerBy {
                    x: more_x,
                    y: more_y,
                },
            ) => {
                *x = x.saturating_add(more_x);
                *y = y.saturating_add(more_y);
            }
            _ => self.events.push_back(event),
        }
    }

    /// Takes a keymap; whether it can be told at all.
    pub(super) fn set_keymap(&mut self, text: &str) -> bool {
        let fits = text.len() as u64 <= MAX_KEYMAP && !text.is_empty();
        self.keymap = fits.then(|| (text.as_bytes().to_vec(), 0));
        fits
    }

    /// Forgets all that waits.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.keymap.is_none() && self.events.is_empty()
    }

    /// Sends as much as the guest takes now.
    pub(super) fn send(&mut self, session: &mut Session, screen: u64) -> Result<(), SessionEnd> {
        while let Some((bytes, sent)) = &mut self.keymap {
            let rest = bytes.get(*sent..).unwrap_or_default();
            let part = rest.get(..KEYMAP_PART.min(rest.len())).unwrap_or_default();
            let request = ScreenRequest::Keymap {
                screen,
                total: bytes.len() as u64,
                offset: *sent as u64,
                part: KeymapPart::new(part),
            };
            let Some(question) = session.ask(&Request::Screen(request))? else {
                return Ok(());
            };
            // Without the keymap the guest uses its own; nobody waits for that.
            session.give_up(question);
            *sent += part.len();
            if *sent >= bytes.len() {
                self.keymap = None;
            }
        }
        while !self.events.is_empty() {
            let next: Vec<InputEvent> = self.next().collect();
            let events = Events::new(&next);
            let request = Request::Screen(ScreenRequest::Input { screen, events });
            if !session.tell(&request)? {
                return Ok(());
            }
            self.events.drain(..next.len());
        }
        Ok(())
    }

    fn next(&self) -> impl Iterator<Item = InputEvent> + '_ {
        self.events.iter().take(EVENTS_PER_REQUEST).copied()
    }
}

const fn is_motion(event: &InputEvent) -> bool {
    matches!(
        event,
        InputEvent::PointerTo { .. } | InputEvent::PointerBy { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn to(x: u32) -> InputEvent {
        InputEvent::PointerTo {
            x,
            y: 0,
            width: 100,
            height: 100,
        }
    }

    const fn key(code: u32, pressed: bool) -> InputEvent {
        InputEvent::Key { code, pressed }
    }

    #[test]
    fn motion_that_waits_is_joined_and_never_overtakes_a_key() {
        let mut outgoing = Outgoing::default();
        for event in [to(1), to(2), key(30, true), to(3), to(4), key(30, false)] {
            outgoing.push(event);
        }
        for _ in 0..3 {
            outgoing.push(InputEvent::PointerBy { x: 5, y: -1 });
        }
        let all: Vec<_> = outgoing.next().collect();
        let by = InputEvent::PointerBy { x: 15, y: -3 };
        assert_eq!(all, [to(2), key(30, true), to(4), key(30, false), by]);
    }

    #[test]
    fn a_guest_that_takes_nothing_in_loses_motion_first_and_then_lets_all_go() {
        let mut outgoing = Outgoing::default();
        for index in 0..MOST {
            let code = u32::try_from(index).expect("small");
            outgoing.push(if index % 2 == 0 {
                to(code)
            } else {
                key(code, true)
            });
        }
        outgoing.push(key(1, false));
        assert_eq!(outgoing.events.len(), MOST / 2 + 1);
        assert!(!outgoing.events.iter().any(is_motion));
        for _ in 0..MOST {
            outgoing.push(key(2, true));
        }
        assert_eq!(outgoing.events.front(), Some(&InputEvent::ReleaseAll));
        assert!(outgoing.events.len() <= MOST);
    }

    #[test]
    fn a_keymap_that_is_too_long_is_refused() {
        let mut outgoing = Outgoing::default();
        assert!(outgoing.set_keymap("xkb_keymap {}"));
        assert!(!outgoing.is_empty());
        let long = usize::try_from(MAX_KEYMAP).expect("small") + 1;
        assert!(!outgoing.set_keymap(&"x".repeat(long)));
        assert!(outgoing.is_empty());
    }
}
