//! Host processes against the agent over one session slot.

use loom::thread;
use vmshm_link::slot::{
    AgentSlot, Claim, HostIdentity, HostSlot, PendingClaim, Proof, SlotEvent, SlotView,
};
use vmshm_shm::LocalMemory;

use crate::check;
use crate::memory::{LoomMemory, Partly};

const EPOCH: u64 = 3;
const KIND: u16 = 9;

/// The slot's words, and the first records of both of its rings. What the owner says of regions is
/// no part of what is checked here: a lock outside of this memory orders it.
fn memory() -> Partly {
    let modelled = LoomMemory::new(
        4096,
        &[
            (0x00, 0x20),
            (0x40, 0x50),
            (0x80, 0xd0),
            (0x100, 0x110),
            (0x200, 0x210),
            (0x600, 0x610),
        ],
    );
    let rest = std::sync::Arc::new(LocalMemory::new(4096));
    Partly { modelled, rest }
}

fn identity(token: u64) -> HostIdentity {
    HostIdentity {
        pid: token,
        ..HostIdentity::default()
    }
}

/// Claims the slot; nothing when another host got it.
fn claim(memory: &Partly, token: u64) -> Option<HostSlot<Partly>> {
    let mut claim = PendingClaim::place(memory.clone(), 0, token).expect("right")?;
    let mut unproved = loop {
        match claim
            .poll(EPOCH, token + 100, &identity(token))
            .expect("right")
        {
            Claim::Waiting(waiting) => claim = waiting,
            Claim::Lost => return None,
            Claim::Granted(granted) => break granted,
        }
        thread::yield_now();
    };
    loop {
        match unproved.poll().expect("right") {
            Proof::Waiting(waiting) => unproved = waiting,
            Proof::Proved(slot) => return Some(slot),
        }
        thread::yield_now();
    }
}

/// Serves sessions until `count` have been released; each sends one record, which the
/// agent sends back.
fn serve(agent: &mut AgentSlot<Partly>, count: u64) {
    let mut done = 0;
    let mut session = 0;
    while done < count {
        session += 1;
        let event = agent.poll(session).expect("right");
        if event == Some(SlotEvent::Released) {
            agent.free().expect("reachable");
            done += 1;
        }
        if let Some(rings) = agent.rings() {
            let mut into = [0; 8];
            if let Some((kind, count)) = rings.requests.try_pop(&mut into).expect("right") {
                assert_eq!((kind, count), (KIND, 8));
                assert_eq!(rings.replies.try_push(KIND, &into), Ok(true));
            }
        }
        if event.is_none() {
            thread::yield_now();
        }
    }
}

/// Sends one record and takes it back.
fn talk(slot: &mut HostSlot<Partly>, token: u64) {
    let sent = token.to_le_bytes();
    assert_eq!(slot.requests.try_push(KIND, &sent), Ok(true));
    let mut found = [0; 8];
    while slot.replies.try_pop(&mut found).expect("right").is_none() {
        thread::yield_now();
    }
    assert_eq!(found, sent, "somebody else's answer");
    slot.verify().expect("ours");
}

#[test]
fn a_host_proves_itself_and_talks() {
    check(3, || {
        let memory = memory();
        let mut agent = AgentSlot::adopt(memory.clone(), 0, EPOCH).expect("reachable");
        let host = thread::spawn(move || {
            let mut slot = claim(&memory, 1).expect("nobody else wants it");
            talk(&mut slot, 1);
            slot.release().expect("reachable");
        });
        serve(&mut agent, 1);
        host.join().expect("no panic");
    });
}

/// Claims the slot, but looks only a few times.
fn claim_in_haste(memory: &Partly, token: u64) -> bool {
    let Some(mut claim) = PendingClaim::place(memory.clone(), 0, token).expect("right") else {
        return false;
    };
    for _ in 0..2 {
        thread::yield_now();
        match claim
            .poll(EPOCH, token + 100, &identity(token))
            .expect("right")
        {
            Claim::Waiting(waiting) => claim = waiting,
            Claim::Lost => return false,
            Claim::Granted(_) => return true,
        }
    }
    false
}

