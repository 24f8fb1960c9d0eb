//! The newest value.

use std::thread;
use std::time::Duration;

use vmshm_endpoint::{LinkFailure, PresenceState, Side, loopback};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{LONG, SHORT};

#[derive(Debug, Clone, Copy, PartialEq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Value {
    pub words: [u64; 32],
}

#[test]
fn values_are_whole_and_newer_each_time() {
    let (host, guest) = loopback::pair();
    let mut ours = host.region("value").latest::<Value>().expect("opens");
    let mut theirs = guest.region("value").latest::<Value>().expect("opens");
    let mut watch = guest
        .another()
        .region("value")
        .watch_latest::<Value>()
        .expect("opens");
    let last = 20_000;
    thread::scope(|scope| {
        scope.spawn(move || {
            for number in 1..=last {
                let version = ours.publish(&Value {
                    words: [number; 32],
                });
                assert_eq!(version, Ok(number));
            }
            assert_eq!(ours.version(), last);
        });
        scope.spawn(move || {
            let mut seen = 0;
            while seen < last {
                let Some((version, value)) = watch.read().expect("honest") else {
                    continue;
                };
                assert!(version >= seen && value.words == [version; 32]);
                seen = version;
            }
        });
        let mut seen = 0;
        while seen < last {
            let (version, value) = theirs.wait_newer(seen, LONG).expect("comes");
            assert!(version > seen);
            assert_eq!(value.words, [version; 32]);
            seen = version;
        }
        assert_eq!(
            theirs.wait_newer(seen, SHORT),
            Err(LinkFailure::Timeout(SHORT))
        );
        assert_eq!(theirs.newest(), Ok(last));
    });
}

#[test]
fn bytes_of_any_length_up_to_the_longest_are_published() {
    let (host, guest) = loopback::pair();
    let mut ours = host.region("status").latest_bytes(10).expect("opens");
    let mut theirs = guest.region("status").latest_bytes(10).expect("opens");
    let mut value = b"before".to_vec();
    assert_eq!(theirs.read(&mut value), Ok(None));
    assert_eq!(value, b"");
    for text in [&b"ten bytes!"[..], b"", b"four"] {
        let version = ours.publish(text).expect("fits");
        assert_eq!(
            theirs.wait_newer(version - 1, &mut value, LONG),
            Ok(version)
        );
        assert_eq!(value, text);
        assert_eq!(theirs.read(&mut value), Ok(Some(version)));
        assert_eq!(value, text);
    }
    let too_long = LinkFailure::TooLong {
        length: 11,
        limit: 10,
    };
    assert_eq!(ours.publish(b"eleven byte"), Err(too_long));
    assert_eq!(ours.publish(b"again"), Ok(4));
}

#[test]
fn a_value_of_another_length_than_the_types_is_refused() {
    let (host, guest) = loopback::pair();
    let mut ours = host.region("status").latest_bytes(8).expect("opens");
    let mut theirs = guest.region("status").latest::<u64>().expect("opens");
    ours.publish(b"short").expect("fits");
    assert!(matches!(theirs.read(), Err(LinkFailure::Ended(_))));
}

#[test]
fn watchers_see_both_sides_write_nothing_and_take_no_end() {
    let (host, guest) = loopback::pair();
    let early = host.region("celsius").watch_latest::<u64>();
    assert!(early.is_err(), "a watcher makes nothing");
    let mut ours = host.region("celsius").latest::<u64>().expect("opens");
    let mut watchers: Vec<_> = (0..5)
        .map(|_| {
            guest
                .another()
                .region("celsius")
                .watch_latest::<u64>()
                .expect("opens")
        })
        .collect();
    let same = host.region("celsius").watch_latest_bytes(8);
    assert!(same.is_err(), "this connection has the end");
    let own = host.another().region("celsius").watch_latest_bytes(8);
    let own = own.expect("opens");
    let mut own = own.following(Side::Host).expect("fits");
    let mut theirs = guest
        .region("celsius")
        .latest::<u64>()
        .expect("the end is free");
    ours.publish(&20).expect("publishes");
    theirs.publish(&21).expect("publishes");
    for watcher in &mut watchers {
        assert_eq!(watcher.read(), Ok(Some((1, 20))));
        assert_eq!(watcher.newest(), Ok(1));
        assert_eq!(
            watcher.wait_newer(1, SHORT),
            Err(LinkFailure::Timeout(SHORT))
        );
    }
    assert_eq!(own.read(&mut Vec::new()), Ok(Some(1)));
    assert_eq!(
        own.peer().map(|peer| peer.state),
        Ok(PresenceState::Present)
    );
    drop(watchers);
    assert_eq!(ours.read(), Ok(Some((1, 21))));
    assert_eq!(
        ours.peer().map(|peer| peer.state),
        Ok(PresenceState::Present)
    );
    thread::scope(|scope| {
        let mut watcher = guest
            .another()
            .region("celsius")
            .watch_latest::<u64>()
            .expect("opens");
        scope.spawn(move || {
            thread::sleep(Duration::from_millis(20));
            ours.publish(&30).expect("publishes");
        });
        assert_eq!(watcher.wait_newer(1, LONG), Ok((2, 30)));
    });
}
