//! Every shared word has one writer: a whole session, and a whole pipe, with notes
//! taken of who writes where.

use std::collections::BTreeSet;
use std::sync::Arc;

use vmshm_link::beacon::PAGE;
use vmshm_link::control::{Reply, Request};
use vmshm_link::directory::{DIRECTORY_SIZE, PAGE_ADDRESS, slot_offset};
use vmshm_link::duplex::{EndState, PipeEnd, Side};
use vmshm_link::slot::{AgentSlot, Claim, HostIdentity, PendingClaim, Proof, SlotEvent};
use vmshm_link::stream::Received;
use vmshm_shm::LocalMemory;

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
