//! Links against simulated hosts: who gets an end, what presence says, how a region ends,
//! and what a new agent makes of it all.

use vmshm_link::control::{EndCause, RefusalCode, Reply, Request, Role};
use vmshm_link::directory::{RegionKind, regions};
use vmshm_link::duplex::Side;
use vmshm_link::ends::{Presence, PresenceState};
use vmshm_link::fields::Text;

use super::program_simulation::Program;
use super::simulation::{Guest, Host, MIB, link, refusal, region, turn};

fn presence(guest: &Guest, region: u64, side: Side) -> (PresenceState, u64) {
    let memory = guest.map(region, 4096);
    let presence = Presence::read(&*memory, side).expect("inside");
    (presence.state, presence.count)
}

fn explanation(reply: Reply) -> String {
    match reply {
        Reply::Refused { explanation, .. } => explanation.as_str().to_owned(),
        other => panic!("a refusal is expected, not {other:?}"),
    }
}

#[test]
fn a_link_is_made_once_and_opened_by_those_who_mean_the_same() {
    let mut guest = Guest::new();
    let mut service = guest.start_agent();
    let mut host = Host::attach(&guest, &mut service, 0);
    let mut other = Host::attach(&guest, &mut service, 1);
    let made = region(host.link(&mut service, "numbers", RegionKind::Ring, 8));
    assert!(!made.ready && made.size == MIB);
    host.prove(&mut service, made.region);
    let entry = regions(&*guest.directory()).next().expect("an entry");
    let entry = entry.expect("a right entry");
    assert_eq!((entry.kind, entry.record), (RegionKind::Ring, 8));

    for (kind, record, part) in [
        (
            RegionKind::Ring,
            16,
            "8-byte records, not a ring of 16-byte",
        ),
        (RegionKind::Ring, 0, "not a ring of bytes"),
        (RegionKind::Latest, 8, "not a latest of values of up to 8"),
        (RegionKind::Stream, 0, "not a stream"),
        (RegionKind::Raw, 0, "not raw memory"),
    ] {
        let reply = other.link(&mut service, "numbers", kind, record);
        assert_eq!(refusal(reply), RefusalCode::WrongKind);
        let text = explanation(reply);
        assert!(text.contains(part), "{text}");
    }
    let absent = Request::Link {
        kind: RegionKind::Ring,
        size: 0,
        name: Text::new("absent"),
        record: 8,
        role: Role::End,
    };
    assert_eq!(
        refusal(other.ask(&mut service, &absent)),
        RefusalCode::NotFound
    );
    for (kind, record, code) in [
        (RegionKind::Pipe, 0, RefusalCode::WrongKind),
        (RegionKind::Bench, 0, RefusalCode::WrongKind),
        (RegionKind::Unknown(77), 0, RefusalCode::Unsupported),
        (RegionKind::Latest, 0, RefusalCode::Invalid),
        (RegionKind::Stream, 1, RefusalCode::Invalid),
        (RegionKind::Raw, 1, RefusalCode::Invalid),
        (RegionKind::Ring, u64::MAX, RefusalCode::Invalid),
        (RegionKind::Ring, MIB, RefusalCode::Invalid),
        (RegionKind::Latest, u64::MAX, RefusalCode::Invalid),
        (RegionKind::Latest, MIB / 4, RefusalCode::Invalid),
    ] {
        let reply = other.link(&mut service, "fresh", kind, record);
        assert_eq!(refusal(reply), code, "{kind:?} {record}");
    }
    let page = Request::Link {
        kind: RegionKind::Stream,
        size: 4096,
        name: Text::new("small"),
        record: 0,
        role: Role::End,
    };
    assert_eq!(
        refusal(other.ask(&mut service, &page)),
        RefusalCode::Invalid
    );
    let create = Request::Create {
        kind: RegionKind::Ring,
        size: MIB,
        name: Text::new("ring"),
    };
    assert_eq!(
        refusal(other.ask(&mut service, &create)),
        RefusalCode::WrongKind
    );
}

