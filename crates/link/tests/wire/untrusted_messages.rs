//! The rendezvous against peers that send anything: the parser keeps to its
//! bounds, never panics, and reads what was meant however it is cut.

use proptest::prelude::*;
use vmshm_link::fields::Text;
use vmshm_link::rendezvous::message::{
    Announce, Inbox, Incoming, MAX_PAYLOAD, Message, MessageError, greeting,
};
use vmshm_link::rendezvous::{Countersign, Nonce, endpoint};
use vmshm_link::{GuestPhysical, LinkError, VERSION, Version};

/// Feeds `bytes` in pieces of the given lengths, and gives what came out.
fn feed(bytes: &[u8], pieces: &[usize]) -> Result<Vec<Incoming>, MessageError> {
    let mut inbox = Inbox::default();
    let mut rest = bytes;
    let mut pieces = pieces.iter().copied().cycle();
    let mut out = Vec::new();
    while !rest.is_empty() {
        let space = inbox.space();
        assert!(!space.is_empty(), "a drained inbox takes more");
        let wanted = pieces.next().unwrap_or(usize::MAX).max(1);
        let count = wanted.min(space.len()).min(rest.len());
        space[..count].copy_from_slice(&rest[..count]);
        inbox.filled(count);
        rest = &rest[count..];
        while let Some(incoming) = inbox.take()? {
            out.push(incoming);
        }
    }
    Ok(out)
}

fn announce() -> impl Strategy<Value = Message> {
    (
        any::<u32>(),
        1..u64::MAX,
        any::<[u8; 16]>(),
        "[ -~]{0,32}",
        "[ -~]{0,64}",
    )
        .prop_map(|(page, epoch, boot_id, version, name)| {
            Message::Announce(Announce {
                beacon: GuestPhysical(u64::from(page) << 12),
                epoch,
                boot_id,
                version: Text::new(&version),
                name: Text::new(&name),
            })
        })
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        announce(),
        any::<[u8; 16]>().prop_map(|nonce| Message::Challenge(Nonce(nonce))),
        Just(Message::Shown),
        any::<[u8; 16]>().prop_map(|bytes| Message::Tied(Countersign(bytes))),
        any::<u64>().prop_map(|region| Message::Bell { region }),
    ]
}

/// A frame of any type, as a newer minor version may send it.
fn frame(kind: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short");
    [&length.to_le_bytes(), &kind.to_le_bytes(), payload].concat()
}

proptest! {
    #[test]
    fn messages_arrive_however_they_are_cut_with_unknown_ones_skipped(
        messages in prop::collection::vec(message(), 0..8),
        foreign in prop::collection::vec(any::<u8>(), 0..=MAX_PAYLOAD),
        kind in 6..u32::MAX,
        pieces in prop::collection::vec(1_usize..300, 1..6),
    ) {
        let mut bytes = greeting().to_vec();
        for message in &messages {
            bytes.extend(frame(kind, &foreign));
            bytes.extend(message.encode().as_bytes());
        }
        let mut expected = vec![Incoming::Greeting(VERSION)];
        expected.extend(messages.into_iter().map(Incoming::Message));
        prop_assert_eq!(feed(&bytes, &pieces), Ok(expected));
    }

    #[test]
    fn a_longer_payload_of_a_newer_minor_version_is_read_as_far_as_it_is_known(
        message in message(),
        more in prop::collection::vec(any::<u8>(), 1..100),
    ) {
        let encoded = message.encode();
        let known = encoded.as_bytes();
        let kind = u32::from_le_bytes(known[4..8].try_into().expect("four bytes"));
        let mut bytes = greeting().to_vec();
        bytes.extend(frame(kind, &[&known[8..], &more].concat()));
        prop_assert_eq!(
            feed(&bytes, &[7]),
            Ok(vec![Incoming::Greeting(VERSION), Incoming::Message(message)])
        );
    }

    #[test]
    fn no_bytes_cause_a_panic(
        polite in any::<bool>(),
        bytes in prop::collection::vec(any::<u8>(), 0..4096),
        pieces in prop::collection::vec(1_usize..2000, 1..4),
    ) {
        let mut all = if polite { greeting().to_vec() } else { Vec::new() };
        all.extend(bytes);
        let _ = feed(&all, &pieces);
    }

    /// Small lengths and known types, which random bytes seldom give.
    #[test]
    fn no_frames_cause_a_panic(
        frames in prop::collection::vec(
            (0_u32..7, prop::collection::vec(any::<u8>(), 0..200)), 0..20),
    ) {
        let mut all = greeting().to_vec();
        for (kind, payload) in &frames {
            all.extend(frame(*kind, payload));
        }
        let _ = feed(&all, &[64]);
    }

    #[test]
    fn no_text_causes_a_panic_as_an_endpoint(text in "\\PC{0,40}") {
        if let Ok(endpoint) = endpoint::parse(&text) {
            let shown = endpoint.to_string();
            prop_assert_eq!(endpoint::parse(&shown), Ok(endpoint));
        }
    }
}

#[test]
fn strangers_are_told_from_peers_by_their_first_wrong_byte() {
    for bytes in [
        &b"G"[..],
        b"GET / HTTP/1.1\r\n",
        b"vmshmTCp",
        b"\x16\x03\x01",
    ] {
        assert_eq!(feed(bytes, &[1]), Err(MessageError::NoGreeting));
    }
    assert_eq!(feed(b"vmshm", &[1]), Ok(vec![]));
}

#[test]
fn another_major_version_is_refused_with_both_numbers_and_another_minor_taken() {
    let with = |version: Version| {
        let mut bytes = greeting();
        bytes[8..].copy_from_slice(&version.to_word().to_le_bytes());
        feed(&bytes, &[16])
    };
    let theirs = Version { major: 9, minor: 3 };
    let error = with(theirs).expect_err("refused");
    assert_eq!(
        error,
        MessageError::Incompatible(LinkError::Incompatible {
            ours: VERSION,
            theirs
        })
    );
    let text = error.to_string();
    assert!(
        text.contains("9.3") && text.contains(&VERSION.to_string()),
        "{text}"
    );
    let newer = Version {
        minor: VERSION.minor + 7,
        ..VERSION
    };
    assert_eq!(with(newer), Ok(vec![Incoming::Greeting(newer)]));
}

#[test]
fn too_long_too_short_and_impossible_messages_are_refused() {
    let after_greeting = |bytes: &[u8]| feed(&[&greeting(), bytes].concat(), &[50]);
    let mut header = u32::MAX.to_le_bytes().to_vec();
    header.extend(77_u32.to_le_bytes());
    assert_eq!(
        after_greeting(&header),
        Err(MessageError::TooLong(u32::MAX))
    );
    for (kind, length) in [(1, 127), (2, 15), (4, 0), (5, 7)] {
        let short = after_greeting(&frame(kind, &vec![0; length]));
        assert_eq!(short, Err(MessageError::Short { kind }));
    }
    // No epoch is zero, and no beacon lies across two pages.
    for (at, value) in [(8, 0), (0, 1)] {
        let mut payload = vec![1; 128];
        payload[..8].copy_from_slice(&0x20_0000_u64.to_le_bytes());
        payload[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
        assert_eq!(
            after_greeting(&frame(1, &payload)),
            Err(MessageError::Impossible)
        );
    }
}
