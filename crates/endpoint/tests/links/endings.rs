//! How links end, and what they say then.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use vmshm_endpoint::{Connection, End, LinkFailure, PresenceState, loopback};
use vmshm_link::LinkError;

use crate::LONG;

#[test]
fn every_reason_reaches_whoever_waits() {
    let reasons = [
        End::VmGone { pid: 5 },
        End::AgentDied,
        End::AgentRestarted,
        End::AgentLeft,
        End::GuestRestarted,
        End::RegionDamaged("pages were taken out of it".to_owned()),
    ];
    for reason in reasons {
        let (host, guest) = loopback::pair();
        let mut ring = host
            .region("ring")
            .size(1 << 13)
            .ring::<u64>()
            .expect("opens");
        let mut full = host
            .region("full")
            .size(1 << 13)
            .byte_ring()
            .expect("opens");
        let mut latest = host.region("latest").latest::<u64>().expect("opens");
        let theirs = guest.region("watched").latest::<u64>().expect("opens");
        let mut watch = host.region("watched").watch_latest::<u64>().expect("opens");
        while full.try_send(&[1; 100]).expect("open") {}
        let ended = Err(LinkFailure::Ended(reason.clone()));
        thread::scope(|scope| {
            let ended = &ended;
            scope.spawn(move || assert_eq!(ring.receive().map(drop), *ended));
            scope.spawn(move || assert_eq!(full.send(&[1; 100]), *ended));
            scope.spawn(move || assert_eq!(latest.wait_newer(0, LONG).map(drop), *ended));
            scope.spawn(move || assert_eq!(watch.wait_newer(0, LONG).map(drop), *ended));
            thread::sleep(Duration::from_millis(20));
            host.end(&reason);
        });
        drop((guest, theirs));
    }
}

#[test]
fn a_removed_region_ends_on_both_sides_and_its_name_is_free() {
    let (host, guest) = loopback::pair();
    let mut ours = host.region("a").size(1 << 13).ring::<u64>().expect("opens");
    let mut theirs = guest.region("a").ring::<u64>().expect("opens");
    guest.remove("a", LONG).expect("is there");
    assert!(guest.remove("a", LONG).is_err());
    let removed = Err(LinkFailure::Ended(End::RegionRemoved));
    assert_eq!(ours.send(&1), removed);
    assert_eq!(theirs.try_receive().map(drop), removed);
    assert_eq!(theirs.peer().map(drop), removed);
    assert!(
        ours.reconnect(LONG).is_ok(),
        "its wish has a size, so it is made anew"
    );
    assert_eq!(ours.try_receive(), Ok(None));
}

#[test]
fn a_right_that_was_taken_away_stops_every_write() {
    let (host, guest) = loopback::pair();
    let mut ring = host
        .region("ring")
        .size(1 << 13)
        .ring::<u64>()
        .expect("opens");
    let mut theirs = guest.region("ring").ring::<u64>().expect("opens");
    let mut latest = host.region("latest").latest::<u64>().expect("opens");
    let raw = host.region("raw").size(4096).raw().expect("opens");
    ring.send(&1).expect("open");
    host.revoke();
    let revoked = Err(LinkFailure::Ended(End::Link(LinkError::Revoked)));
    assert_eq!(ring.send(&2), revoked);
    assert_eq!(latest.publish(&2).map(drop), revoked);
    assert_eq!(raw.store(0, 1), revoked);
    assert_eq!(theirs.receive(), Ok(1));
    assert_eq!(theirs.try_receive(), Ok(None));
    ring.reconnect(LONG).expect("a new session");
    ring.send(&3).expect("open");
    assert_eq!(theirs.receive(), Ok(3));
}

#[test]
fn a_failing_memory_is_explained_by_whoever_watches_the_session() {
    let (host, _guest) = loopback::pair();
    let mut ring = host.region("a").size(1 << 13).ring::<u64>().expect("opens");
    host.kill_after(3);
    let failure = loop {
        if let Err(failure) = ring.try_send(&1) {
            break failure;
        }
    };
    assert_eq!(failure, LinkFailure::Ended(End::AgentDied));
    assert!(failure.hint().is_some());
}

#[test]
fn a_hostile_word_ends_the_link_for_good() {
    use vmshm_endpoint::{RegionKind, Role, Wish};
    use vmshm_shm::SharedMemory;

    let (host, guest) = loopback::pair();
    let ring = host.region("a").size(1 << 13).ring::<u64>().expect("opens");
    let held = guest
        .open(&Wish {
            name: "a".to_owned(),
            kind: RegionKind::Ring,
            size: 0,
            record: 8,
            role: Role::End,
            timeout: Duration::ZERO,
        })
        .expect("opens");
    held.memory
        .store_release(vmshm_endpoint::Side::Guest.front(), u64::MAX)
        .expect("inside");
    let (sender, mut receiver) = ring.split();
    let started = Instant::now();
    let failure = receiver.receive().expect_err("a hostile tail");
    assert!(matches!(
        failure,
        LinkFailure::Ended(End::Link(LinkError::Violation { .. }))
    ));
    assert!(started.elapsed() < LONG);
    assert_eq!(receiver.try_receive(), Err(failure.clone()));
    assert_eq!(sender.peer(), Err(failure));
}

#[test]
fn presence_tells_who_is_there() {
    let (host, guest) = loopback::pair();
    let mut ours = host.region("a").size(1 << 13).ring::<u64>().expect("opens");
    let expect = |state, count| {
        let peer = ours.peer().expect("open");
        assert_eq!((peer.state, peer.count), (state, count));
    };
    expect(PresenceState::Absent, 0);
    let theirs = guest.region("a").ring::<u64>().expect("opens");
    expect(PresenceState::Present, 1);
    theirs.close();
    expect(PresenceState::Left, 1);
    let theirs = guest.region("a").ring::<u64>().expect("opens");
    expect(PresenceState::Present, 2);
    guest.kill();
    expect(PresenceState::Lost, 2);
    drop(theirs);
    expect(PresenceState::Lost, 2);
    assert!(
        guest.region("a").ring::<u64>().is_err(),
        "the dead open nothing"
    );
    let another = guest.another();
    let theirs = another.region("a").ring::<u64>().expect("opens");
    expect(PresenceState::Present, 3);
    drop((theirs, Arc::clone(&another)));
    expect(PresenceState::Left, 3);
    ours.reconnect(LONG).expect("also where nothing is over");
    assert_eq!(ours.send(&1), Ok(()));
}
