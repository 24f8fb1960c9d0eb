//! Memory that goes back to an earlier state, as after a restored snapshot. Whoever
//! has written since then is told so before anything more becomes visible, and takes
//! nothing more as data.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use vmshm_link::LinkError;
use vmshm_link::beacon::PAGE;
use vmshm_link::directory::{DIRECTORY_SIZE, slot_offset};
use vmshm_link::duplex::{EndState, PipeEnd, Side};
use vmshm_link::own_word::OwnWord;
use vmshm_link::ring::{Consumer, Producer};
use vmshm_link::slot::{AgentSlot, Claim, HostIdentity, HostSlot, PendingClaim, Proof};
use vmshm_shm::{LocalMemory, SharedMemory};

use crate::material::{capacities, layout, memory_for, payload, restore, snapshot};

fn is_rolled_back<T: std::fmt::Debug>(result: Result<T, LinkError>) -> bool {
    matches!(result, Err(LinkError::RolledBack { .. }))
}

#[test]
fn a_word_of_ones_own_is_compared_before_it_is_overwritten() {
    let memory = LocalMemory::new(8);
    let mut word = OwnWord::start(&memory, 0, 5, "word").expect("inside");
    word.set(&memory, 6).expect("right");
    memory.store_relaxed(0, 5).expect("inside");
    let error = LinkError::RolledBack {
        what: "word",
        written: 6,
        found: 5,
    };
    assert_eq!(word.verify(&memory), Err(error));
    assert_eq!(word.set(&memory, 7), Err(error));
    assert_eq!(word.publish(&memory, 7), Err(error));
    assert_eq!(memory.load_relaxed(0), Ok(5));
    assert_eq!(word.get(), 6);
}

proptest! {
    #[test]
    fn a_producer_makes_nothing_visible_after_a_rollback(
        capacity in capacities(),
        before in vec(0_usize..40, 0..40),
        after in vec(0_usize..40, 1..40),
        taken in 0_usize..40,
    ) {
        let ring = layout(capacity);
        let limit = usize::try_from(ring.longest_record()).expect("small");
        let memory = memory_for(capacity);
        let mut producer = Producer::start(&*memory, ring).expect("fits");
        let mut consumer = Consumer::start(&*memory, ring).expect("fits");
        let mut into = vec![0; limit];
        let mut push = |producer: &mut Producer<_>, length: usize| {
            while !producer.try_push(1, &payload(1, length.min(limit))).expect("right") {
                consumer.try_pop(&mut into).expect("right");
            }
        };
        for length in before {
            push(&mut producer, length);
        }
        let earlier = snapshot(&*memory);
        for length in after {
            push(&mut producer, length);
        }
        for _ in 0..taken {
            consumer.try_pop(&mut into).expect("right");
        }
        restore(&*memory, &earlier);
        prop_assert!(is_rolled_back(producer.verify()));
        prop_assert!(is_rolled_back(producer.try_push(1, &[])));
        prop_assert!(is_rolled_back(producer.try_push(1, &[])));
        let _ = producer.publish();
        let mut tail = [0; 8];
        tail.copy_from_slice(&earlier[..8]);
        prop_assert_eq!(memory.load_relaxed(ring.tail), Ok(u64::from_le_bytes(tail)));
    }

    #[test]
    fn a_consumer_takes_nothing_after_a_rollback(
        capacity in capacities(),
        early in 0_usize..20,
        late in 1_usize..20,
        more in 0_usize..20,
    ) {
        let ring = layout(capacity);
        let memory = memory_for(capacity);
        let mut producer = Producer::start(&*memory, ring).expect("fits");
        let mut consumer = Consumer::start(&*memory, ring).expect("fits");
        let mut pass = |count: usize, take: bool| {
            for number in 0..count as u64 {
                if take {
                    assert!(producer.try_push(1, &number.to_le_bytes()).expect("right"));
                    let mut into = [0; 8];
                    assert_eq!(consumer.try_pop(&mut into), Ok(Some((1, 8))));
                } else {
                    producer.try_push(2, &number.to_le_bytes()).expect("right");
                }
            }
        };
        pass(early, true);
        let earlier = snapshot(&*memory);
        pass(late, true);
        pass(more, false);
        // Some records may have been noticed, but not taken, before.
        let _ = consumer.peek();
        restore(&*memory, &earlier);
        prop_assert!(is_rolled_back(consumer.verify()));
        prop_assert!(consumer.try_pop(&mut [0; 8]).is_err());
        if let Ok(Some(record)) = consumer.peek() {
            prop_assert!(is_rolled_back(consumer.release(record)));
        }
    }

    #[test]
    fn a_consumer_that_took_nothing_since_sees_the_tail_go_back(
        early in 0_usize..20,
        late in 1_usize..40,
    ) {
        let ring = layout(1024);
        let memory = memory_for(1024);
        let mut producer = Producer::start(&*memory, ring).expect("fits");
        let mut consumer = Consumer::start(&*memory, ring).expect("fits");
        for _ in 0..early {
            assert!(producer.try_push(1, &[7; 8]).expect("right"));
        }
        let earlier = snapshot(&*memory);
        for _ in 0..late {
            assert!(producer.try_push(1, &[7; 8]).expect("right"));
        }
        prop_assert!(consumer.peek().expect("right").is_some());
        restore(&*memory, &earlier);
        for _ in 0..3 {
            let result = consumer.try_pop(&mut [0; 8]);
            let violation = matches!(result, Err(LinkError::Violation { .. }));
            prop_assert!(violation, "{:?}", result);
        }
        if let Ok(Some(record)) = consumer.peek() {
            prop_assert!(consumer.read(record, 0, &mut [0; 8]).is_err());
            prop_assert!(consumer.release(record).is_err());
        }
        prop_assert_eq!(snapshot(&*memory), earlier);
    }
}

