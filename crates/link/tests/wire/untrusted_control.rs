//! Control messages as any bytes at all, and as written by a right peer.

use proptest::collection::vec;
use proptest::prelude::*;
use vmshm_link::address::{Extent, GuestPhysical};
use vmshm_link::beacon::PAGE;
use vmshm_link::control::{
    EXTENTS_PER_REPLY, EndCause, ExtentsReply, MAX_EXPLANATION, MAX_MESSAGE, RefusalCode,
    RegionReply, Reply, Request, Role,
};
use vmshm_link::directory::{MAX_NAME, RegionKind, is_valid_size};
use vmshm_link::fields::{Text, put_word};
use vmshm_link::frames::Mode;
use vmshm_link::screens::{EVENTS_PER_REQUEST, KEYMAP_PART, MODES_PER_REPLY, ScreenRequest};

use crate::material::nasty_word;
use crate::material::screens::{mode_list, screen_reply, screen_request};

fn text<const N: usize>() -> impl Strategy<Value = Text<N>> {
    ".{0,300}".prop_map(|text| Text::new(&text))
}

fn request() -> impl Strategy<Value = Request> {
    let kind = || any::<u64>().prop_map(|word| RegionKind::from_word(word % 10));
    let word = any::<u64>;
    prop_oneof![
        (kind(), word(), text::<MAX_NAME>()).prop_map(|(kind, size, name)| Request::Create {
            kind,
            size,
            name
        }),
        (kind(), word(), text::<MAX_NAME>()).prop_map(|(kind, size, name)| Request::Open {
            kind,
            size,
            name
        }),
        (word(), word()).prop_map(|(region, first)| Request::Extents { region, first }),
        (word(), word()).prop_map(|(region, placement)| Request::Proved { region, placement }),
        word().prop_map(|region| Request::Close { region }),
        text::<MAX_NAME>().prop_map(|name| Request::Remove { name }),
        (word(), word()).prop_map(|(region, mode)| Request::Bench { region, mode }),
        (
            kind(),
            word(),
            text::<MAX_NAME>(),
            word(),
            prop_oneof![Just(Role::End), Just(Role::Watch)]
        )
            .prop_map(|(kind, size, name, record, role)| Request::Link {
                kind,
                size,
                name,
                record,
                role
            }),
        word().prop_map(|region| Request::Bell { region }),
        screen_request().prop_map(Request::Screen),
    ]
}

fn extent() -> impl Strategy<Value = Extent> {
    (0_u64..1 << 48, 1_u64..1 << 34).prop_map(|(page, pages)| Extent {
        start: GuestPhysical(page * PAGE),
        length: pages * PAGE,
    })
}

fn reply() -> impl Strategy<Value = Reply> {
    let word = any::<u64>;
    let region = (
        1_u64..,
        1_u64..1 << 34,
        word(),
        any::<bool>(),
        word(),
        word(),
    )
        .prop_map(|(region, pages, extents, ready, key, placement)| {
            Reply::Region(RegionReply {
                region,
                size: pages * PAGE,
                extents: 1 + extents % pages,
                ready,
                key,
                placement,
            })
        });
    let code = (1_u64..15).prop_filter_map("a code that has a name", |word| {
        let known = [
            RefusalCode::Exists,
            RefusalCode::NotFound,
            RefusalCode::OverBudget,
            RefusalCode::Invalid,
            RefusalCode::WrongKind,
            RefusalCode::Busy,
            RefusalCode::CannotPin,
            RefusalCode::Unsupported,
            RefusalCode::Denied,
            RefusalCode::Proving,
            RefusalCode::Unable,
            RefusalCode::Forbidden,
        ];
        let index = usize::try_from(word - 1).ok()?;
        Some(*known.get(index).unwrap_or(&RefusalCode::Other(word)))
    });
    prop_oneof![
        region,
        (word(), vec(extent(), 1..40))
            .prop_map(|(first, extents)| Reply::Extents(ExtentsReply::new(first, &extents))),
        Just(Reply::Done),
        (code, text::<MAX_EXPLANATION>())
            .prop_map(|(code, explanation)| Reply::Refused { code, explanation }),
        (word(), word(), text::<MAX_EXPLANATION>()).prop_map(|(region, cause, explanation)| {
            Reply::Ended {
                region,
                cause: EndCause::from_word(cause % 4),
                explanation,
            }
        }),
        word().prop_map(|region| Reply::Bell { region }),
        screen_reply().prop_map(Reply::Screen),
        mode_list().prop_map(Reply::Modes),
    ]
}

fn any_payload() -> impl Strategy<Value = Vec<u8>> {
    let words = vec(nasty_word(), 0..70)
        .prop_map(|words| words.iter().flat_map(|word| word.to_le_bytes()).collect());
    prop_oneof![vec(any::<u8>(), 0..600), words]
}

