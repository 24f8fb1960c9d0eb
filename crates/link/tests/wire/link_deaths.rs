//! Ends of links that die before any of their operations, and others that go on where they
//! stopped: nothing torn, order kept, no published record lost, and none given twice but
//! those that were not given back.

use std::sync::Arc;

use proptest::prelude::*;
use vmshm_link::LinkError;
use vmshm_link::duplex::Side;
use vmshm_link::fixed_ring::{FixedConsumer, FixedProducer};
use vmshm_link::ring::{Consumer, Producer, RingLayout};
use vmshm_shm::LocalMemory;

use crate::fixed_ring_model::layout as fixed_layout;
use crate::material::memories::{Failing, GONE, Watched};
use crate::material::payload;

type Memory = Arc<LocalMemory>;
type Mortal = Watched<Failing>;

/// What comes after what; a death in any call ends the life.
trait Link {
    type Sender;
    type Receiver;
    fn sender(&self, memory: Mortal) -> Result<Self::Sender, LinkError>;
    fn receiver(&self, memory: Mortal) -> Result<Self::Receiver, LinkError>;
    fn send(sender: &mut Self::Sender, number: u64) -> Result<bool, LinkError>;
    /// The numbers that are handed out before the end has given them back, and whether it
    /// then did.
    fn receive(receiver: &mut Self::Receiver, seen: &mut Vec<u64>) -> Result<bool, LinkError>;
}

fn length(number: u64) -> usize {
    usize::try_from(number * 7 % 50).expect("small")
}

fn bytes(number: u64) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend(payload(number, length(number)));
    bytes
}

fn number(bytes: &[u8]) -> u64 {
    let (start, rest) = bytes.split_first_chunk().expect("eight bytes");
    let number = u64::from_le_bytes(*start);
    assert_eq!(rest, payload(number, rest.len()), "a torn record");
    number
}

/// Records of changing length, written in place.
struct Variable(RingLayout);

impl Link for Variable {
    type Sender = Producer<Mortal>;
    type Receiver = Consumer<Mortal>;

    fn sender(&self, memory: Mortal) -> Result<Self::Sender, LinkError> {
        Producer::resume(memory, self.0)
    }

    fn receiver(&self, memory: Mortal) -> Result<Self::Receiver, LinkError> {
        Consumer::resume(memory, self.0)
    }

    fn send(sender: &mut Self::Sender, number: u64) -> Result<bool, LinkError> {
        let bytes = bytes(number);
        let Some(mut room) = sender.reserve(bytes.len() as u64)? else {
            return Ok(false);
        };
        let (first, rest) = bytes.split_at(8);
        room.write(8, rest)?;
        room.write(0, first)?;
        room.commit(1, bytes.len() as u64)?;
        sender.publish()?;
        Ok(true)
    }

    fn receive(receiver: &mut Self::Receiver, seen: &mut Vec<u64>) -> Result<bool, LinkError> {
        let Some(record) = receiver.peek()? else {
            return Ok(false);
        };
        let mut into = [0; 64];
        let count = receiver.read(record, 0, &mut into)?;
        let found = number(&into[..count]);
        assert_eq!(count, 8 + length(found));
        seen.push(found);
        receiver.release(record)?;
        Ok(true)
    }
}

/// Records of one size, in batches.
struct Fixed(vmshm_link::fixed_ring::FixedRingLayout);

impl Link for Fixed {
    type Sender = FixedProducer<Mortal>;
    type Receiver = FixedConsumer<Mortal>;

    fn sender(&self, memory: Mortal) -> Result<Self::Sender, LinkError> {
        FixedProducer::resume(memory, self.0)
    }

    fn receiver(&self, memory: Mortal) -> Result<Self::Receiver, LinkError> {
        FixedConsumer::resume(memory, self.0)
    }

    fn send(sender: &mut Self::Sender, number: u64) -> Result<bool, LinkError> {
        let mut record = bytes(number);
        record.truncate(8);
        record.extend(payload(number, 32));
        sender.try_push(&record)
    }

    fn receive(receiver: &mut Self::Receiver, seen: &mut Vec<u64>) -> Result<bool, LinkError> {
        let mut into = [0; 120];
        let count = receiver.try_pop_all(&mut into)?;
        seen.extend(into.chunks_exact(40).take(count).map(number));
        Ok(count > 0)
    }
}

