//! Streams: bytes, their end, and whose they are.

use std::io::{ErrorKind, Read, Write};
use std::thread;

use vmshm_endpoint::{Connection, End, Gone, LinkFailure, Stream, loopback};

use crate::{LONG, Numbers, SHORT};

type Host = Stream<loopback::Loopback<loopback::AtHost>>;
type Guest = Stream<loopback::Loopback<loopback::InGuest>>;

pub fn bytes(length: usize) -> Vec<u8> {
    let mut numbers = Numbers(length as u64 + 1);
    (0..length)
        .map(|_| numbers.below(256).to_le_bytes()[0])
        .collect()
}

/// Sends all, and gives what came back.
#[cfg(feature = "futures")]
pub fn exchange(stream: &mut Host, sends: &[u8]) -> Vec<u8> {
    stream.write_all(sends).expect("writes");
    stream.finish().expect("finishes");
    let mut received = Vec::new();
    stream.read_to_end(&mut received).expect("reads");
    received
}

fn streams() -> (Host, Guest) {
    let (host, guest) = loopback::pair();
    (
        host.region("s").size(1 << 14).stream().expect("opens"),
        guest.region("s").stream().expect("opens"),
    )
}

fn failure(error: &std::io::Error) -> LinkFailure {
    error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<LinkFailure>())
        .expect("the reason is inside")
        .clone()
}

fn talk(stream: Stream<impl Connection>, sends: &[u8], receives: &[u8]) {
    let (mut reader, mut writer) = stream.split();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut rest = sends;
            let mut length = 1;
            while !rest.is_empty() {
                let (now, later) = rest.split_at(length.min(rest.len()));
                writer.write_all(now).expect("writes");
                (rest, length) = (later, length * 7 % 5000 + 1);
            }
            writer.finish().expect("finishes");
            writer.finish().expect("is finished");
            let late = writer.write(b"late").expect_err("after the end");
            assert_eq!(late.kind(), ErrorKind::BrokenPipe);
            assert_eq!(failure(&late), LinkFailure::Finished);
            assert_eq!(writer.write(b"").expect("nothing"), 0);
            writer
        });
        let mut received = Vec::new();
        reader.read_to_end(&mut received).expect("reads");
        assert!(received == receives);
        assert_eq!(reader.read(&mut [0; 1]).expect("stays at the end"), 0);
    });
}

#[test]
fn both_directions_carry_bytes_to_their_end() {
    let (ours, theirs) = streams();
    let (there, back) = (bytes(300_000), bytes(70_001));
    thread::scope(|scope| {
        scope.spawn(|| talk(ours, &there, &back));
        talk(theirs, &back, &there);
    });
}

#[test]
fn an_empty_stream_ends_too() {
    let (mut ours, mut theirs) = streams();
    ours.finish().expect("finishes");
    assert_eq!(theirs.read(&mut [0; 9]).expect("the end"), 0);
    theirs
        .write_all(b"back")
        .expect("the other direction is open");
    let mut back = [0; 4];
    ours.read_exact(&mut back).expect("comes");
    assert_eq!(&back, b"back");
}

#[test]
fn a_write_waits_for_the_other_side_to_come() {
    let (host, guest) = loopback::pair();
    let mut ours = host.region("s").size(1 << 14).stream().expect("opens");
    ours.set_timeout(Some(SHORT));
    let alone = ours.write(b"anybody?").expect_err("nobody is there");
    assert_eq!(alone.kind(), ErrorKind::TimedOut);
    assert_eq!(
        ours.read(&mut [0; 1]).expect_err("none").kind(),
        ErrorKind::TimedOut
    );
    ours.set_timeout(Some(LONG));
    thread::scope(|scope| {
        scope.spawn(move || {
            ours.write_all(b"hello")
                .and_then(|()| ours.finish())
                .expect("sends")
        });
        let mut theirs = guest.region("s").stream().expect("opens");
        let mut text = String::new();
        theirs.read_to_string(&mut text).expect("comes");
        assert_eq!(text, "hello");
    });
}