#[test]
fn each_side_has_one_end_and_presence_says_who_came_and_how_they_went() {
    let mut guest = Guest::new();
    let mut service = guest.start_agent();
    let mut host = Host::attach(&guest, &mut service, 0);
    let mut rival = Host::attach(&guest, &mut service, 1);
    let made = region(host.link(&mut service, "state", RegionKind::Latest, 64));
    let id = made.region;
    host.prove(&mut service, id);
    let host_side = |guest: &Guest| presence(guest, id, Side::Host);
    assert_eq!(host_side(&guest), (PresenceState::Present, 1));

    let refused = rival.link(&mut service, "state", RegionKind::Latest, 64);
    assert_eq!(refusal(refused), RefusalCode::Busy);
    assert!(explanation(refused).contains("the host's end of `state`"));
    let again = host.link(&mut service, "state", RegionKind::Latest, 64);
    assert_eq!(refusal(again), RefusalCode::Busy);
    let watch = link("state", RegionKind::Latest, 64, Role::Watch);
    for _ in 0..2 {
        assert_eq!(region(rival.ask(&mut service, &watch)).region, id);
    }
    assert_eq!(host_side(&guest), (PresenceState::Present, 1));

    let close = Request::Close { region: id };
    assert_eq!(host.ask(&mut service, &close), Reply::Done);
    assert_eq!(host_side(&guest), (PresenceState::Left, 1));
    assert_eq!(
        refusal(host.ask(&mut service, &close)),
        RefusalCode::NotFound
    );
    for _ in 0..2 {
        assert_eq!(rival.ask(&mut service, &close), Reply::Done);
    }
    region(rival.link(&mut service, "state", RegionKind::Latest, 64));
    assert_eq!(host_side(&guest), (PresenceState::Present, 2));
    rival.slot.release().expect("released");
    turn(&mut service);
    assert_eq!(host_side(&guest), (PresenceState::Lost, 2));
    assert!(guest.holds(id), "it stays until it is removed");
    assert_eq!(
        presence(&guest, id, Side::Guest),
        (PresenceState::Absent, 0)
    );
}

#[test]
fn raw_memory_has_several_openers_and_no_presence() {
    let mut guest = Guest::new();
    let mut service = guest.start_agent();
    let mut host = Host::attach(&guest, &mut service, 0);
    let mut other = Host::attach(&guest, &mut service, 1);
    let id = region(host.link(&mut service, "table", RegionKind::Raw, 0)).region;
    host.prove(&mut service, id);
    for host in [&mut host, &mut other] {
        let opened = region(host.link(&mut service, "table", RegionKind::Raw, 0));
        assert_eq!(opened.region, id);
    }
    assert_eq!(presence(&guest, id, Side::Host), (PresenceState::Absent, 0));
    let close = Request::Close { region: id };
    for _ in 0..2 {
        assert_eq!(host.ask(&mut service, &close), Reply::Done);
    }
    assert_eq!(
        refusal(host.ask(&mut service, &close)),
        RefusalCode::NotFound
    );
}

#[test]
fn a_removed_region_stays_in_the_table_with_its_end_while_it_is_held() {
    let mut guest = Guest::new();
    let mut service = guest.start_agent();
    let mut host = Host::attach(&guest, &mut service, 0);
    let mut other = Host::attach(&guest, &mut service, 1);
    let old = region(host.link(&mut service, "x", RegionKind::Stream, 0)).region;
    host.prove(&mut service, old);
    let remove = Request::Remove {
        name: Text::new("x"),
    };
    assert_eq!(other.ask(&mut service, &remove), Reply::Done);
    assert_eq!(
        refusal(other.ask(&mut service, &remove)),
        RefusalCode::NotFound
    );
    let new = region(other.link(&mut service, "x", RegionKind::Ring, 8)).region;
    assert_ne!(new, old);
    let listed = |guest: &Guest| -> Vec<_> {
        regions(&*guest.directory())
            .map(|entry| entry.map(|entry| (entry.id, entry.ended)))
            .collect::<Result<_, _>>()
            .expect("a table")
    };
    assert_eq!(
        listed(&guest),
        [(old, Some(EndCause::Removed)), (new, None)]
    );
    // The next agent knows it, too, as long as the host holds it.
    drop(service);
    let mut service = guest.start_agent();
    assert_eq!(listed(&guest), [(old, Some(EndCause::Removed))]);
    host.slot.release().expect("released");
    turn(&mut service);
    assert_eq!(listed(&guest), []);
    assert!(guest.frees(old));
}

