//! Programs that send descriptors whose closing takes long: TCP connections full of data
//! that nobody reads, which linger. The agent's loop must not be the one that waits.

use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType,
};
use vmshm_link::VERSION;
use vmshm_link::beacon::AGENT_PULSE;
use vmshm_link::control::Request;
use vmshm_link::directory::RegionKind;
use vmshm_link::local::{Datagram, MAX_DATAGRAM};
use vmshm_shm::{PAGE_SIZE, SharedMemory};

use super::program_reader;
use super::program_simulation::Program;
use super::program_tests::{USER, guest};
use super::simulation::{Host, region, turn};

/// How long closing takes.
const LINGER: Duration = Duration::from_secs(4);
/// For what takes a moment where nothing is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// A TCP connection that lingers when it is closed, and its other end, which reads nothing.
fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 1 << 14).expect("set");
    let address = listener.local_addr().expect("bound");
    let mut stream = TcpStream::connect(address).expect("connects");
    let (other, _) = listener.accept().expect("accepted");
    stream.set_nonblocking(true).expect("set");
    // What is on its way may still find room at the other end.
    let mut full = 0;
    while full < 10 {
        full = match stream.write(&[0; 1 << 16]) {
            Ok(_) => 0,
            Err(_) => full + 1,
        };
        if full > 0 {
            thread::sleep(Duration::from_millis(10));
        }
    }
    stream.set_nonblocking(false).expect("set");
    rustix::net::sockopt::set_socket_linger(&stream, Some(LINGER)).expect("set");
    (stream, other)
}

/// Sends a datagram with the last descriptor of a connection, before anybody receives it:
/// while it is in flight it can be closed here without waiting.
fn send_lingering(socket: impl AsFd, bytes: &[u8], stream: TcpStream) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [stream.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&files));
    let parts = [IoSlice::new(bytes)];
    let sent = rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL);
    assert_eq!(sent, Ok(bytes.len()));
}

/// Asks what is answered at once; whether an answer came.
fn is_answered(program: &mut Program) -> bool {
    program.send(&Request::Close { region: 12345 });
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if program.receive().is_some() {
            return true;
        }
        thread::sleep(Duration::from_millis(1));
    }
    false
}

#[test]
fn a_descriptor_that_lingers_keeps_only_its_senders_thread() {
    let mut guest = guest();
    let mut service = guest.start_agent();
    let mut host = Host::attach(&guest, &mut service, 0);
    let mut other = Program::start(&mut service, 1001);
    let beacon = guest.map(1, PAGE_SIZE);
    let (signals, mut end) = UnixStream::pair().expect("a socket pair");
    signals.set_nonblocking(true).expect("set");
    let (stream, _unread) = lingering();
    let start = Instant::now();
    let hello = Datagram::hello(VERSION);
    let hostile = Program::connect_after(&mut service, USER, |socket| {
        send_lingering(socket, hello.bytes(), stream);
    });
    let agent = thread::spawn(move || service.serve(&signals));
    let pulse = beacon.load_relaxed(AGENT_PULSE).expect("inside");
    // Whoever sends a descriptor is hung up, once it is closed. Others notice nothing.
    let mut answers = 0;
    while !hostile.is_over() {
        assert!(is_answered(&mut other), "a program is not served");
        answers += 1;
        assert!(start.elapsed() < PATIENCE, "nobody is hung up");
    }
    assert!(start.elapsed() >= LINGER / 2, "nothing has lingered");
    assert!(answers > 5, "{answers} answers");
    let beaten = beacon.load_relaxed(AGENT_PULSE).expect("inside") - pulse;
    assert!(beaten > 5, "{beaten} beats");
    host.send(&super::simulation::link(
        "x",
        RegionKind::Ring,
        8,
        vmshm_link::control::Role::End,
    ));
    let reply = loop {
        if let Some(reply) = host.receive() {
            break reply;
        }
        assert!(start.elapsed() < PATIENCE, "the host is not served");
        thread::sleep(Duration::from_millis(1));
    };
    assert!(!region(reply).ready);
    end.write_all(&[1]).expect("sent");
    agent.join().expect("no panic").expect("served to the end");
}

#[test]
fn a_connection_counts_until_it_is_closed() {
    let mut guest = guest();
    let mut service = guest.start_agent();
    let (stream, _unread) = lingering();
    let start = Instant::now();
    // No greeting: the agent hangs up.
    let hostile = Program::connect_after(&mut service, USER, |socket| {
        let sent = rustix::net::send(socket, &[1; 40], SendFlags::NOSIGNAL);
        assert_eq!(sent, Ok(40));
        send_lingering(socket, &[1; 40], stream);
    });
    let user = service.programs.iter().next().expect("there").user.clone();
    let mut others: Vec<Program> = Vec::new();
    while service.programs.room_for(&user).is_ok() {
        others.push(Program::connect(&mut service, USER));
    }
    while service.programs.len() > others.len() {
        // Not `turn`, which waits for the threads.
        service.poll_programs().expect("polls");
        service.serve_waiting().expect("serves");
    }
    assert!(hostile.is_over());
    assert!(service.programs.room_for(&user).is_err(), "it still counts");
    assert!(start.elapsed() < LINGER, "the loop has lingered");
    while service.programs.room_for(&user).is_err() {
        turn(&mut service);
        service.programs.count_round();
        assert!(start.elapsed() < PATIENCE, "it counts for ever");
    }
    assert!(start.elapsed() >= LINGER / 2, "nothing has lingered");
}

#[test]
fn a_program_holds_nothing_for_as_long_as_it_lingers() {
    let mut guest = guest();
    let mut service = guest.start_agent();
    let (stream, _unread) = lingering();
    let start = Instant::now();
    let _hostile = Program::connect_after(&mut service, USER, |socket| {
        send_lingering(socket, &[1; 40], stream);
    });
    while service.programs.len() > 0 {
        service.programs.look_at_all();
        service.poll_programs().expect("polls");
        service.serve_waiting().expect("serves");
        thread::sleep(Duration::from_millis(1));
    }
    assert!(start.elapsed() < LINGER, "it was hung up by its thread");
}

#[test]
fn a_refused_connection_is_closed_by_a_thread() {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .expect("a socket pair");
    let (stream, _unread) = lingering();
    send_lingering(&ours, &[1; 40], stream);
    let start = Instant::now();
    let closing = program_reader::close(std::sync::Arc::new(theirs)).expect("a thread");
    assert!(!closing.has_ended());
    assert!(start.elapsed() < LINGER, "the caller has lingered");
    // The other side sees the end at once or when it is closed: either way it comes.
    let mut bytes = [0; MAX_DATAGRAM];
    let _ = rustix::net::recv(&ours, &mut bytes[..], RecvFlags::empty());
    while !closing.has_ended() {
        assert!(start.elapsed() < PATIENCE, "it lingers for ever");
        thread::sleep(Duration::from_millis(1));
    }
    assert!(start.elapsed() >= LINGER / 2, "nothing has lingered");
}
