//! Links over the memory that a played agent hands out, with the host's end played, too.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;

use vmshm_guest::{Agent, End, LinkFailure, PresenceState, Ring, Side};
use vmshm_link::control::Request;
use vmshm_link::ends::Presence;
use vmshm_link::fixed_ring::{FixedConsumer, FixedProducer, FixedRingLayout};
use vmshm_shm::{Mapping, Protection};

use crate::played::{Caller, SIZE, sealed};
use crate::{LONG, connected};

/// What the host sees of a region.
fn host_memory(file: &OwnedFd) -> Arc<Mapping> {
    let mapping = Mapping::whole(file, SIZE, Protection::ReadWrite).expect("mapped");
    Arc::new(mapping)
}

fn layout(writer: Side) -> FixedRingLayout {
    FixedRingLayout::in_region(SIZE, 8, writer).expect("fits")
}

/// Opens a ring over `file`.
fn ring(agent: &Agent, caller: &Caller, file: &OwnedFd) -> Ring<u64> {
    thread::scope(|scope| {
        let open = || agent.region("ring").size(SIZE).timeout(LONG).ring::<u64>();
        let opening = scope.spawn(open);
        let (tag, request) = caller.request();
        assert!(
            matches!(request, Request::Link { record: 8, .. }),
            "{request:?}"
        );
        caller.grant(tag, 5, file);
        opening.join().expect("no panic").expect("opened")
    })
}

#[test]
fn records_cross_the_agents_memory_both_ways() {
    let (_listener, caller, agent) = connected();
    let file = sealed();
    let memory = host_memory(&file);
    let mut ring = ring(&agent, &caller, &file);
    assert_eq!(ring.peer().expect("open").state, PresenceState::Absent);
    let arrived = Presence::NOBODY.arrival();
    arrived.write(&memory, Side::Host).expect("inside");
    assert_eq!(ring.peer().expect("open").state, PresenceState::Present);

    let mut host = FixedConsumer::resume(memory.clone(), layout(Side::Guest)).expect("resumes");
    ring.send(&7).expect("sent");
    let mut record = [0; 8];
    assert_eq!(host.try_pop(&mut record), Ok(true));
    assert_eq!(u64::from_le_bytes(record), 7);

    let mut host = FixedProducer::resume(memory, layout(Side::Host)).expect("resumes");
    assert_eq!(host.try_push(&9_u64.to_le_bytes()), Ok(true));
    assert_eq!(ring.receive_timeout(LONG), Ok(9));
}

#[test]
fn a_ring_goes_on_after_its_agent_was_started_again() {
    let (mut listener, caller, agent) = connected();
    let file = sealed();
    let mut ring = ring(&agent, &caller, &file);
    ring.send(&1).expect("sent");
    drop(caller);
    // Whoever waits learns that the agent is gone.
    let failure = ring.receive().expect_err("over");
    assert_eq!(failure, LinkFailure::Ended(End::AgentDied));
    let _caller = thread::scope(|scope| {
        let reconnecting = scope.spawn(|| ring.reconnect(LONG));
        listener.listen();
        let caller = listener.welcome();
        caller.grant(caller.asked_for("ring"), 5, &file);
        let reconnected = reconnecting.join().expect("no panic");
        reconnected.expect("opened again");
        caller
    });
    ring.send(&2).expect("sent");
    let layout = layout(Side::Guest);
    let mut host = FixedConsumer::resume(host_memory(&file), layout).expect("resumes");
    let mut records = [0; 24];
    assert_eq!(host.try_pop_all(&mut records), Ok(2));
    let words = records.chunks(8).map(|word| word[0]);
    assert_eq!(words.collect::<Vec<_>>(), [1, 2, 0]);
}
