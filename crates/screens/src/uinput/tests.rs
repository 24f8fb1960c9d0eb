//! What users do, as it reaches the devices.

use super::*;

/// Type, code and value of events that belong together.
type Report = Vec<(u16, u16, i32)>;

/// Devices that write down what they are given.
#[derive(Default)]
struct Paper(Vec<(Which, Report)>);

impl Sink for Paper {
    fn emit(&mut self, which: Which, events: &[evdev::InputEvent]) -> io::Result<()> {
        let events = events
            .iter()
            .map(|one| (one.event_type().0, one.code(), one.value()));
        self.0.push((which, events.collect()));
        Ok(())
    }
}

fn act(hands: &mut Hands, reader: usize, events: &[InputEvent]) -> Paper {
    let mut paper = Paper::default();
    for event in events {
        let acted = hands.act(reader, *event, Instant::now(), &mut paper);
        acted.expect("paper takes everything");
    }
    paper
}

fn key_event(code: u32, pressed: bool) -> InputEvent {
    InputEvent::Key { code, pressed }
}

#[test]
fn every_pixel_of_every_width_is_hit() {
    for pixels in [1, 2, 3, 640, 1366, 1920, 3840, 16384] {
        for pixel in 0..pixels {
            let value = u64::try_from(on_axis(pixel, pixels)).expect("is positive");
            assert_eq!((value * u64::from(pixels)) >> 16, u64::from(pixel));
        }
    }
    assert_eq!(on_axis(u32::MAX, 640), on_axis(639, 640));
    assert_eq!(on_axis(7, 0), on_axis(0, 1));
    assert!(on_axis(u32::MAX, u32::MAX) <= AXIS_MAX);
}

#[test]
fn small_motions_add_up() {
    let mut hands = Hands::default();
    let slow = InputEvent::PointerBy { x: 100, y: -100 };
    let paper = act(&mut hands, 0, &[slow, slow, slow]);
    let expected = vec![(2, 0, 1), (2, 1, -1)];
    assert_eq!(paper.0, [(Which::Relative, expected)]);
    assert_eq!(hands.moved, [44, -44]);
}

#[test]
fn wheels_turn_in_notches_and_in_parts_of_them() {
    let mut hands = Hands::default();
    let down = InputEvent::Wheel {
        horizontal: 0,
        vertical: 80,
    };
    let paper = act(&mut hands, 0, &[down, down]);
    let first = vec![(2, 0x0b, -80)];
    let second = vec![(2, 0x0b, -80), (2, 0x08, -1)];
    assert_eq!(
        paper.0,
        [(Which::Absolute, first), (Which::Absolute, second)]
    );
}

#[test]
fn keys_and_buttons_go_to_their_devices_and_nonsense_nowhere() {
    let mut hands = Hands::default();
    let by = InputEvent::PointerBy { x: 256, y: 0 };
    let button = |code, pressed| InputEvent::Button { code, pressed };
    let events = [
        key_event(30, true),
        key_event(30, false),
        by,
        button(0x110, true),
        key_event(0x110, true),
        button(30, true),
        key_event(u32::MAX, true),
        key_event(31, false),
    ];
    let paper = act(&mut hands, 0, &events);
    let expected = [
        (Which::Keyboard, vec![(1, 30, 1)]),
        (Which::Keyboard, vec![(1, 30, 0)]),
        (Which::Relative, vec![(2, 0, 1)]),
        (Which::Relative, vec![(1, 0x110, 1)]),
    ];
    assert_eq!(paper.0, expected);
}

#[test]
fn what_is_held_is_let_go_when_told_or_when_its_reader_leaves() {
    let mut hands = Hands::default();
    act(&mut hands, 1, &[key_event(42, true), key_event(30, true)]);
    act(&mut hands, 2, &[key_event(42, true)]);
    let paper = act(&mut hands, 1, &[InputEvent::ReleaseAll]);
    assert_eq!(paper.0, [(Which::Keyboard, vec![(1, 30, 0)])]);
    assert_eq!(hands.repeat.due(), None);
    let mut paper = Paper::default();
    hands
        .keep_readers(&[1, 3], &mut paper)
        .expect("paper takes everything");
    assert_eq!(paper.0, [(Which::Keyboard, vec![(1, 42, 0)])]);
}

#[test]
fn extreme_motions_do_not_overflow() {
    let mut hands = Hands::default();
    for value in [i32::MIN, i32::MAX, i32::MIN] {
        let by = InputEvent::PointerBy { x: value, y: value };
        let wheel = InputEvent::Wheel {
            horizontal: value,
            vertical: value,
        };
        act(&mut hands, 0, &[by, wheel]);
    }
}