#[test]
fn moved_pages_of_a_region_end_the_region_and_others_the_agent() {
    let mut guest = Guest::new();
    let mut service = guest.start_agent();
    let mut host = Host::attach(&guest, &mut service, 0);
    let id = region(host.link(&mut service, "x", RegionKind::Ring, 8)).region;
    host.prove(&mut service, id);
    let mut program = Program::start(&mut service, 0);
    let open = link("x", RegionKind::Ring, 8, Role::End);
    region(program.ask(&mut service, &open).0);
    service.moved(id, "page 3 has moved").expect("goes on");
    let entry = regions(&*guest.directory()).next().expect("an entry");
    assert_eq!(entry.expect("a right entry").ended, Some(EndCause::Damaged));
    match program.receive() {
        Some((
            0,
            Reply::Ended {
                region,
                cause,
                explanation,
            },
            None,
        )) => {
            assert_eq!((region, cause), (id, EndCause::Damaged));
            let text = explanation.as_str();
            assert!(text.contains("taken pages out") && !text.contains("page 3"));
        }
        other => panic!("{other:?}"),
    }
    let close = Request::Close { region: id };
    let late = program.ask(&mut service, &close).0;
    assert_eq!(refusal(late), RefusalCode::NotFound);
    // Nobody new gets it.
    let size_zero = Request::Link {
        kind: RegionKind::Ring,
        size: 0,
        name: Text::new("x"),
        record: 8,
        role: Role::Watch,
    };
    let refused = program.ask(&mut service, &size_zero).0;
    assert_eq!(refusal(refused), RefusalCode::NotFound);
    assert!(guest.holds(id), "the host may still write");
    host.slot.release().expect("released");
    turn(&mut service);
    assert!(guest.frees(id));
    assert!(service.moved(2, "the directory").is_err());
}

#[test]
fn a_new_agent_says_which_ends_are_lost_and_which_hosts_still_have() {
    let mut guest = Guest::new();
    let mut service = guest.start_agent();
    let mut host = Host::attach(&guest, &mut service, 0);
    let id = region(host.link(&mut service, "x", RegionKind::Ring, 8)).region;
    host.prove(&mut service, id);
    let mut program = Program::start(&mut service, 0);
    let open = link("x", RegionKind::Ring, 8, Role::End);
    region(program.ask(&mut service, &open).0);
    assert_eq!(
        presence(&guest, id, Side::Guest),
        (PresenceState::Present, 1)
    );
    drop(service);

    let mut service = guest.start_agent();
    assert_eq!(presence(&guest, id, Side::Guest), (PresenceState::Lost, 1));
    assert_eq!(
        presence(&guest, id, Side::Host),
        (PresenceState::Present, 1)
    );
    let mut next = Host::attach(&guest, &mut service, 1);
    let busy = next.link(&mut service, "x", RegionKind::Ring, 8);
    assert_eq!(refusal(busy), RefusalCode::Busy, "it may still write");
    host.slot.release().expect("released");
    turn(&mut service);
    assert_eq!(presence(&guest, id, Side::Host), (PresenceState::Lost, 1));
    assert!(region(next.link(&mut service, "x", RegionKind::Ring, 8)).ready);
    let mut program = Program::start(&mut service, 0);
    region(program.ask(&mut service, &open).0);
    assert_eq!(
        presence(&guest, id, Side::Host),
        (PresenceState::Present, 2)
    );
    assert_eq!(
        presence(&guest, id, Side::Guest),
        (PresenceState::Present, 2)
    );
}
