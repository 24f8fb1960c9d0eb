//! The agent's own loop under programs that never let it sleep.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, SendFlags};
use vmshm_link::control::Request;
use vmshm_link::directory::RegionKind;
use vmshm_link::local::{Datagram, MAX_DATAGRAM};

use super::local_protocol::{Answer, PROTOCOL, Question, Wish};
use super::program_simulation::Program;
use super::simulation::{Guest, Host, link, region};
use vmshm_channel::Channel;

/// For what takes a moment where nothing is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn programs_that_keep_the_agent_awake_keep_it_neither_from_hosts_nor_from_counting() {
    let mut guest = Guest::new();
    let mut service = guest.start_agent();
    let mut host = Host::attach(&guest, &mut service, 0);
    let floods: Vec<Program> = (0..3).map(|_| Program::start(&mut service, 0)).collect();
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    service.locals.add(Channel::new(theirs).expect("a channel"));
    let mut local = Channel::new(ours).expect("a channel");
    let (signals, mut end) = UnixStream::pair().expect("a socket pair");
    signals.set_nonblocking(true).expect("set");
    let agent = thread::spawn(move || service.serve(&signals));

    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let flooding = thread::spawn(move || {
        let question = Request::Close { region: 12345 }.to_message(1);
        let mut answers = 0_u64;
        while !flag.load(Ordering::Relaxed) {
            for program in &floods {
                let bytes = *Datagram::new(&question)
                    .bytes()
                    .first_chunk::<32>()
                    .expect("whole");
                let _ = rustix::net::send(&program.socket, &bytes, SendFlags::NOSIGNAL);
                let mut answer = [0; MAX_DATAGRAM];
                while rustix::net::recv(&program.socket, &mut answer[..], RecvFlags::DONTWAIT)
                    .is_ok_and(|(length, _)| length > 0)
                {
                    answers += 1;
                }
            }
        }
        answers
    });

    host.send(&link(
        "x",
        RegionKind::Ring,
        8,
        vmshm_link::control::Role::End,
    ));
    let start = Instant::now();
    let deadline = start + PATIENCE;
    let reply = loop {
        if let Some(reply) = host.receive() {
            break reply;
        }
        assert!(Instant::now() < deadline, "the host is not served");
        thread::sleep(Duration::from_millis(1));
    };
    assert!(!region(reply).ready);
    // The host says nothing any more, which is counted in rounds that are slept out, so
    // that it never seems longer than it is.
    let question = Question {
        protocol: PROTOCOL,
        wish: Wish::Sessions,
    };
    loop {
        local.send(&question, None).expect("sent");
        let (answer, _) = local.next::<Answer>(PATIENCE).expect("an answer");
        let Answer::Sessions(sessions) = answer else {
            panic!("{answer:?}")
        };
        if sessions.iter().any(|session| session.silent_seconds > 0) {
            assert!(start.elapsed() > Duration::from_millis(800));
            break;
        }
        assert!(Instant::now() < deadline, "silence is not counted");
        thread::sleep(Duration::from_millis(20));
    }
    stop.store(true, Ordering::Relaxed);
    assert!(flooding.join().expect("ends") > 0);
    end.write_all(&[1]).expect("sent");
    agent.join().expect("no panic").expect("served to the end");
}
