//! Made-up messages about screens: all requests, events and replies that there are.

use proptest::collection::vec;
use proptest::prelude::*;
use vmshm_link::fields::Text;
use vmshm_link::frames::{MAX_REFRESH, MAX_SIDE, Mode};
use vmshm_link::input::InputEvent;
use vmshm_link::screens::{
    Abilities, EVENTS_PER_REQUEST, Events, KEYMAP_PART, KeymapPart, MODES_PER_REPLY, ModeList,
    ScreenReply, ScreenRequest,
};

/// Modes that a screen may have.
pub fn mode() -> impl Strategy<Value = Mode> {
    (1..=MAX_SIDE, 1..=MAX_SIDE, 0..=MAX_REFRESH).prop_map(|(width, height, refresh_millihertz)| {
        Mode {
            width,
            height,
            refresh_millihertz,
        }
    })
}

/// Whatever a user can do.
pub fn input_event() -> impl Strategy<Value = InputEvent> {
    let number = any::<u32>;
    prop_oneof![
        any::<[u32; 4]>().prop_map(|[x, y, width, height]| InputEvent::PointerTo {
            x,
            y,
            width,
            height
        }),
        any::<[i32; 2]>().prop_map(|[x, y]| InputEvent::PointerBy { x, y }),
        any::<[i32; 2]>().prop_map(|[horizontal, vertical]| InputEvent::Wheel {
            horizontal,
            vertical
        }),
        (number(), any::<bool>()).prop_map(|(code, pressed)| InputEvent::Button { code, pressed }),
        (number(), any::<bool>()).prop_map(|(code, pressed)| InputEvent::Key { code, pressed }),
        (number(), number()).prop_map(|(locks, group)| InputEvent::Locks { locks, group }),
        Just(InputEvent::ReleaseAll),
    ]
}

/// All requests, also with more events and bytes than one carries.
pub fn screen_request() -> impl Strategy<Value = ScreenRequest> {
    let word = any::<u64>;
    let part = vec(any::<u8>(), 0..KEYMAP_PART + 9);
    prop_oneof![
        word().prop_map(|number| ScreenRequest::Describe { number }),
        mode().prop_map(|mode| ScreenRequest::Add { mode }),
        word().prop_map(|screen| ScreenRequest::Watch { screen }),
        word().prop_map(|region| ScreenRequest::Pixels { region }),
        (word(), mode()).prop_map(|(screen, mode)| ScreenRequest::SetMode { screen, mode }),
        (word(), word()).prop_map(|(screen, first)| ScreenRequest::Modes { screen, first }),
        (word(), vec(input_event(), 0..EVENTS_PER_REQUEST + 3)).prop_map(|(screen, events)| {
            ScreenRequest::Input {
                screen,
                events: Events::new(&events),
            }
        }),
        (any::<[u64; 3]>(), part).prop_map(|([screen, total, offset], part)| {
            ScreenRequest::Keymap {
                screen,
                total,
                offset,
                part: KeymapPart::new(&part),
            }
        }),
        word().prop_map(|screen| ScreenRequest::Leave { screen }),
    ]
}

fn abilities() -> impl Strategy<Value = Abilities> {
    any::<[bool; 5]>().prop_map(
        |[input, input_forbidden, set_mode, added, may_tear]| Abilities {
            input,
            input_forbidden,
            set_mode,
            added,
            may_tear,
        },
    )
}

/// Descriptions of screens.
pub fn screen_reply() -> impl Strategy<Value = ScreenReply> {
    (
        any::<[u64; 3]>(),
        mode(),
        abilities(),
        [".{0,80}", ".{0,80}"],
    )
        .prop_map(
            |([screen, total, scale], mode, abilities, [name, source])| ScreenReply {
                screen,
                total,
                mode,
                scale_thousandths: scale,
                abilities,
                name: Text::new(&name),
                source: Text::new(&source),
            },
        )
}

/// Lists of modes, also of more than one reply carries.
pub fn mode_list() -> impl Strategy<Value = ModeList> {
    (
        any::<u64>(),
        any::<bool>(),
        vec(mode(), 0..MODES_PER_REPLY + 3),
    )
        .prop_map(|(total, any_size, modes)| ModeList::new(total, any_size, &modes))
}
