//! Programs of the guest against a simulated one: what they get by the rules, what they
//! wait for, and what becomes of those that break the protocol.

use std::collections::BTreeSet;
use std::path::Path;

use vmshm_link::control::{EndCause, RefusalCode, Reply, Request, Role};
use vmshm_link::directory::RegionKind;
use vmshm_link::duplex::Side;
use vmshm_link::ends::{Presence, PresenceState};
use vmshm_link::fields::Text;
use vmshm_link::local::Datagram;
use vmshm_link::{VERSION, Version};
use vmshm_shm::{Protection, SharedMemory};

use super::program_simulation::Program;
use super::rules::Rules;
use super::service::Service;
use super::simulation::{Guest, Host, LIMIT, MIB, link, refusal, region, turn};
use crate::window::Window;

pub(super) const USER: u32 = 1000;

pub(super) fn guest() -> Guest {
    let mut guest = Guest::new();
    let rules = r#"
        [[allow]]
        uid = 1000
        regions = ["numbers", "own-*"]
        make = true
        max_size = "2M"

        [[allow]]
        uid = 1001
        regions = ["numbers", "pipe"]
    "#;
    guest.rules = Rules::parse(Path::new("agent.toml"), rules).expect("rules");
    guest
}

pub(super) fn ring(name: &str) -> Request {
    link(name, RegionKind::Ring, 8, Role::End)
}

fn named(name: &str) -> Request {
    Request::Remove {
        name: Text::new(name),
    }
}

pub(super) fn refused(
    program: &mut Program,
    service: &mut Service,
    request: &Request,
) -> RefusalCode {
    refusal(program.ask(service, request).0)
}

