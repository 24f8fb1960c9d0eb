//! Raw regions.

use vmshm_endpoint::{End, LinkFailure, OpenError, loopback};

use crate::LONG;

#[test]
fn whatever_is_not_inside_is_refused_and_ends_nothing() {
    let (host, _guest) = loopback::pair();
    let raw = host.region("table").size(5000).raw().expect("opens");
    assert_eq!(raw.size(), 8192);
    for offset in [8192, 8185, 1 << 40, u64::MAX, u64::MAX - 7] {
        assert!(matches!(raw.load(offset), Err(LinkFailure::Misplaced(_))));
        assert!(matches!(
            raw.store(offset, 1),
            Err(LinkFailure::Misplaced(_))
        ));
        assert!(matches!(
            raw.own_word(offset),
            Err(LinkFailure::Misplaced(_))
        ));
        assert!(matches!(
            raw.write(offset, &[1; 8]),
            Err(LinkFailure::Misplaced(_))
        ));
        assert!(matches!(
            raw.read(offset, &mut [1; 8]),
            Err(LinkFailure::Misplaced(_))
        ));
    }
    assert!(matches!(raw.load(4), Err(LinkFailure::Misplaced(_))));
    raw.store(8184, 5).expect("inside");
    assert_eq!(raw.load(8184), Ok(5));
}

#[test]
fn an_own_word_goes_on_with_what_is_there_and_has_one_writer() {
    let (host, guest) = loopback::pair();
    let ours = host.region("words").size(4096).raw().expect("opens");
    let theirs = guest.region("words").raw().expect("opens");
    let mut word = ours.own_word(64).expect("inside");
    assert_eq!(word.add(2), Ok(2));
    assert_eq!(
        ours.own_word(64).map(drop),
        Err(LinkFailure::WordTaken { offset: 64 })
    );
    drop(word);
    let mut word = ours.own_word(64).expect("free again");
    assert_eq!((word.get(), word.offset()), (2, 64));
    word.set(u64::MAX).expect("writes");
    assert_eq!(word.add(2), Ok(1));
    assert_eq!(theirs.load(64), Ok(1));
    theirs.store(64, 9).expect("writes");
    assert!(matches!(word.set(3), Err(LinkFailure::Ended(End::Link(_)))));
    assert_eq!(theirs.load(64), Ok(9), "a foreign value is not overwritten");
}

#[test]
fn what_was_stored_is_there_after_a_restart() {
    let (host, guest) = loopback::pair();
    let mut ours = host.region("words").size(4096).raw().expect("opens");
    let mut word = ours.own_word(0).expect("inside");
    word.set(7).expect("writes");
    host.kill();
    assert_eq!(word.set(8), Err(LinkFailure::Ended(End::AgentDied)));
    let refused = ours.reconnect(LONG).expect_err("a word is in use");
    assert!(matches!(refused, OpenError::WordInUse { offset: 0 }));
    drop(word);
    ours.reconnect(LONG).expect("opens again");
    assert_eq!(ours.load(0), Ok(7));
    let theirs = guest.region("words").raw().expect("opens");
    assert_eq!(theirs.load(0), Ok(7));
    ours.close();
}

#[test]
fn a_word_that_threads_take_over_from_each_other_loses_nothing() {
    let (host, _guest) = loopback::pair();
    let raw = host.region("r").size(4096).raw().expect("opens");
    let added = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let tries = (0..20_000).filter_map(|_| raw.own_word(0).ok());
                    tries.map(|mut word| word.add(1).expect("alone")).count()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .sum::<usize>()
    });
    assert_eq!(raw.load(0), Ok(added as u64));
}