#[test]
fn what_was_sent_is_read_before_a_death_is_told() {
    for (in_order, how) in [(true, Gone::Left), (false, Gone::Lost)] {
        let (host, guest) = loopback::pair();
        let mut ours = host.region("s").size(1 << 14).stream().expect("opens");
        let mut theirs = guest.region("s").stream().expect("opens");
        theirs.write_all(b"the last words").expect("writes");
        if in_order {
            theirs.close();
        } else {
            guest.kill();
            assert_eq!(
                failure(&theirs.write(b"x").expect_err("dead")),
                LinkFailure::Ended(End::AgentDied)
            );
        }
        let mut words = [0; 14];
        ours.read_exact(&mut words).expect("was sent");
        assert_eq!(&words, b"the last words");
        let error = ours.read(&mut words).expect_err("no end came");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert_eq!(failure(&error), LinkFailure::PeerGone(how));
        let error = ours.write(b"x").expect_err("nobody reads");
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        assert_eq!(failure(&error), LinkFailure::PeerGone(how));
    }
}

#[test]
fn a_successor_gets_nothing_of_its_predecessors_stream() {
    let (host, guest) = loopback::pair();
    let mut ours = host.region("s").size(1 << 14).stream().expect("opens");
    let mut theirs = guest.region("s").stream().expect("opens");
    ours.write_all(b"for the first").expect("writes");
    let mut part = [0; 3];
    theirs.read_exact(&mut part).expect("comes");
    guest.kill();
    theirs.reconnect(LONG).expect("opens again");
    let error = ours.write(b"x").expect_err("another is there");
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    assert_eq!(failure(&error), LinkFailure::PeerGone(Gone::Replaced));
    let error = ours.read(&mut part).expect_err("another is there");
    assert_eq!(failure(&error), LinkFailure::PeerGone(Gone::Replaced));
    theirs.set_timeout(Some(SHORT));
    let none = theirs.read(&mut part).expect_err("nothing is for it");
    assert_eq!(none.kind(), ErrorKind::TimedOut);
    ours.reconnect(LONG).expect("starts anew");
    ours.write_all(b"two").expect("writes");
    ours.finish().expect("finishes");
    let mut received = Vec::new();
    theirs.set_timeout(None);
    theirs.read_to_end(&mut received).expect("comes");
    assert_eq!(received, b"two");
}

#[test]
fn a_reader_sees_its_writer_replaced() {
    let (host, guest) = loopback::pair();
    let mut ours = host.region("s").size(1 << 14).stream().expect("opens");
    let mut theirs = guest.region("s").stream().expect("opens");
    theirs.write_all(b"a").expect("writes");
    theirs.reconnect(LONG).expect("opens again");
    theirs
        .write_all(b"b")
        .expect("a new stream for the same reader");
    let mut byte = [0; 1];
    ours.read_exact(&mut byte).expect("was sent");
    assert_eq!(&byte, b"a");
    for _ in 0..2 {
        let error = ours.read(&mut byte).expect_err("cut off");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert_eq!(failure(&error), LinkFailure::PeerGone(Gone::Replaced));
    }
}

#[test]
fn an_ended_session_is_told_to_both_directions() {
    let (host, guest) = loopback::pair();
    let ours = host.region("s").size(1 << 14).stream().expect("opens");
    let theirs = guest.region("s").stream().expect("opens");
    let (mut reader, mut writer) = ours.split();
    thread::scope(|scope| {
        scope.spawn(move || {
            let error = reader.read(&mut [0; 1]).expect_err("over");
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
            assert_eq!(failure(&error), LinkFailure::Ended(End::AgentRestarted));
        });
        scope.spawn(move || {
            let error = writer.write_all(&bytes(1 << 20)).expect_err("over");
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        });
        thread::sleep(SHORT);
        host.end(&End::AgentRestarted);
    });
    drop(theirs);
}

/// A reader that went left more than one look skips; what its successor is sent comes all the same,
/// also when its sender has gone.
#[test]
fn what_was_for_a_reader_that_went_is_skipped_however_much() {
    let (host, guest) = loopback::pair();
    let mut sender = host.region("s").size(1 << 16).stream().expect("opens");
    let gone = guest.region("s").stream().expect("opens");
    for _ in 0..300 {
        assert_eq!(sender.write(b"x").expect("there is room"), 1);
    }
    drop((gone, sender));
    let mut reader = guest.region("s").stream().expect("opens");
    let mut sender = host.region("s").stream().expect("opens");
    reader.write_all(b"request").expect("there is room");
    sender.read_exact(&mut [0; 7]).expect("it comes");
    sender.write_all(b"hello").expect("there is room");
    sender.finish().expect("there is room");
    drop(sender);
    let mut all = Vec::new();
    reader.read_to_end(&mut all).expect("all of it");
    assert_eq!(all, b"hello");
}
