//! Datagrams come apart as they were put together, and garbage is refused.

use vmshm_link::VERSION;
use vmshm_link::control::{RefusalCode, RegionReply};

use super::*;

fn machine() -> Machine {
    Machine {
        pid: 4242,
        start_time: 77,
        vmm: "qemu".to_owned(),
        name: "web".to_owned(),
        ram_bytes: 1 << 30,
        guest_os: Some("Linux 6.1".to_owned()),
        agent: None,
        boot_id: [7; 16],
    }
}

#[test]
fn what_clients_say_comes_apart_as_it_was_put_together() {
    for message in [
        ToBroker::Hello {
            version: VERSION,
            purpose: Purpose::Session("qemu:web".to_owned()),
            patience_millis: 5000,
        },
        ToBroker::Hello {
            version: VERSION,
            purpose: Purpose::List,
            patience_millis: 0,
        },
        ToBroker::Regions { tag: 3 },
        ToBroker::Request {
            tag: 9,
            request: Some(Box::new(Request::Close { region: 7 })),
        },
    ] {
        let packet = message.to_packet();
        assert_eq!(ToBroker::parse(packet.bytes()), Ok(message));
    }
}

#[test]
fn what_brokers_say_comes_apart_as_it_was_put_together() {
    let ends = [
        SessionEnd::VmGone { pid: 7 },
        SessionEnd::AgentDied,
        SessionEnd::AgentRestarted,
        SessionEnd::AgentLeft,
        SessionEnd::GuestRestarted,
        SessionEnd::TakenBack,
        SessionEnd::PagesTaken,
        SessionEnd::GraftUndone,
        SessionEnd::MadeWay,
        SessionEnd::BrokerGone,
        SessionEnd::Link(LinkError::Revoked),
    ];
    let grant = Reply::Region(RegionReply {
        region: 5,
        size: 8192,
        extents: 1,
        ready: true,
        key: 0,
        placement: 0,
    });
    let refusal = Reply::Refused {
        code: RefusalCode::Denied,
        explanation: Text::new("no"),
    };
    let mut messages = vec![
        FromBroker::Welcome {
            pid: 4242,
            start_time: 1,
            slot: 26,
            name: "web".to_owned(),
        },
        FromBroker::Refused {
            explanation: "no".to_owned(),
            hint: "ask root".to_owned(),
        },
        FromBroker::Entry {
            tag: 4,
            entry: RegionEntry {
                id: 0,
                kind: RegionKind::Ring,
                size: 4096,
                ready: true,
                record: 64,
                ended: None,
                name: Text::new("numbers"),
            },
        },
        FromBroker::EndOfList { tag: 4 },
        FromBroker::Machine(Box::new(machine())),
        FromBroker::Condition(Condition::Silent),
    ];
    messages.extend(ends.map(FromBroker::Ended));
    messages.extend([grant, refusal].map(|reply| FromBroker::Reply {
        tag: 12,
        reply: Box::new(reply),
    }));
    for message in messages {
        let packet = message.to_packet();
        assert!(packet.bytes().len() <= MAX_PACKET);
        assert_eq!(FromBroker::parse(packet.bytes()), Ok(message));
    }
}

#[test]
fn texts_that_are_too_long_are_cut_at_a_character() {
    let refused = FromBroker::Refused {
        explanation: "ä".repeat(1000),
        hint: String::new(),
    };
    let parsed = FromBroker::parse(refused.to_packet().bytes());
    let Ok(FromBroker::Refused { explanation, .. }) = parsed else {
        panic!("{parsed:?}");
    };
    assert_eq!(explanation, "ä".repeat(MAX_TEXT / 2));
}

#[test]
fn garbage_is_refused_by_both() {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..20_000 {
        let length = usize::try_from(next() % 1100).expect("small");
        let mut bytes: Vec<u8> = (0..length).map(|_| next().to_le_bytes()[3]).collect();
        // Half of them reach one of the parsers.
        if next() % 2 == 0 && length >= 8 {
            let numbers = [
                1, 4, 8, 0x20, HELLO, REGIONS, WELCOME, ENTRY, MACHINE, ENDED,
            ];
            let number = numbers[usize::try_from(next() % 10).expect("small")];
            put_word(&mut bytes, 0, number);
        }
        let _ = ToBroker::parse(&bytes);
        let _ = FromBroker::parse(&bytes);
    }
    assert!(ToBroker::parse(&[]).is_err());
    assert!(ToBroker::parse(&[1; 7]).is_err());
    assert!(ToBroker::parse(&[0xff; 64]).is_err());
    assert!(ToBroker::parse(&[0; MAX_PACKET + 1]).is_err());
    let cut = ToBroker::Hello {
        version: VERSION,
        purpose: Purpose::Session("web".to_owned()),
        patience_millis: 1,
    };
    let packet = cut.to_packet();
    let short = packet.bytes().split_last().expect("not empty").1;
    assert!(ToBroker::parse(short).is_err());
}
