//! Input on its way to a source process. Where the process does not keep up, motion is
//! forgotten first: the next one says where the pointer is. If even the rest is too much,
//! everything is let go, so that no key stays down.

use std::collections::VecDeque;

use vmshm_channel::source::ToSource;
use vmshm_link::input::InputEvent;

/// The most events that wait.
const MAX_EVENTS: usize = 1024;
/// The most events in one message.
const EVENTS_PER_MESSAGE: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waiting {
    screen: u64,
    reader: usize,
    event: InputEvent,
}

impl Waiting {
    const fn is_motion(&self) -> bool {
        matches!(
            self.event,
            InputEvent::PointerTo { .. } | InputEvent::PointerBy { .. }
        )
    }
}

/// Events that a source has not been sent yet.
#[derive(Debug, Default)]
pub(super) struct InputQueue {
    events: VecDeque<Waiting>,
}

impl InputQueue {
    /// Adds events of a reader at a screen, by its number within the source.
    pub(super) fn push(&mut self, screen: u64, reader: usize, events: &[InputEvent]) {
        for event in events {
            let new = Waiting {
                screen,
                reader,
                event: *event,
            };
            // Where the pointer was a moment ago is of no interest.
            let replaces = matches!(event, InputEvent::PointerTo { .. })
                && self.events.back().is_some_and(|last| {
                    matches!(last.event, InputEvent::PointerTo { .. })
                        && (last.screen, last.reader) == (screen, reader)
                });
            if replaces {
                self.events.pop_back();
            }
            self.events.push_back(new);
            if self.events.len() > MAX_EVENTS {
                self.make_room(screen, reader);
            }
        }
    }

    fn make_room(&mut self, screen: u64, reader: usize) {
        self.events.retain(|waiting| !waiting.is_motion());
        if self.events.len() > MAX_EVENTS {
            self.events
                .retain(|waiting| (waiting.screen, waiting.reader) != (screen, reader));
            let event = InputEvent::ReleaseAll;
            self.events.push_front(Waiting {
                screen,
                reader,
                event,
            });
        }
    }

    /// The next message, of events of one reader in their order.
    pub(super) fn pop(&mut self) -> Option<ToSource> {
        let Waiting { screen, reader, .. } = *self.events.front()?;
        let mut events = Vec::new();
        while events.len() < EVENTS_PER_MESSAGE
            && let Some(next) = self.events.front()
            && (next.screen, next.reader) == (screen, reader)
        {
            events.push(next.event.to_words());
            self.events.pop_front();
        }
        Some(ToSource::Input {
            screen,
            reader,
            events,
        })
    }

    pub(super) fn clear(&mut self) {
        self.events.clear();
    }
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

    fn drain(queue: &mut InputQueue) -> Vec<(u64, usize, Vec<InputEvent>)> {
        std::iter::from_fn(|| queue.pop())
            .map(|message| match message {
                ToSource::Input {
                    screen,
                    reader,
                    events,
                } => {
                    let events = events.into_iter().filter_map(InputEvent::from_words);
                    (screen, reader, events.collect())
                }
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn events_stay_in_order_and_motion_is_joined() {
        let mut queue = InputQueue::default();
        queue.push(1, 0, &[to(1), to(2), key(30, true), to(3), to(4)]);
        queue.push(1, 2, &[key(30, false)]);
        queue.push(1, 0, &[to(5)]);
        let expected = vec![
            (1, 0, vec![to(2), key(30, true), to(4)]),
            (1, 2, vec![key(30, false)]),
            (1, 0, vec![to(5)]),
        ];
        assert_eq!(drain(&mut queue), expected);
    }

    #[test]
    fn a_flood_costs_motion_first_and_leaves_no_key_down() {
        let mut queue = InputQueue::default();
        for x in 0..100_000 {
            queue.push(1, 0, &[to(x), InputEvent::PointerBy { x: 1, y: 1 }]);
        }
        queue.push(1, 0, &[key(30, true), key(30, false)]);
        assert!(queue.events.len() <= MAX_EVENTS);
        queue.push(2, 1, &[key(42, true)]);
        for _ in 0..100_000 {
            queue.push(1, 0, &[key(30, true), key(30, false)]);
            assert!(queue.events.len() <= MAX_EVENTS + 1);
        }
        let messages = drain(&mut queue);
        let first = messages.iter().find(|(_, reader, _)| *reader == 0);
        let first = first.expect("a message of reader 0");
        assert_eq!(first.2[0], InputEvent::ReleaseAll);
        assert!(messages.contains(&(2, 1, vec![key(42, true)])));
    }
}
