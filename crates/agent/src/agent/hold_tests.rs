//! How often hosts hold regions, against simulated ones: each `Link` is given back by one
//! `Close`, nothing goes before the last, and nobody waits behind a host that proves.

use vmshm_link::control::{RefusalCode, Reply, Request, Role};
use vmshm_link::directory::RegionKind;
use vmshm_link::duplex::Side;
use vmshm_link::ends::{Presence, PresenceState};
use vmshm_link::fields::Text;

use super::service::Service;
use super::simulation::{Guest, Host, MIB, link, refusal, region, turn};

fn close(host: &mut Host, service: &mut Service, region: u64) -> Reply {
    host.ask(service, &Request::Close { region })
}

fn remove(host: &mut Host, service: &mut Service, name: &str) {
    let name = Text::new(name);
    assert_eq!(host.ask(service, &Request::Remove { name }), Reply::Done);
}

fn explanation(reply: Reply) -> String {
    match reply {
        Reply::Refused { explanation, .. } => explanation.as_str().to_owned(),
        other => panic!("a refusal is expected, not {other:?}"),
    }
}

fn host_side(guest: &Guest, region: u64) -> PresenceState {
    let page = guest.map(region, 4096);
    Presence::read(&*page, Side::Host).expect("inside").state
}

#[test]
fn a_removed_region_stays_until_a_host_has_given_back_each_of_its_holds() {
    let mut guest = Guest::new();
    let mut service = guest.start_agent();
    let mut host = Host::attach(&guest, &mut service, 0);
    let mut other = Host::attach(&guest, &mut service, 1);
    let id = region(host.link(&mut service, "table", RegionKind::Raw, 0)).region;
    host.prove(&mut service, id);
    let again = region(host.link(&mut service, "table", RegionKind::Raw, 0));
    assert_eq!((again.region, again.ready), (id, true));
    assert_eq!(close(&mut host, &mut service, id), Reply::Done);
    remove(&mut other, &mut service, "table");
    assert!(guest.holds(id), "the host still writes by its other handle");
    assert_eq!(close(&mut host, &mut service, id), Reply::Done);
    assert!(guest.frees(id));
    let late = close(&mut host, &mut service, id);
    assert_eq!(refusal(late), RefusalCode::NotFound);
}

#[test]
fn a_session_that_ends_gives_all_of_its_holds_back() {
    let mut guest = Guest::new();
    let mut service = guest.start_agent();
    let mut host = Host::attach(&guest, &mut service, 0);
    let mut other = Host::attach(&guest, &mut service, 1);
    let id = region(host.link(&mut service, "table", RegionKind::Raw, 0)).region;
    host.prove(&mut service, id);
    for _ in 0..3 {
        region(host.link(&mut service, "table", RegionKind::Raw, 0));
    }
    remove(&mut other, &mut service, "table");
    assert!(guest.holds(id));
    host.slot.release().expect("released");
    turn(&mut service);
    assert!(guest.frees(id));
}

#[test]
fn an_end_is_free_only_when_its_own_handle_goes() {
    let mut guest = Guest::new();
    let mut service = guest.start_agent();
    let mut host = Host::attach(&guest, &mut service, 0);
    let mut second = Host::attach(&guest, &mut service, 1);
    let id = region(host.link(&mut service, "state", RegionKind::Latest, 64)).region;
    host.prove(&mut service, id);
    // What a session let go of would not be clear, so it has an end or watches.
    let watch = link("state", RegionKind::Latest, 64, Role::Watch);
    let mixed = host.ask(&mut service, &watch);
    assert_eq!(refusal(mixed), RefusalCode::Busy);
    assert!(explanation(mixed).contains("a second `Vm`"));
    for _ in 0..2 {
        region(second.ask(&mut service, &watch));
    }
    let mixed = second.link(&mut service, "state", RegionKind::Latest, 64);
    assert_eq!(refusal(mixed), RefusalCode::Busy);
    assert!(explanation(mixed).contains("a second `Vm`"));
    for _ in 0..2 {
        assert_eq!(close(&mut second, &mut service, id), Reply::Done);
        assert_eq!(host_side(&guest, id), PresenceState::Present);
        let taken = second.link(&mut service, "state", RegionKind::Latest, 64);
        assert_eq!(refusal(taken), RefusalCode::Busy);
    }
    assert_eq!(close(&mut host, &mut service, id), Reply::Done);
    assert_eq!(host_side(&guest, id), PresenceState::Left);
    region(second.link(&mut service, "state", RegionKind::Latest, 64));
}

#[test]
fn what_is_opened_without_a_link_is_held_once_a_session() {
    let mut guest = Guest::new();
    let mut service = guest.start_agent();
    let mut host = Host::attach(&guest, &mut service, 0);
    let made = host.create(&mut service, "data", MIB).region;
    host.prove(&mut service, made);
    for _ in 0..2 {
        region(host.open(&mut service, "data", RegionKind::Raw));
    }
    let pipe = region(host.open(&mut service, "pipe", RegionKind::Pipe)).region;
    for id in [made, pipe] {
        assert_eq!(close(&mut host, &mut service, id), Reply::Done);
        let again = close(&mut host, &mut service, id);
        assert_eq!(refusal(again), RefusalCode::NotFound);
    }
    assert!(guest.holds(made) && guest.frees(pipe));
}

#[test]
fn a_host_is_told_who_proves_and_served_meanwhile() {
    let mut guest = Guest::new();
    let mut service = guest.start_agent();
    let mut prover = Host::attach(&guest, &mut service, 0);
    let mut host = Host::attach(&guest, &mut service, 1);
    let raw = link("table", RegionKind::Raw, 0, Role::End);
    let id = region(prover.ask(&mut service, &raw)).region;
    for refused in [&mut prover, &mut host].map(|one| one.ask(&mut service, &raw)) {
        assert_eq!(refusal(refused), RefusalCode::Proving);
        let text = explanation(refused);
        assert!(
            text.contains("process") && text.contains("`table`"),
            "{text}"
        );
    }
    let other = region(host.link(&mut service, "other", RegionKind::Raw, 0)).region;
    host.prove(&mut service, other);
    prover.prove(&mut service, id);
    assert!(region(host.ask(&mut service, &raw)).ready);

    // One that ends before it has proved leaves nothing behind.
    let watch = link("numbers", RegionKind::Ring, 8, Role::Watch);
    let numbers = link("numbers", RegionKind::Ring, 8, Role::End);
    let lost = region(prover.ask(&mut service, &numbers));
    let refused = host.ask(&mut service, &watch);
    assert_eq!(refusal(refused), RefusalCode::Proving);
    prover.slot.release().expect("released");
    turn(&mut service);
    let made = region(host.ask(&mut service, &watch));
    assert!(made.key != lost.key && !made.ready);
}
