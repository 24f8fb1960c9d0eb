//! The ring against a queue: whatever is done at both ends, the same records come out
//! in the same order, and nothing beside the ring is touched.

use std::collections::VecDeque;

use proptest::prelude::*;
use vmshm_link::LinkError;
use vmshm_link::ring::{Consumer, PADDING, Producer};

use crate::material::memories::{Notes, Watched};
use crate::material::{assert_guards, capacities, layout, memory_for, payload};

#[derive(Debug, Clone)]
enum Step {
    Stage {
        kind: u16,
        length: usize,
    },
    Push {
        kind: u16,
        length: usize,
    },
    Reserve {
        length: usize,
        pieces: usize,
        commit: Option<usize>,
    },
    Publish,
    Peek,
    Take {
        pieces: usize,
    },
    Pop {
        buffer: usize,
    },
    Drained,
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0_usize..64, 2 => 0_usize..300, 1 => 0_usize..4200]
}

fn step() -> impl Strategy<Value = Step> {
    let kind = || 0..PADDING;
    prop_oneof![
        3 => (kind(), length()).prop_map(|(kind, length)| Step::Stage { kind, length }),
        3 => (kind(), length()).prop_map(|(kind, length)| Step::Push { kind, length }),
        3 => (length(), 1_usize..5, proptest::option::weighted(0.7, length()))
            .prop_map(|(length, pieces, commit)| Step::Reserve { length, pieces, commit }),
        2 => Just(Step::Publish),
        2 => Just(Step::Peek),
        4 => (1_usize..5).prop_map(|pieces| Step::Take { pieces }),
        4 => length().prop_map(|buffer| Step::Pop { buffer }),
        1 => Just(Step::Drained),
    ]
}

type Records = VecDeque<(u16, Vec<u8>)>;

/// What must be in the ring.
#[derive(Default)]
struct Model {
    next: u64,
    staged: Records,
    visible: Records,
}

impl Model {
    fn made(&mut self, length: usize) -> Vec<u8> {
        self.next += 1;
        payload(self.next, length)
    }

    fn publish(&mut self) {
        self.visible.append(&mut self.staged);
    }

    fn is_empty(&self) -> bool {
        self.staged.is_empty() && self.visible.is_empty()
    }
}

/// A record that could not be staged: too long for ever, or too long for now.
fn check_refusal(
    result: Result<bool, LinkError>,
    length: usize,
    limit: usize,
    model: &Model,
) -> bool {
    match result {
        Ok(true) => {
            assert!(length <= limit);
            true
        }
        Ok(false) => {
            assert!(length <= limit, "a long record was not refused");
            assert!(!model.is_empty(), "an empty ring was too full");
            false
        }
        Err(error) => {
            assert!(length > limit, "{error}");
            assert!(matches!(error, LinkError::TooLong { .. }), "{error}");
            false
        }
    }
}