#[test]
fn of_two_hosts_one_gets_the_slot() {
    check(2, || {
        let memory = memory();
        let mut agent = AgentSlot::adopt(memory.clone(), 0, EPOCH).expect("reachable");
        let [first, second] = [1, 2].map(|token| {
            let memory = memory.clone();
            thread::spawn(move || claim_in_haste(&memory, token))
        });
        for session in 1..3 {
            agent.poll(session).expect("right");
            thread::yield_now();
        }
        let owners = [first, second].map(|host| host.join().expect("no panic"));
        assert_ne!(owners, [true, true]);
        let echo = SlotView::read(&memory, 0).expect("right words").token;
        assert!(!owners[0] || echo == 1);
        assert!(!owners[1] || echo == 2);
    });
}

#[test]
fn a_slot_that_was_released_is_used_again() {
    check(3, || {
        let memory = memory();
        let mut agent = AgentSlot::adopt(memory.clone(), 0, EPOCH).expect("reachable");
        let hosts = thread::spawn(move || {
            let first = claim(&memory, 1).expect("nobody else wants it");
            first.release().expect("reachable");
            // The second host waits until the slot is free.
            loop {
                if let Some(mut second) = claim(&memory, 2) {
                    talk(&mut second, 2);
                    second.release().expect("reachable");
                    break;
                }
                thread::yield_now();
            }
        });
        serve(&mut agent, 2);
        hosts.join().expect("no panic");
    });
}

/// One host's session, with the agent's looks in between.
fn whole_session(memory: &Partly, agent: &mut AgentSlot<Partly>, token: u64) {
    let pending = PendingClaim::place(memory.clone(), 0, token)
        .expect("right")
        .expect("free");
    assert_eq!(agent.poll(token), Ok(Some(SlotEvent::Granted)));
    let Ok(Claim::Granted(unproved)) = pending.poll(EPOCH, token + 100, &identity(token)) else {
        panic!("not granted");
    };
    assert_eq!(agent.poll(token), Ok(Some(SlotEvent::Proved)));
    let Ok(Proof::Proved(mut slot)) = unproved.poll() else {
        panic!("not proved");
    };
    let sent = token.to_le_bytes();
    assert_eq!(slot.requests.try_push(KIND, &sent), Ok(true));
    let rings = agent.rings().expect("a session");
    assert_eq!(rings.requests.try_pop(&mut [0; 8]), Ok(Some((KIND, 8))));
    assert_eq!(rings.replies.try_push(KIND, &sent), Ok(true));
    assert_eq!(slot.replies.try_pop(&mut [0; 8]), Ok(Some((KIND, 8))));
    slot.release().expect("reachable");
    assert_eq!(agent.poll(token), Ok(Some(SlotEvent::Released)));
    agent.free().expect("reachable");
}

#[test]
fn what_an_earlier_session_left_is_not_taken_for_this_one() {
    check(3, || {
        let memory = memory();
        let mut agent = AgentSlot::adopt(memory.clone(), 0, EPOCH).expect("reachable");
        whole_session(&memory, &mut agent, 1);
        // The agent goes on in a thread that has seen none of the words yet.
        let agent = thread::spawn(move || serve(&mut agent, 1));
        let mut slot = claim(&memory, 2).expect("nobody else wants it");
        talk(&mut slot, 2);
        slot.release().expect("reachable");
        agent.join().expect("no panic");
    });
}

#[test]
fn an_onlooker_never_takes_one_owner_for_another() {
    check(2, || {
        let memory = memory();
        let mut agent = AgentSlot::adopt(memory.clone(), 0, EPOCH).expect("reachable");
        whole_session(&memory, &mut agent, 1);
        let seen = memory.clone();
        let onlooker = thread::spawn(move || {
            let view = SlotView::read(&seen, 0).expect("right words");
            if let Some(owner) = view.owner {
                assert_eq!(owner, identity(view.token));
            }
            assert!(!view.released || view.token != 0);
        });
        whole_session(&memory, &mut agent, 2);
        onlooker.join().expect("no panic");
    });
}
