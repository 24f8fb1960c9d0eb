//! The agent against simulated hosts: regions, refusals, hosts that break the rules,
//! the death of an agent, and pipes.

use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use vmshm_link::control::{EndCause, RefusalCode, Reply as HostReply, Request as HostRequest};
use vmshm_link::directory::{RegionKind, regions, slot_offset};
use vmshm_link::fields::Text;
use vmshm_link::proof::verify_pattern;
use vmshm_link::slot::SlotState;
use vmshm_shm::SharedMemory;

use super::local_protocol::{Answer, PROTOCOL, Question, Wish};
use super::simulation::{Guest, Host, LIMIT, MIB, refusal, region, turn};
use vmshm_channel::Channel;
#[test]
fn a_region_is_made_proved_used_and_removed() {
    let mut guest = Guest::new();
    let mut service = guest.start_agent();
    let mut host = Host::attach(&guest, &mut service, 3);
    let made = host.create(&mut service, "data", 100_000);
    assert_eq!((made.size, made.extents, made.ready), (102_400, 2, false));
    let request = HostRequest::Extents {
        region: made.region,
        first: 1,
    };
    match host.ask(&mut service, &request) {
        HostReply::Extents(reply) => assert_eq!(reply.extents().len(), 1),
        other => panic!("{other:?}"),
    }
    let memory = guest.map(made.region, made.size);
    verify_pattern(&*memory, made.key, made.region).expect("the pattern");
    let request = HostRequest::Proved {
        region: made.region,
        placement: 5,
    };
    assert_eq!(host.ask(&mut service, &request), HostReply::Done);
    assert_eq!(memory.load_relaxed(0), Ok(0));
    let listed: Vec<_> = regions(&*guest.directory())
        .collect::<Result<_, _>>()
        .expect("a table");
    assert_eq!(listed.len(), 1);
    assert!(listed[0].ready && listed[0].name.as_str() == "data");

    let request = HostRequest::Remove {
        name: Text::new("data"),
    };
    assert_eq!(host.ask(&mut service, &request), HostReply::Done);
    let over: Vec<_> = regions(&*guest.directory())
        .collect::<Result<_, _>>()
        .expect("a table");
    assert_eq!(over[0].ended, Some(EndCause::Removed));
    assert!(guest.holds(made.region), "the session holds it");
    host.slot.release().expect("released");
    turn(&mut service);
    assert_eq!(regions(&*guest.directory()).count(), 0);
    assert!(guest.frees(made.region));
}

#[test]
fn a_second_host_waits_until_the_first_has_proved_the_pages() {
    let mut guest = Guest::new();
    let mut service = guest.start_agent();
    let mut first = Host::attach(&guest, &mut service, 0);
    let mut second = Host::attach(&guest, &mut service, 1);
    let made = first.create(&mut service, "data", MIB);
    second.send(&HostRequest::Open {
        kind: RegionKind::Raw,
        size: 0,
        name: Text::new("data"),
    });
    turn(&mut service);
    assert_eq!(second.receive(), None);
    let request = HostRequest::Proved {
        region: made.region,
        placement: 5,
    };
    first.ask(&mut service, &request);
    turn(&mut service);
    let opened = region(second.receive().expect("an answer"));
    assert_eq!((opened.ready, opened.placement), (true, 5));
}

#[test]
fn what_cannot_be_is_refused() {
    let mut guest = Guest::new();
    let mut service = guest.start_agent();
    let mut host = Host::attach(&guest, &mut service, 0);
    let mut other = Host::attach(&guest, &mut service, 1);
    let made = host.create(&mut service, "data", MIB);
    let name = |name| Text::new(name);
    let kind = RegionKind::Raw;
    let cases = [
        (
            HostRequest::Create {
                kind,
                size: MIB,
                name: name("data"),
            },
            RefusalCode::Exists,
        ),
        (
            HostRequest::Create {
                kind,
                size: 0,
                name: name("x"),
            },
            RefusalCode::Invalid,
        ),
        (
            HostRequest::Create {
                kind,
                size: u64::MAX,
                name: name("x"),
            },
            RefusalCode::Invalid,
        ),
        (
            HostRequest::Create {
                kind,
                size: MIB,
                name: name("../x"),
            },
            RefusalCode::Invalid,
        ),
        (
            HostRequest::Create {
                kind,
                size: MIB,
                name: name(""),
            },
            RefusalCode::Invalid,
        ),
        (
            HostRequest::Create {
                kind,
                size: LIMIT,
                name: name("x"),
            },
            RefusalCode::OverBudget,
        ),
        (
            HostRequest::Create {
                kind: RegionKind::Pipe,
                size: MIB,
                name: name("x"),
            },
            RefusalCode::WrongKind,
        ),
        (
            HostRequest::Create {
                kind: RegionKind::Bench,
                size: 4096,
                name: name("x"),
            },
            RefusalCode::Invalid,
        ),
        (
            HostRequest::Create {
                kind: RegionKind::Unknown(9),
                size: MIB,
                name: name("x"),
            },
            RefusalCode::Unsupported,
        ),
        (
            HostRequest::Open {
                kind,
                size: 0,
                name: name("nothing"),
            },
            RefusalCode::NotFound,
        ),
        (
            HostRequest::Open {
                kind: RegionKind::Pipe,
                size: 0,
                name: name("data"),
            },
            RefusalCode::WrongKind,
        ),
        (
            HostRequest::Extents {
                region: made.region,
                first: 2,
            },
            RefusalCode::Invalid,
        ),
        (
            HostRequest::Extents {
                region: made.region,
                first: u64::MAX,
            },
            RefusalCode::Invalid,
        ),
        (
            HostRequest::Bench {
                region: made.region,
                mode: 1,
            },
            RefusalCode::WrongKind,
        ),
        (
            HostRequest::Remove {
                name: name("nothing"),
            },
            RefusalCode::NotFound,
        ),
    ];
    for (request, code) in cases {
        assert_eq!(
            refusal(host.ask(&mut service, &request)),
            code,
            "{request:?}"
        );
    }
    // What another session holds is not this one's.
    let region = made.region;
    for request in [
        HostRequest::Extents { region, first: 0 },
        HostRequest::Proved {
            region,
            placement: 0,
        },
        HostRequest::Close { region },
        HostRequest::Bench { region, mode: 1 },
    ] {
        let code = refusal(other.ask(&mut service, &request));
        assert_eq!(code, RefusalCode::NotFound, "{request:?}");
    }
    // A request of a newer minor version.
    host.tag += 1;
    let unknown = host.slot.requests.try_push(4242, &host.tag.to_le_bytes());
    assert_eq!(unknown, Ok(true));
    turn(&mut service);
    assert_eq!(
        refusal(host.receive().expect("an answer")),
        RefusalCode::Unsupported
    );
}

