//! Streams as `AsyncRead` and `AsyncWrite`, with an executor that knows nothing of them.

use std::io::ErrorKind;
use std::thread;

use futures_lite::future::{block_on, poll_once, zip};
use futures_lite::io::{AsyncReadExt, AsyncWriteExt};
use vmshm_endpoint::{Connection, End, Stream, loopback};

use crate::streams::{bytes, exchange};

async fn talk(stream: Stream<impl Connection>, sends: &[u8], receives: &[u8]) {
    let (mut reader, mut writer) = stream.split();
    let send = async {
        writer.write_all(sends).await.expect("writes");
        writer.close().await.expect("finishes");
    };
    let mut received = Vec::new();
    let receive = async { reader.read_to_end(&mut received).await.expect("reads") };
    zip(send, receive).await;
    assert!(received == receives);
}

#[test]
fn two_tasks_exchange_bytes_on_one_thread() {
    let (host, guest) = loopback::pair();
    let ours = host.region("s").size(1 << 14).stream().expect("opens");
    let theirs = guest.region("s").stream().expect("opens");
    let (there, back) = (bytes(200_000), bytes(100_001));
    block_on(zip(talk(ours, &there, &back), talk(theirs, &back, &there)));
}

#[test]
fn a_task_and_a_blocking_program_exchange_bytes() {
    for pair in [loopback::pair(), loopback::pair_without_doorbell()] {
        let (host, guest) = pair;
        let mut ours = host.region("s").size(1 << 14).stream().expect("opens");
        let theirs = guest.region("s").stream().expect("opens");
        let (there, back) = (bytes(50_000), bytes(60_000));
        thread::scope(|scope| {
            scope.spawn(|| block_on(talk(theirs, &back, &there)));
            let received = exchange(&mut ours, &there);
            assert!(received == back);
        });
    }
}

#[test]
fn a_waiting_task_is_told_of_the_end() {
    let (host, guest) = loopback::pair();
    let mut ours = host.region("s").size(1 << 14).stream().expect("opens");
    let theirs = guest.region("s").stream().expect("opens");
    let mut byte = [0; 1];
    assert!(block_on(poll_once(ours.read(&mut byte))).is_none());
    thread::scope(|scope| {
        scope.spawn(|| host.end(&End::AgentLeft));
        let error = block_on(ours.read(&mut byte)).expect_err("over");
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    });
    drop(theirs);
}

#[test]
fn a_stream_that_is_dropped_while_a_task_waits_lets_go_of_its_region() {
    let (host, guest) = loopback::pair();
    for _ in 0..50 {
        let mut ours = host
            .region("s")
            .size(1 << 14)
            .stream()
            .expect("the end is free");
        assert!(block_on(poll_once(ours.read(&mut [0; 1]))).is_none());
        assert!(block_on(poll_once(ours.write(b"x"))).is_none());
    }
    drop(guest);
}

#[test]
fn a_task_is_woken_to_skip_what_was_for_a_reader_that_went() {
    let (host, guest) = loopback::pair();
    let mut sender = host.region("s").size(1 << 16).stream().expect("opens");
    let gone = guest.region("s").stream().expect("opens");
    for _ in 0..300 {
        assert_eq!(std::io::Write::write(&mut sender, b"x").expect("room"), 1);
    }
    drop((gone, sender));
    let mut reader = guest.region("s").stream().expect("opens");
    let mut sender = host.region("s").stream().expect("opens");
    std::io::Write::write_all(&mut sender, b"hello").expect("room");
    let mut bytes = [0; 5];
    block_on(AsyncReadExt::read_exact(&mut reader, &mut bytes)).expect("it comes");
    assert_eq!(&bytes, b"hello");
}