proptest! {
    #[test]
    fn a_request_reads_back_as_written(request in request(), tag in any::<u64>()) {
        let message = request.to_message(tag);
        prop_assert!(message.payload().len() <= MAX_MESSAGE);
        let found = Request::from_payload(message.kind, message.payload());
        prop_assert_eq!(found, (tag, Some(request)));
    }

    #[test]
    fn a_reply_reads_back_as_written(reply in reply(), tag in any::<u64>()) {
        let message = reply.to_message(tag);
        prop_assert!(message.payload().len() <= MAX_MESSAGE);
        let found = Reply::from_payload(message.kind, message.payload());
        prop_assert_eq!(found, Ok((tag, reply)));
    }

    #[test]
    fn a_newer_minor_version_may_append_fields(
        request in request(), reply in reply(), more in vec(any::<u8>(), 0..30),
    ) {
        let message = request.to_message(1);
        let longer = [message.payload(), &more].concat();
        prop_assert_eq!(Request::from_payload(message.kind, &longer), (1, Some(request)));
        let message = reply.to_message(2);
        let longer = [message.payload(), &more].concat();
        prop_assert_eq!(Reply::from_payload(message.kind, &longer), Ok((2, reply)));
    }

    #[test]
    fn any_bytes_are_judged_as_a_request_without_harm(
        kind in 0_u16..30,
        payload in any_payload(),
        right in request(),
        forged in vec((0_usize..12, nasty_word()), 0..4),
    ) {
        check_request(kind, &payload)?;
        let message = right.to_message(1);
        let mut payload = message.payload().to_vec();
        for (index, word) in forged {
            put_word(&mut payload, 8 * index, word);
        }
        check_request(message.kind, &payload)?;
    }

    #[test]
    fn any_bytes_are_judged_as_a_reply_without_harm(
        kind in 0_u16..12,
        payload in any_payload(),
        right in reply(),
        forged in vec((0_usize..8, nasty_word()), 0..4),
    ) {
        check_reply(kind, &payload)?;
        let message = right.to_message(1);
        let mut payload = message.payload().to_vec();
        for (index, word) in forged {
            put_word(&mut payload, 8 * index, word);
        }
        check_reply(message.kind, &payload)?;
    }
}

/// Numbers of requests whose content may be impossible: `Add`, `SetMode`, `Keymap`.
const DEMANDING: [u16; 3] = [17, 20, 23];

/// Known numbers are read unless their content is impossible, and said again in the same words.
fn check_request(kind: u16, payload: &[u8]) -> Result<(), TestCaseError> {
    let (tag, request) = Request::from_payload(kind, payload);
    let is_known = (1..=9).contains(&kind) || (16..=24).contains(&kind);
    let Some(request) = request else {
        prop_assert!(!is_known || DEMANDING.contains(&kind));
        return Ok(());
    };
    prop_assert!(is_known);
    match &request {
        Request::Screen(ScreenRequest::Add { mode } | ScreenRequest::SetMode { mode, .. }) => {
            prop_assert!(mode.is_possible())
        }
        Request::Screen(ScreenRequest::Input { events, .. }) => {
            prop_assert!(events.as_slice().len() <= EVENTS_PER_REQUEST);
        }
        Request::Screen(ScreenRequest::Keymap { part, .. }) => {
            prop_assert!(part.as_bytes().len() <= KEYMAP_PART);
        }
        _ => {}
    }
    let message = request.to_message(tag);
    prop_assert!(message.payload().len() <= MAX_MESSAGE);
    prop_assert_eq!(
        Request::from_payload(message.kind, message.payload()),
        (tag, Some(request))
    );
    Ok(())
}

/// What is accepted keeps its promises, and is said again in the same words.
fn check_reply(kind: u16, payload: &[u8]) -> Result<(), TestCaseError> {
    let Ok((tag, reply)) = Reply::from_payload(kind, payload) else {
        return Ok(());
    };
    match &reply {
        Reply::Region(region) => {
            prop_assert!(region.region != 0 && is_valid_size(region.size));
            prop_assert!(region.extents >= 1 && region.extents <= region.size / PAGE);
        }
        Reply::Extents(extents) => {
            prop_assert!((1..=EXTENTS_PER_REPLY).contains(&extents.extents().len()));
            for extent in extents.extents() {
                prop_assert!(extent.end().is_some() && is_valid_size(extent.length));
                prop_assert!(extent.start.is_aligned_to(PAGE));
            }
        }
        Reply::Done | Reply::Bell { .. } => {}
        Reply::Screen(screen) => prop_assert!(screen.mode.is_possible()),
        Reply::Modes(modes) => {
            prop_assert!(modes.modes().len() <= MODES_PER_REPLY);
            prop_assert!(modes.modes().iter().all(Mode::is_possible));
        }
        Reply::Refused { explanation, .. } | Reply::Ended { explanation, .. } => {
            prop_assert!(
                explanation
                    .as_str()
                    .bytes()
                    .all(|byte| (b' '..=b'~').contains(&byte))
            );
        }
    }
    let message = reply.to_message(tag);
    prop_assert_eq!(
        Reply::from_payload(message.kind, message.payload()),
        Ok((tag, reply))
    );
    Ok(())
}
