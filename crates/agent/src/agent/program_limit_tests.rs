//! Programs of the guest that want too much, or send garbage.

use proptest::prelude::*;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use vmshm_link::control::{RefusalCode, Request, Role};
use vmshm_link::directory::RegionKind;
use vmshm_link::fields::Text;
use vmshm_link::local::{Datagram, HELLO, MAX_DATAGRAM};

use super::program_simulation::Program;
use super::program_socket;
use super::program_tests::{USER, guest, refused, ring};
use super::programs;
use super::service::Service;
use super::simulation::{Host, region, turn};

#[test]
fn one_connection_holds_and_waits_for_so_many() {
    let mut guest = guest();
    let mut service = guest.start_agent();
    let mut program = Program::start(&mut service, USER);
    for index in 0..16 {
        let mut request = ring(&format!("own-{index}"));
        if let Request::Link { size, .. } = &mut request {
            *size = 16 << 10;
        }
        program.send(&request);
    }
    for _ in 0..10 {
        turn(&mut service);
    }
    assert!(program.receive().is_none());
    let code = refused(&mut program, &mut service, &ring("own-16"));
    assert_eq!(code, RefusalCode::Busy);
}

#[test]
fn ten_thousand_connections_leave_room_for_root_and_time_for_hosts() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("programs.sock");
    let mut guest = guest();
    let mut service = guest.start_agent();
    let listener = program_socket::listen(&path).expect("listens");
    service.programs =
        programs::Programs::new(Some(listener), guest.rules.clone()).expect("descriptors");
    let mut host = Host::attach(&guest, &mut service, 0);
    // The limits of users are tried below; the socket is the same for all.
    let address = SocketAddrUnix::new(&path).expect("a path");
    let mut open = Vec::new();
    let mut ended = 0;
    for index in 0..10_000 {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .expect("a socket");
        while rustix::net::connect(&socket, &address).is_err() {
            turn(&mut service);
        }
        // As many stay open as this process may have.
        if index < 300 {
            open.push(socket);
        } else {
            ended += 1;
        }
        if index == 5_000 {
            let reply = host.link(&mut service, "numbers", RegionKind::Ring, 8);
            assert!(!region(reply).ready);
        }
    }
    for _ in 0..1_000 {
        turn(&mut service);
    }
    assert_eq!(ended + open.len(), 10_000);
    // Root has all places, a user of whom the rules do not know those of one user.
    let is_root = rustix::process::geteuid().is_root();
    assert_eq!(service.programs.len(), if is_root { 256 } else { 32 });
    drop(open);
    for _ in 0..10 {
        turn(&mut service);
    }
    assert_eq!(service.programs.len(), 0);
}

#[test]
fn one_user_takes_no_others_places() {
    let mut guest = guest();
    let mut service = guest.start_agent();
    let user = |uid: u32| vmshm_channel::credentials::User {
        uid,
        gid: uid,
        groups: Vec::new(),
    };
    let mut kept = Vec::new();
    let mut fill = |service: &mut Service, uid: u32, wanted: usize| {
        let mut taken = 0;
        while taken < wanted && service.programs.room_for(&user(uid)).is_ok() {
            kept.push(Program::connect(service, uid));
            taken += 1;
        }
        taken
    };
    assert_eq!(fill(&mut service, USER, 300), 32);
    assert_eq!(fill(&mut service, 1001, 300), 32);
    // Users that no rule names share what one user has.
    assert_eq!(fill(&mut service, 5000, 20), 20);
    assert_eq!(fill(&mut service, 5001, 20), 12);
    assert_eq!(fill(&mut service, 0, 300), 256 - 96);
    assert_eq!(fill(&mut service, 0, 300), 0);
}

/// What a program may send: anything, and things that look nearly right.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop::collection::vec(any::<u8>(), 1..MAX_DATAGRAM + 40);
    let request =
        (0..12_u64, prop::collection::vec(any::<u8>(), 0..160)).prop_map(|(kind, payload)| {
            let mut bytes = kind.to_le_bytes().to_vec();
            bytes.extend(payload);
            bytes
        });
    let nearly = (0..3_u64, 0..7_u64, any::<u64>(), any::<u64>(), 0..3_u64).prop_map(
        |(name, kind, size, record, role)| {
            let request = Request::Link {
                kind: RegionKind::from_word(kind),
                size: size >> (size % 64),
                name: Text::new(&format!("own-{name}")),
                record: record >> (record % 64),
                role: if role == 0 { Role::Watch } else { Role::End },
            };
            Datagram::new(&request.to_message(record)).bytes().to_vec()
        },
    );
    let small = (5..10_u64, any::<u64>(), 0..8_u64)
        .prop_map(|(kind, tag, region)| [kind, tag, region, 0].map(u64::to_le_bytes).concat());
    let hello =
        any::<u64>().prop_map(|word| [u64::from(HELLO), 0, word].map(u64::to_le_bytes).concat());
    prop_oneof![bytes, request, nearly, small, hello]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn whatever_a_program_sends_the_agent_goes_on(
        datagrams in prop::collection::vec(datagram(), 1..60),
    ) {
        let mut guest = guest();
        let mut service = guest.start_agent();
        let mut host = Host::attach(&guest, &mut service, 0);
        let mut program = Program::start(&mut service, USER);
        for bytes in &datagrams {
            let flags = rustix::net::SendFlags::NOSIGNAL;
            if rustix::net::send(&program.socket, bytes, flags).is_err() {
                program = Program::start(&mut service, USER);
            }
            turn(&mut service);
        }
        let made = region(host.link(&mut service, "theirs", RegionKind::Ring, 8));
        host.prove(&mut service, made.region);
        drop(program);
        turn(&mut service);
        prop_assert_eq!(service.programs.len(), 0);
        let held = service.regions.iter().any(|region| region.openers.programs().next().is_some());
        prop_assert!(!held);
    }
}