#[test]
fn a_region_that_a_program_makes_is_its_own_once_a_host_has_proved_it() {
    let mut guest = guest();
    let mut service = guest.start_agent();
    let mut program = Program::start(&mut service, USER);
    let tag = program.send(&ring("numbers"));
    for _ in 0..20 {
        turn(&mut service);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(program.receive().is_none(), "no host has proved it");
    let mut host = Host::attach(&guest, &mut service, 0);
    let made = region(host.link(&mut service, "numbers", RegionKind::Ring, 8));
    assert!(!made.ready);
    host.prove(&mut service, made.region);
    turn(&mut service);
    let (answered, reply, file) = program.receive().expect("an answer");
    let granted = region(reply);
    assert_eq!((answered, granted.region), (tag, made.region));
    assert_eq!((granted.key, granted.placement), (0, 0));
    let file = file.expect("a file");
    let memory = Window::open(&file, 0, granted.size, Protection::ReadWrite).expect("maps");
    memory.store_relaxed(0x2000, 77).expect("inside");
    let seen = guest.map(made.region, made.size).load_relaxed(0x2000);
    assert_eq!(seen, Ok(77));
}

#[test]
fn a_region_whose_program_gives_up_waiting_goes() {
    let mut guest = guest();
    let mut service = guest.start_agent();
    let mut program = Program::start(&mut service, USER);
    program.send(&ring("numbers"));
    while service.regions.find("numbers").is_none() {
        turn(&mut service);
    }
    let id = service.regions.find("numbers").expect("made").id;
    drop(program);
    turn(&mut service);
    assert!(service.regions.find("numbers").is_none());
    assert!(guest.frees(id));
}

#[test]
fn a_wish_that_is_taken_back_keeps_nothing_from_anybody() {
    let cancel = Request::Close { region: 0 };
    let mut guest = guest();
    let mut service = guest.start_agent();
    let mut program = Program::start(&mut service, USER);
    // While the region is being made.
    let tag = program.send(&ring("numbers"));
    program.send_tagged(tag, &cancel);
    turn(&mut service);
    assert!(matches!(program.receive(), Some((answered, Reply::Done, None)) if answered == tag));
    for _ in 0..20 {
        turn(&mut service);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(service.regions.find("numbers").is_none());

    // Once it is made.
    let tag = program.send(&ring("numbers"));
    while service.regions.find("numbers").is_none() {
        turn(&mut service);
    }
    let id = service.regions.find("numbers").expect("made").id;
    program.send_tagged(tag, &cancel);
    turn(&mut service);
    assert!(matches!(program.receive(), Some((answered, Reply::Done, None)) if answered == tag));
    assert!(service.regions.find("numbers").is_none() && !guest.holds(id));

    // While a host has not proved it; another program gets the end then.
    let mut host = Host::attach(&guest, &mut service, 0);
    let id = region(host.link(&mut service, "numbers", RegionKind::Ring, 8)).region;
    let tag = program.send(&ring("numbers"));
    turn(&mut service);
    program.send_tagged(tag, &cancel);
    turn(&mut service);
    assert!(matches!(program.receive(), Some((answered, Reply::Done, None)) if answered == tag));
    host.prove(&mut service, id);
    turn(&mut service);
    assert!(program.receive().is_none(), "nothing is granted any more");
    let mut other = Program::start(&mut service, 1001);
    region(other.ask(&mut service, &ring("numbers")).0);

    // What is granted is not taken back so.
    let close = Request::Close { region: id };
    assert_eq!(other.ask(&mut service, &close).0, Reply::Done);
    let tag = program.send(&ring("numbers"));
    turn(&mut service);
    program.send_tagged(tag, &cancel);
    turn(&mut service);
    let granted = region(program.receive().expect("granted").1);
    let (answered, reply, _) = program.receive().expect("an answer");
    assert_eq!((answered, refusal(reply)), (tag, RefusalCode::NotFound));
    assert_eq!(granted.region, id);
    assert_eq!(program.ask(&mut service, &close).0, Reply::Done);
}

#[test]
fn the_goodbyes_of_a_program_that_is_gone_are_heard() {
    let mut guest = guest();
    let mut service = guest.start_agent();
    let mut host = Host::attach(&guest, &mut service, 0);
    let id = region(host.link(&mut service, "numbers", RegionKind::Ring, 8)).region;
    host.prove(&mut service, id);
    let mut program = Program::start(&mut service, USER);
    region(program.ask(&mut service, &ring("numbers")).0);
    // Its last answers and bells are not read any more.
    program.send(&Request::Close { region: 12345 });
    turn(&mut service);
    program.send(&Request::Close { region: 12345 });
    program.send(&Request::Close { region: id });
    drop(program);
    turn(&mut service);
    turn(&mut service);
    assert_eq!(service.programs.len(), 0);
    let memory = guest.map(id, 8192);
    let presence = Presence::read(&*memory, Side::Guest).expect("readable");
    assert_eq!(presence.state, PresenceState::Left);
}

#[test]
fn users_get_what_the_rules_name_for_them_and_learn_of_nothing_else() {
    let mut guest = guest();
    let mut service = guest.start_agent();
    let mut host = Host::attach(&guest, &mut service, 0);
    let id = region(host.link(&mut service, "numbers", RegionKind::Ring, 8)).region;
    host.prove(&mut service, id);
    let secret = region(host.link(&mut service, "secret", RegionKind::Ring, 8)).region;
    host.prove(&mut service, secret);
    region(host.open(&mut service, "pipe", RegionKind::Pipe));

    let mut stranger = Program::start(&mut service, 1002);
    let mut texts = BTreeSet::new();
    for name in ["secret", "nosuch"] {
        for request in [ring(name), named(name)] {
            let (reply, file) = stranger.ask(&mut service, &request);
            assert!(file.is_none());
            assert_eq!(refusal(reply), RefusalCode::Denied);
            let Reply::Refused { explanation, .. } = reply else {
                panic!("a refusal")
            };
            texts.insert(explanation.as_str().replace(name, "NAME"));
        }
    }
    assert_eq!(texts.len(), 1, "{texts:?}");
    let text = texts.first().expect("one");
    assert!(
        text.contains("user 1002") && text.contains("agent.toml"),
        "{text}"
    );

    let mut reader = Program::start(&mut service, 1001);
    assert!(reader.ask(&mut service, &ring("numbers")).1.is_some());
    let request = named("numbers");
    assert_eq!(
        refused(&mut reader, &mut service, &request),
        RefusalCode::Denied
    );
    let pipe = link("pipe", RegionKind::Stream, 0, Role::End);
    assert_eq!(
        refused(&mut reader, &mut service, &pipe),
        RefusalCode::WrongKind
    );
    let mut maker = Program::start(&mut service, USER);
    assert_eq!(
        refused(&mut maker, &mut service, &ring("numbers")),
        RefusalCode::Busy
    );
    let mut big = ring("own-1");
    if let Request::Link { size, .. } = &mut big {
        *size = 3 * MIB;
    }
    assert_eq!(refused(&mut maker, &mut service, &big), RefusalCode::Denied);
    let mut root = Program::start(&mut service, 0);
    if let Request::Link { size, .. } = &mut big {
        *size = LIMIT;
    }
    assert_eq!(
        refused(&mut root, &mut service, &big),
        RefusalCode::OverBudget
    );
    let pipe = named("pipe");
    assert_eq!(
        refused(&mut root, &mut service, &pipe),
        RefusalCode::WrongKind
    );
    for name in ["", "../x", "a b"] {
        let request = ring(name);
        assert_eq!(
            refused(&mut stranger, &mut service, &request),
            RefusalCode::Invalid
        );
    }
    // Huge pages can be taken out of a file under the host's hands.
    service.hugetlb = true;
    let watch = link("numbers", RegionKind::Ring, 8, Role::Watch);
    assert_eq!(
        refused(&mut maker, &mut service, &watch),
        RefusalCode::CannotPin
    );
    assert!(root.ask(&mut service, &watch).1.is_some());
}

#[test]
fn a_user_who_may_not_make_a_region_is_told_that_it_is_not_there_and_why() {
    let mut guest = guest();
    let mut service = guest.start_agent();
    let mut host = Host::attach(&guest, &mut service, 0);
    let mut reader = Program::start(&mut service, 1001);
    let (reply, _) = reader.ask(&mut service, &ring("numbers"));
    assert_eq!(refusal(reply), RefusalCode::NotFound, "it may come yet");
    let Reply::Refused { explanation, .. } = reply else {
        panic!("a refusal")
    };
    let text = explanation.as_str();
    for part in [
        "there is no region",
        "user 1001 may not make it",
        "agent.toml",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(service.regions.find("numbers").is_none());
    let id = region(host.link(&mut service, "numbers", RegionKind::Ring, 8)).region;
    host.prove(&mut service, id);
    assert_eq!(
        region(reader.ask(&mut service, &ring("numbers")).0).region,
        id
    );
}

#[test]
fn a_program_uses_only_what_it_holds() {
    let mut guest = guest();
    let mut service = guest.start_agent();
    let mut host = Host::attach(&guest, &mut service, 0);
    let id = region(host.link(&mut service, "numbers", RegionKind::Ring, 8)).region;
    host.prove(&mut service, id);
    let mut one = Program::start(&mut service, USER);
    let mut other = Program::start(&mut service, 1001);
    region(one.ask(&mut service, &ring("numbers")).0);
    for request in [
        Request::Extents {
            region: id,
            first: 0,
        },
        Request::Proved {
            region: id,
            placement: 0,
        },
        Request::Bench {
            region: id,
            mode: 1,
        },
        Request::Create {
            kind: RegionKind::Raw,
            size: MIB,
            name: Text::new("own-2"),
        },
        Request::Open {
            kind: RegionKind::Ring,
            size: 0,
            name: Text::new("numbers"),
        },
    ] {
        let code = refused(&mut one, &mut service, &request);
        assert_eq!(code, RefusalCode::Unsupported, "{request:?}");
    }
    for region in [id, 1, 2, 0, u64::MAX] {
        let request = Request::Close { region };
        let code = refused(&mut other, &mut service, &request);
        assert_eq!(code, RefusalCode::NotFound);
        other.send(&Request::Bell { region });
    }
    // A bell of the host's reaches those that hold the region.
    host.send(&Request::Bell { region: id });
    turn(&mut service);
    let bell = Reply::Bell { region: id };
    assert!(matches!(one.receive(), Some((0, reply, None)) if reply == bell));
    assert!(other.receive().is_none());
    assert!(host.receive().is_none(), "a bell is not answered");
    let close = Request::Close { region: id };
    assert_eq!(one.ask(&mut service, &close).0, Reply::Done);
    region(other.ask(&mut service, &ring("numbers")).0);
}

#[test]
fn holders_of_a_removed_region_are_told_and_those_that_wait_for_it_refused() {
    let mut guest = guest();
    let mut service = guest.start_agent();
    let mut host = Host::attach(&guest, &mut service, 0);
    let id = region(host.link(&mut service, "numbers", RegionKind::Ring, 8)).region;
    let mut waiter = Program::start(&mut service, 1001);
    let tag = waiter.send(&ring("numbers"));
    turn(&mut service);
    let mut maker = Program::start(&mut service, USER);
    let remove = named("numbers");
    assert_eq!(maker.ask(&mut service, &remove).0, Reply::Done);
    let (answered, reply, _) = waiter.receive().expect("an answer");
    assert_eq!((answered, refusal(reply)), (tag, RefusalCode::NotFound));

    let close = Request::Close { region: id };
    assert_eq!(host.ask(&mut service, &close), Reply::Done);
    assert!(guest.frees(id));
    let id = region(host.link(&mut service, "numbers", RegionKind::Ring, 8)).region;
    host.prove(&mut service, id);
    region(waiter.ask(&mut service, &ring("numbers")).0);
    assert_eq!(host.ask(&mut service, &remove), Reply::Done);
    match waiter.receive() {
        Some((0, Reply::Ended { region, cause, .. }, None)) => {
            assert_eq!((region, cause), (id, EndCause::Removed));
        }
        other => panic!("{other:?}"),
    }
    let close = Request::Close { region: id };
    host.ask(&mut service, &close);
    assert!(guest.holds(id), "the program holds it");
    assert_eq!(waiter.ask(&mut service, &close).0, Reply::Done);
    assert!(guest.frees(id));
}

#[test]
fn the_first_word_is_hello_in_a_version_that_fits() {
    let mut guest = guest();
    let mut service = guest.start_agent();
    let program = Program::connect(&mut service, USER);
    program.send_bytes(Datagram::new(&named("numbers").to_message(1)).bytes());
    turn(&mut service);
    assert!(program.is_over());

    let program = Program::connect(&mut service, USER);
    let other = Version { major: 9, minor: 3 };
    program.send_bytes(Datagram::hello(other).bytes());
    turn(&mut service);
    match program.receive() {
        Some((0, Reply::Refused { code, explanation }, None)) => {
            assert_eq!(code, RefusalCode::Unsupported);
            let text = explanation.as_str();
            assert!(text.contains("9.3") && text.contains(&VERSION.to_string()));
        }
        other => panic!("{other:?}"),
    }
    assert!(program.is_over());

    let program = Program::start(&mut service, USER);
    program.send_bytes(Datagram::hello(VERSION).bytes());
    turn(&mut service);
    assert!(program.is_over(), "one hello is enough");
    assert_eq!(service.programs.len(), 0);
}

#[test]
fn a_program_that_never_reads_loses_its_connection_and_what_it_held() {
    let mut guest = guest();
    let mut service = guest.start_agent();
    let mut host = Host::attach(&guest, &mut service, 0);
    let id = region(host.link(&mut service, "numbers", RegionKind::Ring, 8)).region;
    host.prove(&mut service, id);
    let mut program = Program::start(&mut service, USER);
    region(program.ask(&mut service, &ring("numbers")).0);
    let request = Request::Close { region: 12345 };
    for _ in 0..100_000 {
        if service.programs.len() == 0 {
            break;
        }
        let message = Datagram::new(&request.to_message(1));
        let flags = rustix::net::SendFlags::NOSIGNAL;
        let _ = rustix::net::send(&program.socket, message.bytes(), flags);
        turn(&mut service);
    }
    assert_eq!(service.programs.len(), 0);
    let mut next = Program::start(&mut service, 1001);
    region(next.ask(&mut service, &ring("numbers")).0);
}