fn identity() -> HostIdentity {
    HostIdentity {
        pid: 9,
        ..HostIdentity::default()
    }
}

type Host<'a> = HostSlot<&'a LocalMemory>;

fn session<'a>(memory: &'a LocalMemory, agent: &mut AgentSlot<&'a LocalMemory>) -> Host<'a> {
    let base = slot_offset(0);
    let claim = PendingClaim::place(memory, base, 31)
        .expect("right")
        .expect("free");
    agent.poll(1).expect("right");
    let Ok(Claim::Granted(unproved)) = claim.poll(1, 41, &identity()) else {
        panic!("not granted");
    };
    agent.poll(1).expect("right");
    let Ok(Proof::Proved(slot)) = unproved.poll() else {
        panic!("not proved");
    };
    slot
}

fn directory() -> LocalMemory {
    LocalMemory::new(usize::try_from(DIRECTORY_SIZE).expect("small"))
}

#[test]
fn a_host_notices_that_its_slot_went_back_to_before_its_session() {
    let memory = directory();
    let empty = snapshot(&memory);
    let mut agent = AgentSlot::adopt(&memory, slot_offset(0), 1).expect("free");
    let mut slot = session(&memory, &mut agent);
    slot.verify().expect("right");
    restore(&memory, &empty);
    assert!(is_rolled_back(slot.verify()));
    assert!(is_rolled_back(slot.beat()));
    assert!(is_rolled_back(slot.beat()), "a beat wiped out the trace");
    slot.release().expect("reachable");
    assert_eq!(
        snapshot(&memory),
        empty,
        "a slot that is not ours was released"
    );
}

#[test]
fn a_host_notices_that_its_session_went_back_to_an_earlier_moment() {
    type Action = fn(&mut Host<'_>, &mut AgentSlot<&LocalMemory>);
    let actions: [(&str, Action); 3] = [
        ("a beat", |host, _| host.beat().expect("right")),
        ("a request", |host, _| {
            assert_eq!(host.requests.try_push(1, &[1]), Ok(true));
        }),
        ("a reply taken", |host, agent| {
            let rings = agent.rings().expect("a session");
            assert_eq!(rings.replies.try_push(1, &[1]), Ok(true));
            assert_eq!(host.replies.try_pop(&mut [0]), Ok(Some((1, 1))));
        }),
    ];
    for (name, action) in actions {
        let memory = directory();
        let mut agent = AgentSlot::adopt(&memory, slot_offset(0), 1).expect("free");
        let mut slot = session(&memory, &mut agent);
        action(&mut slot, &mut agent);
        let earlier = snapshot(&memory);
        action(&mut slot, &mut agent);
        slot.verify().expect("right");
        restore(&memory, &earlier);
        assert!(is_rolled_back(slot.verify()), "{name}");
    }
}

#[test]
fn a_pipe_end_notices_that_its_words_went_back() {
    type Action = fn(&mut PipeEnd<Arc<LocalMemory>>, &mut PipeEnd<Arc<LocalMemory>>);
    let actions: [(&str, Action); 4] = [
        ("a beat", |end, _| end.words.beat().expect("right")),
        ("a state", |end, _| {
            end.words.say(EndState::StoppedReading).expect("right");
        }),
        ("bytes sent", |end, _| {
            assert_eq!(end.writer.try_write(b"x"), Ok(1));
        }),
        ("bytes taken", |end, other| {
            assert_eq!(other.writer.try_write(b"x"), Ok(1));
            end.reader.try_read(&mut [0]).expect("right");
        }),
    ];
    for side in [Side::Guest, Side::Host] {
        for (name, action) in actions {
            let memory = Arc::new(LocalMemory::new(usize::try_from(3 * PAGE).expect("small")));
            let mut end = PipeEnd::open(Arc::clone(&memory), side).expect("fits");
            let mut other = PipeEnd::open(Arc::clone(&memory), side.other()).expect("fits");
            let earlier = snapshot(&memory);
            action(&mut end, &mut other);
            let verify = |end: &PipeEnd<_>| {
                end.words.verify()?;
                end.writer.verify()?;
                end.reader.verify()
            };
            verify(&end).expect("right");
            restore(&memory, &earlier);
            assert!(is_rolled_back(verify(&end)), "{name}");
        }
    }
}