#[test]
fn a_host_that_breaks_the_protocol_harms_only_itself() {
    let mut guest = Guest::new();
    let mut service = guest.start_agent();
    let mut bad = Host::attach(&guest, &mut service, 0);
    let mut good = Host::attach(&guest, &mut service, 1);
    let made = bad.create(&mut service, "data", MIB);
    let directory = guest.directory();
    // A tail beyond all bounds.
    let request_tail = slot_offset(0) + 0x100;
    directory
        .store_relaxed(request_tail, 1 << 40)
        .expect("stored");
    turn(&mut service);
    good.create(&mut service, "more", MIB);
    assert!(guest.holds(made.region), "its host may still write there");
    // It can still let go.
    let token = 1000;
    directory
        .store_relaxed(slot_offset(0) + 0x090, token)
        .expect("stored");
    turn(&mut service);
    assert_eq!(service.sessions[0].state(), SlotState::Free);
}

#[test]
fn a_new_agent_keeps_what_hosts_of_the_old_one_hold() {
    let mut guest = Guest::new();
    let mut service = guest.start_agent();
    let mut host = Host::attach(&guest, &mut service, 4);
    let kept = host.create(&mut service, "kept", MIB);
    let request = HostRequest::Proved {
        region: kept.region,
        placement: 5,
    };
    host.ask(&mut service, &request);
    let pipe = region(host.open(&mut service, "pipe", RegionKind::Pipe));
    drop(service);

    let mut service = guest.start_agent();
    assert_eq!(service.sessions[4].state(), SlotState::Orphaned);
    assert!(guest.holds(kept.region) && guest.holds(pipe.region));
    let mut next = Host::attach(&guest, &mut service, 5);
    let opened = region(next.open(&mut service, "kept", RegionKind::Raw));
    assert_eq!((opened.region, opened.placement), (kept.region, 5));
    let fresh = region(next.open(&mut service, "pipe", RegionKind::Pipe));
    assert_ne!(fresh.region, pipe.region, "the old pipe is over");

    host.slot.release().expect("released");
    turn(&mut service);
    assert!(guest.frees(pipe.region), "nobody holds it any more");
    assert!(guest.holds(kept.region), "it is on the list");
}

#[test]
fn ends_of_a_pipe_meet_and_learn_of_each_others_death() {
    let mut guest = Guest::new();
    let mut service = guest.start_agent();
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let mut local = Channel::new(ours).expect("a channel");
    service.locals.add(Channel::new(theirs).expect("a channel"));
    let question = Question {
        protocol: PROTOCOL,
        wish: Wish::Pipe {
            name: "p".to_owned(),
        },
    };
    local.send(&question, None).expect("sent");
    for _ in 0..50 {
        turn(&mut service);
        thread::sleep(Duration::from_millis(1));
    }
    assert!(
        local.receive::<Answer>().expect("open").is_none(),
        "not proved yet"
    );

    let mut host = Host::attach(&guest, &mut service, 0);
    let mut rival = Host::attach(&guest, &mut service, 1);
    let made = region(host.open(&mut service, "p", RegionKind::Pipe));
    let refused = rival.open(&mut service, "p", RegionKind::Pipe);
    assert_eq!(refusal(refused), RefusalCode::Busy);
    let request = HostRequest::Proved {
        region: made.region,
        placement: 1,
    };
    host.ask(&mut service, &request);
    turn(&mut service);
    let (answer, file) = local
        .next::<Answer>(Duration::from_secs(1))
        .expect("an answer");
    assert!(matches!(answer, Answer::PipeReady { size } if size == made.size) && file.is_some());

    let memory = guest.map(made.region, made.size);
    drop(local);
    turn(&mut service);
    assert_eq!(memory.load_relaxed(0x008), Ok(1), "the guest's end is lost");
    assert!(guest.holds(made.region), "the host may still write");
    host.slot.release().expect("released");
    turn(&mut service);
    assert!(guest.frees(made.region));
}

#[test]
fn what_the_keeper_refuses_is_told_and_the_name_stays_free() {
    let mut guest = Guest::new();
    let mut service = guest.start_agent();
    service.limit = 1 << 40;
    let mut host = Host::attach(&guest, &mut service, 0);
    let kind = RegionKind::Raw;
    let request = HostRequest::Create {
        kind,
        size: LIMIT + 1,
        name: Text::new("data"),
    };
    let reply = host.ask(&mut service, &request);
    assert_eq!(refusal(reply), RefusalCode::CannotPin);
    host.create(&mut service, "data", MIB);
}
