//! Every shared word has one writer: a whole session, and a whole pipe, with notes
//! taken of who writes where.

use std::collections::BTreeSet;
use std::sync::Arc;

use vmshm_link::beacon::PAGE;
use vmshm_link::control::{Reply, Request};
use vmshm_link::directory::{DIRECTORY_SIZE, PAGE_ADDRESS, slot_offset};
use vmshm_link::duplex::{EndState, PipeEnd, Side};
use vmshm_link::ends::{Presence, SleepWatch, Sleeper};
use vmshm_link::fixed_ring::{FixedConsumer, FixedProducer, FixedRingLayout};
use vmshm_link::latest::{LatestLayout, LatestReader, LatestWriter};
use vmshm_link::ring::{Consumer, Producer, RingLayout};
use vmshm_link::slot::{AgentSlot, Claim, HostIdentity, PendingClaim, Proof, SlotEvent};
use vmshm_link::stream::Received;
use vmshm_shm::{LocalMemory, SharedMemory};

use crate::material::memories::{Notes, Watched};
use crate::material::payload;

fn two_sides(size: u64) -> (Watched<Notes>, Watched<Notes>) {
    let size = usize::try_from(size).expect("small");
    let memory = Arc::new(LocalMemory::new(size));
    let side = || Watched::new(&memory, Notes::default());
    (side(), side())
}

fn written(side: &Watched<Notes>) -> BTreeSet<u64> {
    side.watcher.written.borrow().clone()
}

#[test]
fn in_a_session_no_word_is_written_by_both_sides() {
    let base = slot_offset(4);
    let (guest, host) = two_sides(DIRECTORY_SIZE);
    let mut agent = AgentSlot::adopt(guest.clone(), base, 1).expect("free");
    let identity = HostIdentity::default();
    for session in 1..50 {
        let claim = PendingClaim::place(host.clone(), base, 100 + session)
            .expect("right")
            .expect("free");
        assert_eq!(agent.poll(session), Ok(Some(SlotEvent::Granted)));
        let Ok(Claim::Granted(unproved)) = claim.poll(1, 200 + session, &identity) else {
            panic!("not granted");
        };
        assert!(
            agent.rings().is_none(),
            "rings that the host has not started"
        );
        assert_eq!(agent.poll(0), Ok(Some(SlotEvent::Proved)));
        let Ok(Proof::Proved(mut slot)) = unproved.poll() else {
            panic!("not proved");
        };
        for tag in 0..30 {
            let request = Request::Close { region: tag }.to_message(tag);
            assert_eq!(
                slot.requests.try_push(request.kind, request.payload()),
                Ok(true)
            );
            let rings = agent.rings().expect("a session");
            let mut into = [0; 504];
            let (kind, count) = rings
                .requests
                .try_pop(&mut into)
                .expect("right")
                .expect("sent");
            assert_eq!(
                Request::from_payload(kind, &into[..count]),
                (tag, Some(Request::Close { region: tag }))
            );
            let reply = Reply::Done.to_message(tag);
            assert_eq!(
                rings.replies.try_push(reply.kind, reply.payload()),
                Ok(true)
            );
            let (kind, count) = slot
                .replies
                .try_pop(&mut into)
                .expect("right")
                .expect("sent");
            assert_eq!(
                Reply::from_payload(kind, &into[..count]),
                Ok((tag, Reply::Done))
            );
            slot.beat().expect("right");
            slot.verify().expect("nothing changed");
        }
        slot.release().expect("reachable");
        assert_eq!(agent.poll(0), Ok(Some(SlotEvent::Released)));
        agent.free().expect("reachable");
        assert_eq!(agent.poll(0), Ok(None), "an old claim was granted again");
    }
    let (by_guest, by_host) = (written(&guest), written(&host));
    assert_eq!(by_guest.intersection(&by_host).count(), 0);
    let own = base..base + PAGE_ADDRESS;
    assert!(by_guest.iter().chain(&by_host).all(|at| own.contains(at)));
}

#[test]
fn in_a_pipe_no_word_is_written_by_both_ends() {
    let (in_guest, on_host) = two_sides(3 * PAGE);
    let mut guest = PipeEnd::open(in_guest.clone(), Side::Guest).expect("fits");
    assert_eq!(guest.words.peer_state(), Ok(EndState::Absent));
    let mut host = PipeEnd::open(on_host.clone(), Side::Host).expect("fits");
    assert_eq!(guest.words.peer_state(), Ok(EndState::Open));
    let mut into = vec![0; 4096];
    for round in 0..200 {
        let bytes = payload(round, 300 + usize::try_from(round).expect("small"));
        for (from, to) in [
            (&mut guest.writer, &mut host.reader),
            (&mut host.writer, &mut guest.reader),
        ] {
            assert_eq!(from.try_write(&bytes), Ok(bytes.len()));
            assert_eq!(to.try_read(&mut into), Ok(Received::Bytes(bytes.len())));
            assert_eq!(into[..bytes.len()], bytes);
        }
        guest.words.beat().expect("right");
        host.words.beat().expect("right");
    }
    assert_eq!(guest.writer.try_end(), Ok(true));
    assert_eq!(host.reader.try_read(&mut into), Ok(Received::End));
    guest.words.say(EndState::Finished).expect("right");
    assert_eq!(host.words.peer_state(), Ok(EndState::Finished));
    let (by_guest, by_host) = (written(&in_guest), written(&on_host));
    assert_eq!(by_guest.intersection(&by_host).count(), 0);
    let line = |at: &u64| at / 64;
    let shared_lines = by_guest
        .iter()
        .map(line)
        .collect::<BTreeSet<_>>()
        .intersection(&by_host.iter().map(line).collect())
        .count();
    assert_eq!(shared_lines, 0, "both ends write into one cache line");
}