fn run(capacity: u64, costly: bool, steps: &[Step]) {
    let memory = memory_for(capacity);
    let watched = Watched::new(&memory, Notes::default()).costly(costly);
    let mut producer = Producer::start(watched.clone(), layout(capacity)).expect("fits");
    let mut consumer = Consumer::start(watched, layout(capacity)).expect("fits");
    let limit = usize::try_from(layout(capacity).longest_record()).expect("small");
    let mut model = Model::default();
    for step in steps {
        match *step {
            Step::Stage { kind, length } => {
                let bytes = model.made(length);
                let result = producer.try_stage(kind, &bytes);
                if check_refusal(result, length, limit, &model) {
                    model.staged.push_back((kind, bytes));
                }
            }
            Step::Push { kind, length } => {
                let bytes = model.made(length);
                let result = producer.try_push(kind, &bytes);
                if check_refusal(result, length, limit, &model) {
                    model.staged.push_back((kind, bytes));
                }
                if length <= limit {
                    model.publish();
                }
            }
            Step::Reserve {
                length,
                pieces,
                commit,
            } => {
                let bytes = model.made(length);
                match producer.reserve(length as u64) {
                    Ok(Some(mut room)) => {
                        assert!(length <= limit);
                        let piece = bytes.len().div_ceil(pieces).max(1);
                        for (index, part) in bytes.chunks(piece).enumerate().rev() {
                            room.write((index * piece) as u64, part).expect("inside");
                        }
                        assert!(room.write(length as u64, &[1]).is_err(), "beyond the end");
                        assert!(room.write(u64::MAX, &[1]).is_err(), "far beyond the end");
                        if let Some(short) = commit.map(|commit| commit.min(length)) {
                            room.commit(7, short as u64).expect("inside");
                            model.staged.push_back((7, bytes[..short].to_vec()));
                        }
                    }
                    Ok(None) => {
                        check_refusal(Ok(false), length, limit, &model);
                    }
                    Err(error) => {
                        check_refusal(Err(error), length, limit, &model);
                    }
                }
            }
            Step::Publish => {
                producer.publish().expect("reachable");
                model.publish();
            }
            Step::Peek => {
                let seen = consumer.peek().expect("a right peer");
                let expected = model.visible.front();
                assert_eq!(
                    seen.map(|record| (record.kind, record.length)),
                    expected.map(|(kind, bytes)| (*kind, bytes.len() as u64))
                );
            }
            Step::Take { pieces } => {
                let Some(record) = consumer.peek().expect("a right peer") else {
                    assert!(model.visible.is_empty());
                    continue;
                };
                let (kind, expected) = model.visible.pop_front().expect("the same records");
                assert_eq!(record.kind, kind);
                let mut found = Vec::new();
                let mut piece = vec![0; expected.len().div_ceil(pieces).max(1)];
                loop {
                    let at = found.len() as u64;
                    match consumer.read(record, at, &mut piece).expect("reachable") {
                        0 => break,
                        count => found.extend_from_slice(&piece[..count]),
                    }
                }
                assert_eq!(found, expected);
                assert_eq!(consumer.read(record, u64::MAX, &mut piece), Ok(0));
                consumer.release(record).expect("there");
            }
            Step::Pop { buffer } => {
                let mut into = vec![0; buffer];
                match consumer.try_pop(&mut into) {
                    Ok(None) => assert!(model.visible.is_empty()),
                    Ok(Some((kind, count))) => {
                        let expected = model.visible.pop_front().expect("the same records");
                        assert_eq!((kind, &into[..count]), (expected.0, &expected.1[..]));
                    }
                    Err(error) => {
                        let (_, expected) = model.visible.front().expect("a record to refuse");
                        let (length, limit) = (expected.len() as u64, buffer as u64);
                        assert!(length > limit);
                        assert_eq!(error, LinkError::TooLong { length, limit });
                    }
                }
            }
            Step::Drained => {
                let drained = producer.is_drained().expect("a right peer");
                // What is staged was not sent, and padding before it may be in the way.
                assert!(!drained || model.visible.is_empty());
            }
        }
        producer.verify().expect("nobody else writes");
        consumer.verify().expect("nobody else writes");
    }
    producer.publish().expect("reachable");
    model.publish();
    let mut into = vec![0; limit];
    while let Some((kind, count)) = consumer.try_pop(&mut into).expect("a right peer") {
        let expected = model.visible.pop_front().expect("the same records");
        assert_eq!((kind, &into[..count]), (expected.0, &expected.1[..]));
    }
    assert!(model.is_empty());
    assert!(producer.is_drained().expect("a right peer"));
    assert_guards(&memory, capacity);
}

proptest! {
    #[test]
    fn a_ring_is_a_queue(
        capacity in capacities(),
        costly in any::<bool>(),
        steps in proptest::collection::vec(step(), 0..300),
    ) {
        run(capacity, costly, &steps);
    }
}

#[test]
fn a_record_of_the_padding_kind_is_refused_by_every_way_of_writing() {
    let memory = memory_for(64);
    let mut producer = Producer::start(&*memory, layout(64)).expect("fits");
    assert!(producer.try_push(PADDING, b"lost").is_err());
    assert!(producer.try_stage(PADDING, b"lost").is_err());
    let room = producer.reserve(4).expect("fits").expect("room");
    assert!(room.commit(PADDING, 4).is_err());
    let room = producer.reserve(4).expect("fits").expect("room");
    assert!(room.commit(1, 5).is_err());
    assert!(producer.is_drained().expect("empty"));
}

#[test]
fn a_record_is_released_once_only() {
    let memory = memory_for(64);
    let mut producer = Producer::start(&*memory, layout(64)).expect("fits");
    let mut consumer = Consumer::start(&*memory, layout(64)).expect("fits");
    assert_eq!(producer.try_push(1, b"one"), Ok(true));
    let record = consumer.peek().expect("right").expect("there");
    consumer.release(record).expect("there");
    assert!(consumer.release(record).is_err());
    let mut forged = record;
    forged.length = u64::MAX;
    assert!(consumer.release(forged).is_err());
    assert_eq!(consumer.peek(), Ok(None));
}

#[test]
fn layouts_that_do_not_fit_are_refused() {
    let memory = memory_for(64);
    for capacity in [0, 8, 63, 65, 96, 256, 1 << 32, 1 << 63] {
        assert!(Producer::start(&*memory, layout(capacity)).is_err());
        assert!(Consumer::start(&*memory, layout(capacity)).is_err());
    }
    for data in [1, 4, u64::MAX - 7, 1 << 40] {
        let mut odd = layout(64);
        odd.data = data;
        assert!(Producer::start(&*memory, odd).is_err());
        assert!(Consumer::start(&*memory, odd).is_err());
    }
    let mut odd = layout(64);
    odd.tail = 3;
    assert!(Producer::start(&*memory, odd).is_err());
    odd = layout(64);
    odd.head = u64::MAX - 7;
    assert!(Consumer::start(&*memory, odd).is_err());
}
