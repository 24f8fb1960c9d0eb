//! Any interleaving of sends and receives keeps the order and loses nothing.

use std::collections::VecDeque;

use proptest::prelude::*;
use vmshm_endpoint::loopback;

#[derive(Debug, Clone)]
enum Step {
    Send,
    SendAll(usize),
    Receive,
    ReceiveInto(usize),
    RestartSender,
    RestartReceiver,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Send),
        2 => (0_usize..200).prop_map(Step::SendAll),
        4 => Just(Step::Receive),
        2 => (0_usize..200).prop_map(Step::ReceiveInto),
        1 => Just(Step::RestartSender),
        1 => Just(Step::RestartReceiver),
    ];
    prop::collection::vec(step, 0..200)
}

fn lengths() -> impl Strategy<Value = Vec<Option<usize>>> {
    prop::collection::vec(prop::option::weighted(0.6, 0_usize..1017), 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn typed_records(steps in steps()) {
        let (host, guest) = loopback::pair();
        let mut sender = host.region("a").size(1 << 13).ring::<u64>().expect("opens");
        let mut receiver = guest.region("a").ring::<u64>().expect("opens");
        let capacity = usize::try_from(sender.capacity()).expect("small");
        let mut inside = VecDeque::new();
        let mut next = 0;
        for step in steps {
            match step {
                Step::Send => {
                    let sent = sender.try_send(&next).expect("open");
                    prop_assert_eq!(sent, inside.len() < capacity);
                    if sent {
                        inside.push_back(next);
                        next += 1;
                    }
                }
                Step::SendAll(count) => {
                    let batch: Vec<u64> = (next..).take(count.min(capacity - inside.len())).collect();
                    sender.send_all(&batch).expect("fits");
                    next += batch.len() as u64;
                    inside.extend(batch);
                }
                Step::Receive => {
                    prop_assert_eq!(receiver.try_receive().expect("open"), inside.pop_front());
                }
                Step::ReceiveInto(count) => {
                    let mut batch = vec![0; count.min(inside.len())];
                    let received = receiver.receive_into(&mut batch).expect("open");
                    // At least one; as many as are there, for the producer is idle.
                    prop_assert_eq!(received > 0, !batch.is_empty());
                    for number in &batch[..received] {
                        prop_assert_eq!(Some(*number), inside.pop_front());
                    }
                }
                Step::RestartSender => sender.reconnect(crate::LONG).expect("opens again"),
                Step::RestartReceiver => receiver.reconnect(crate::LONG).expect("opens again"),
            }
        }
    }

    #[test]
    fn records_of_any_length(lengths in lengths()) {
        let (host, guest) = loopback::pair();
        let mut sender = host.region("a").size(1 << 13).byte_ring().expect("opens");
        let mut receiver = guest.region("a").byte_ring().expect("opens");
        let mut inside: VecDeque<Vec<u8>> = VecDeque::new();
        let mut record = Vec::new();
        for (number, length) in lengths.into_iter().enumerate() {
            let byte = number.to_le_bytes()[0];
            match length {
                Some(length) => {
                    let sent = sender.try_send(&vec![byte; length]).expect("open");
                    prop_assert!(sent || !inside.is_empty(), "room for one is always there");
                    if sent {
                        inside.push_back(vec![byte; length]);
                    }
                }
                None => {
                    let came = receiver.try_receive(&mut record).expect("open");
                    prop_assert_eq!(came.then(|| record.clone()), inside.pop_front());
                }
            }
        }
    }
}