/// The end of one side of a link, with a ring of records each way.
struct LinkEnd {
    sleeper: Sleeper<Watched<Notes>>,
    fixed: (FixedProducer<Watched<Notes>>, FixedConsumer<Watched<Notes>>),
}

#[test]
fn in_a_link_no_word_is_written_by_both_ends_or_the_agent() {
    const SIZE: u64 = 3 * PAGE;
    let (in_guest, on_host) = two_sides(SIZE);
    let agent = Watched::new(&in_guest.memory, Notes::default());
    let open = |memory: &Watched<Notes>, side: Side| {
        let came = Presence::read(&agent, side).expect("inside").arrival();
        came.write(&agent, side).expect("inside");
        let outgoing = FixedRingLayout::in_region(SIZE, 40, side).expect("fits");
        let incoming = FixedRingLayout::in_region(SIZE, 40, side.other()).expect("fits");
        LinkEnd {
            sleeper: Sleeper::resume(memory.clone(), side).expect("as left"),
            fixed: (
                FixedProducer::resume(memory.clone(), outgoing).expect("as left"),
                FixedConsumer::resume(memory.clone(), incoming).expect("as left"),
            ),
        }
    };
    for round in 0..100 {
        let mut guest = open(&in_guest, Side::Guest);
        let mut host = open(&on_host, Side::Host);
        let bytes = payload(round, 40);
        let mut into = [0; 40];
        let (from, to) = (&mut guest, &mut host);
        assert_eq!(from.fixed.0.try_push(&bytes), Ok(true));
        assert_eq!(to.fixed.1.try_pop(&mut into), Ok(true));
        assert_eq!(to.fixed.0.try_push(&into), Ok(true));
        assert_eq!(from.fixed.1.try_pop(&mut into), Ok(true));
        assert_eq!(into[..], bytes);
        from.sleeper.fall_asleep().expect("own");
        assert_eq!(SleepWatch::new().check(&on_host, Side::Guest), Ok(true));
        from.sleeper.wake_up().expect("own");
        to.sleeper.fall_asleep().expect("own");
    }
    no_shared_lines(&in_guest, &on_host);
    no_shared_lines(&in_guest, &agent);
    no_shared_lines(&on_host, &agent);
}

#[test]
fn in_rings_and_latests_of_a_link_no_word_is_written_by_both_ends() {
    const SIZE: u64 = 3 * PAGE;
    let (in_guest, on_host) = two_sides(SIZE);
    for writer in [Side::Guest, Side::Host] {
        let (sending, receiving) = match writer {
            Side::Guest => (&in_guest, &on_host),
            Side::Host => (&on_host, &in_guest),
        };
        let ring = RingLayout::in_region(SIZE, writer).expect("fits");
        let latest = LatestLayout::in_region(SIZE, 500, writer).expect("fits");
        let mut into = [0; 500];
        for round in 0..100 {
            let bytes = payload(round, 500);
            let mut producer = Producer::resume(sending.clone(), ring).expect("as left");
            let mut consumer = Consumer::resume(receiving.clone(), ring).expect("as left");
            assert_eq!(producer.try_push(1, &bytes), Ok(true));
            assert_eq!(consumer.try_pop(&mut into), Ok(Some((1, 500))));
            assert_eq!(into[..], bytes);
        }
        let at_front = sending.memory.load_relaxed(ring.tail).expect("inside");
        let mut writer = LatestWriter::resume(sending.clone(), latest).expect("as left");
        let mut reader = LatestReader::open(receiving.clone(), latest).expect("fits");
        for round in 0..100 {
            let bytes = payload(round, 500);
            assert_eq!(writer.publish(&bytes), Ok(at_front + round + 1));
            let found = reader.try_read(&mut into).expect("right");
            assert_eq!(found, Some((at_front + round + 1, 500)));
            assert_eq!(into[..], bytes);
        }
    }
    no_shared_lines(&in_guest, &on_host);
}

fn no_shared_lines(one: &Watched<Notes>, other: &Watched<Notes>) {
    let lines = |side| {
        written(side)
            .into_iter()
            .map(|at| at / 64)
            .collect::<BTreeSet<_>>()
    };
    let (one, other) = (lines(one), lines(other));
    assert!(!one.is_empty() && !other.is_empty());
    assert_eq!(one.intersection(&other).count(), 0);
}