/// Sends 60 records while each end dies again and again, after so many operations.
fn pass(link: &impl Link, memory: &Memory, costly: bool, lives: [u64; 2]) {
    let [mut sending, mut receiving] = lives;
    let mortal = |life: &mut u64| {
        // Each life is another step long than the last, and long enough to get somewhere.
        *life = 12 + (*life * 5 + 3) % 41;
        Watched::new(memory, Failing::from(*life)).costly(costly)
    };
    let mut expected = 0;
    let mut next = 0;
    let mut turns = 0;
    while expected < 60 {
        turns += 1;
        assert!(turns < 1000, "no progress");
        let died: Result<(), LinkError> = (|| {
            let mut sender = link.sender(mortal(&mut sending))?;
            while next < 60 {
                // Known once it is published: that store is the last operation.
                if !send_once(link, &mut sender, next)? {
                    break;
                }
                next += 1;
            }
            Ok(())
        })();
        assert!(
            matches!(died, Ok(()) | Err(LinkError::Fault(GONE))),
            "{died:?}"
        );
        let died: Result<(), LinkError> = (|| {
            let mut receiver = link.receiver(mortal(&mut receiving))?;
            loop {
                let mut seen = Vec::new();
                let given_back = receive_once(link, &mut receiver, &mut seen);
                for (found, wanted) in seen.iter().zip(expected..) {
                    assert_eq!(*found, wanted, "lost, doubled or out of order");
                }
                if !given_back? {
                    return Ok(());
                }
                expected += seen.len() as u64;
            }
        })();
        assert!(
            matches!(died, Ok(()) | Err(LinkError::Fault(GONE))),
            "{died:?}"
        );
    }
    assert_eq!((expected, next), (60, 60));
}

fn send_once<L: Link>(_: &L, sender: &mut L::Sender, number: u64) -> Result<bool, LinkError> {
    L::send(sender, number)
}

fn receive_once<L: Link>(
    _: &L,
    receiver: &mut L::Receiver,
    seen: &mut Vec<u64>,
) -> Result<bool, LinkError> {
    L::receive(receiver, seen)
}

proptest! {
    #[test]
    fn ends_of_a_ring_of_any_records_go_on_where_others_died(
        sending in 0_u64..41,
        receiving in 0_u64..41,
        costly in any::<bool>(),
    ) {
        let size = 4096 + 2 * 256;
        let ring = RingLayout::in_region(size, Side::Guest).expect("fits");
        prop_assert_eq!(ring.capacity, 256);
        let memory = Arc::new(LocalMemory::new(usize::try_from(size).expect("small")));
        pass(&Variable(ring), &memory, costly, [sending, receiving]);
    }

    #[test]
    fn ends_of_a_ring_of_one_size_go_on_where_others_died(
        sending in 0_u64..41,
        receiving in 0_u64..41,
        costly in any::<bool>(),
    ) {
        let (ring, size) = fixed_layout(40, 4);
        let memory = Arc::new(LocalMemory::new(size));
        pass(&Fixed(ring), &memory, costly, [sending, receiving]);
    }
}

#[test]
fn what_was_staged_and_not_published_was_never_written() {
    let ring = RingLayout::in_region(4096 + 2 * 256, Side::Host).expect("fits");
    let memory = LocalMemory::new(4096 + 2 * 256);
    let mut first = Producer::resume(&memory, ring).expect("empty");
    assert_eq!(first.try_push(1, b"kept"), Ok(true));
    assert_eq!(first.try_stage(2, b"lost"), Ok(true));
    let mut second = Producer::resume(&memory, ring).expect("as left");
    assert_eq!(second.try_push(3, b"next"), Ok(true));
    let mut consumer = Consumer::resume(&memory, ring).expect("empty");
    let mut into = [0; 8];
    assert_eq!(consumer.try_pop(&mut into), Ok(Some((1, 4))));
    let record = consumer.peek().expect("right").expect("there");
    assert_eq!((record.kind, record.length), (3, 4));
    // It is read, and not released: the next consumer reads it again.
    assert_eq!(consumer.read(record, 0, &mut into), Ok(4));
    let mut consumer = Consumer::resume(&memory, ring).expect("as left");
    assert_eq!(consumer.try_pop(&mut into), Ok(Some((3, 4))));
    assert_eq!(&into[..4], b"next");
    assert_eq!(consumer.peek(), Ok(None));
}

#[test]
fn words_that_no_end_leaves_are_refused_at_resume() {
    use vmshm_shm::SharedMemory;
    let ring = RingLayout::in_region(4096 + 2 * 256, Side::Host).expect("fits");
    for (tail, head) in [
        (264, 0),
        (0, 8),
        (4, 0),
        (12, 4),
        (1 << 63, 1 << 63),
        (u64::MAX - 7, u64::MAX - 7),
    ] {
        let memory = LocalMemory::new(4096 + 2 * 256);
        memory.store_relaxed(ring.tail, tail).expect("inside");
        memory.store_relaxed(ring.head, head).expect("inside");
        let producer = Producer::resume(&memory, ring).map(|_| ());
        let consumer = Consumer::resume(&memory, ring).map(|_| ());
        for result in [producer, consumer] {
            assert!(
                matches!(result, Err(LinkError::Violation { .. })),
                "{tail} {head}: {result:?}"
            );
        }
    }
}
