//! A host process or the agent dies at any step of a session, or both do. Afterwards
//! the slot can be had by the next host, and never has a slot been freed under a host
//! that was alive and had proved itself.

use std::sync::Arc;

use vmshm_link::LinkError;
use vmshm_link::control::{Reply, Request};
use vmshm_link::slot::{
    AgentSlot, COPIED_NAMED, Claim, HostIdentity, HostSlot, PendingClaim, Proof, SlotEvent,
    SlotState, SlotView, UnprovedSlot, ask_to_leave, release_for_dead_owner, say_copied,
    say_more_copied,
};
use vmshm_shm::LocalMemory;

use crate::material::memories::{Failing, GONE, Meddler, Watched};

type Memory = Watched<Failing>;

/// The slot is the whole of the memory here.
const BASE: u64 = 0;
const EPOCH: u64 = 5;
/// Looks after which an agent frees a slot that was granted and not proved.
const LAPSE: u32 = 20;
const REQUESTS: u64 = 3;

enum Stage {
    Start,
    Pending(PendingClaim<Memory>),
    Unproved(UnprovedSlot<Memory>),
    Running(HostSlot<Memory>, u64),
    Over,
}

/// A host process that makes some requests and leaves.
struct Host {
    memory: Memory,
    stage: Stage,
    number: u64,
    dead: bool,
    failed: bool,
}

impl Host {
    fn new(memory: Memory, number: u64) -> Self {
        Self {
            memory,
            stage: Stage::Start,
            number,
            dead: false,
            failed: false,
        }
    }

    fn identity(number: u64) -> HostIdentity {
        HostIdentity {
            pid: number,
            ..HostIdentity::default()
        }
    }

    /// One look, and what follows from it.
    fn step(&mut self) {
        let stage = std::mem::replace(&mut self.stage, Stage::Over);
        match self.next(stage) {
            Ok(stage) => self.stage = stage,
            Err(error) => {
                self.dead = error == LinkError::Fault(GONE);
                self.failed = true;
            }
        }
    }

    fn next(&self, stage: Stage) -> Result<Stage, LinkError> {
        Ok(match stage {
            Stage::Start => {
                let claim = PendingClaim::place(self.memory.clone(), BASE, 1000 + self.number)?;
                claim.map_or(Stage::Start, Stage::Pending)
            }
            Stage::Pending(claim) => {
                match claim.poll(EPOCH, 2000 + self.number, &Self::identity(self.number))? {
                    Claim::Waiting(claim) => Stage::Pending(claim),
                    Claim::Lost => Stage::Start,
                    Claim::Granted(slot) => Stage::Unproved(slot),
                }
            }
            Stage::Unproved(slot) => match slot.poll()? {
                Proof::Waiting(slot) => Stage::Unproved(slot),
                Proof::Proved(slot) => Stage::Running(slot, 0),
            },
            Stage::Running(mut slot, done) => {
                slot.verify()?;
                slot.beat()?;
                if slot.replies.try_pop(&mut [0; 504])?.is_some() {
                    if done == REQUESTS {
                        slot.release()?;
                        return Ok(Stage::Over);
                    }
                } else if done > 0 {
                    return Ok(Stage::Running(slot, done));
                }
                let message = Request::Close { region: done }.to_message(done);
                slot.requests.try_push(message.kind, message.payload())?;
                Stage::Running(slot, done + 1)
            }
            Stage::Over => Stage::Over,
        })
    }

    /// The agent's generation has changed: the session is over.
    fn give_up(&mut self) {
        if self.dead {
            return;
        }
        let outcome = match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Unproved(slot) => slot.release(),
            Stage::Running(slot, _) => slot.release(),
            Stage::Start | Stage::Pending(_) | Stage::Over => Ok(()),
        };
        self.failed = true;
        self.dead = outcome.is_err();
    }

    /// It has proved itself, lives and has not released: its pages must stay.
    fn must_keep(&self) -> bool {
        matches!(self.stage, Stage::Running(..))
    }

    fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }
}

struct Agent {
    slot: AgentSlot<Memory>,
    session: u64,
    unproved_looks: u32,
}

impl Agent {
    fn adopt(memory: &Memory, generation: u64) -> Result<Self, LinkError> {
        Ok(Self {
            slot: AgentSlot::adopt(memory.clone(), BASE, EPOCH)?,
            session: generation << 32,
            unproved_looks: 0,
        })
    }

    fn step(&mut self, host: &Host) -> Result<(), LinkError> {
        self.session += 1;
        if self.slot.poll(self.session)? == Some(SlotEvent::Released) {
            assert!(!host.must_keep(), "freed under a living host");
            self.slot.free()?;
        }
        self.unproved_looks = match self.slot.state() {
            SlotState::Granted => self.unproved_looks + 1,
            _ => 0,
        };
        if self.unproved_looks > LAPSE {
            self.slot.free()?;
        }
        if let Some(rings) = self.slot.rings()
            && let Some((kind, count)) = rings.requests.try_pop(&mut [0; 504])?
        {
            assert!((kind, count) == (5, 24), "a request that nobody sent");
            let reply = Reply::Done.to_message(1);
            rings.replies.try_push(reply.kind, reply.payload())?;
        }
        Ok(())
    }
}

/// Another host process, which looks for slots of dead owners.
fn reap(memory: &Memory, dead: &[u64]) {
    let view = SlotView::read(memory, BASE).expect("right words");
    let owner_is_dead = view.owner.is_some_and(|owner| dead.contains(&owner.pid));
    if view.is_held() && owner_is_dead {
        release_for_dead_owner(memory, BASE, view.token).expect("reachable");
    }
}

/// At which of its operations somebody dies.
#[derive(Debug, Clone, Copy)]
struct Deaths {
    agent: u64,
    next_agent: u64,
    host: u64,
}

const NEVER: u64 = u64::MAX;

/// How many operations agent and host made in a session.
fn play(deaths: Deaths) -> (u64, u64) {
    let memory = Arc::new(LocalMemory::new(4096));
    let view = |from| Watched::new(&memory, Failing::from(from));
    let steady = view(NEVER);
    // An earlier session, whose owner is dead by now, leaves its words behind.
    let mut earlier = Host::new(steady.clone(), 1);
    let mut agent = Agent::adopt(&steady, 0).expect("reachable");
    while !earlier.is_over() {
        agent.step(&earlier).expect("reachable");
        earlier.step();
    }
    agent.step(&earlier).expect("reachable");

    let of_agent = view(deaths.agent);
    let mut lives = vec![NEVER, deaths.next_agent];
    let mut host = Host::new(view(deaths.host), 2);
    agent.slot = match AgentSlot::adopt(of_agent.clone(), BASE, EPOCH) {
        Ok(slot) => slot,
        Err(_) => agent.slot,
    };
    let mut agent_died = false;
    for round in 0..100 {
        if agent.step(&host).is_err() {
            agent_died = true;
            while let Some(life) = lives.pop() {
                if let Ok(next) = Agent::adopt(&view(life), 2 - lives.len() as u64) {
                    agent = next;
                    break;
                }
            }
            host.give_up();
        }
        reap(&steady, &[1]);
        host.step();
        if host.is_over() {
            break;
        }
        assert!(round < 99, "nothing goes on: {deaths:?}");
    }
    assert!(!host.failed || host.dead || agent_died, "{deaths:?}");
    let operations = (of_agent.watcher.done.get(), host.memory.watcher.done.get());

    let mut dead = vec![1];
    if host.dead {
        dead.push(2);
    }
    let mut last = Host::new(view(NEVER), 3);
    for round in 0..200 {
        reap(&steady, &dead);
        if agent.step(&last).is_err() {
            // The second agent lives long enough to die only now.
            agent = Agent::adopt(&steady, 9).expect("reachable");
            last.give_up();
            last = Host::new(view(NEVER), 4);
        }
        last.step();
        // A claim that nobody answers is given up, as a host with a clock does it.
        if round % 50 == 49 && matches!(last.stage, Stage::Pending(_)) {
            last.stage = Stage::Start;
            last.number += 1;
        }
        if last.is_over() {
            break;
        }
    }
    assert!(
        last.is_over() && !last.failed,
        "the slot is lost: {deaths:?}"
    );
    operations
}

#[test]
fn a_slot_survives_the_death_of_either_side_at_any_step() {
    let (agent, host) = play(Deaths {
        agent: NEVER,
        next_agent: NEVER,
        host: NEVER,
    });
    assert!(agent > 20 && host > 20);
    for dies in 1..=agent + 1 {
        for host in (1..=host + 1).chain([NEVER]) {
            for next_agent in [1, 2, 3, 4, 5, 6, 7, 8, 9, NEVER] {
                play(Deaths {
                    agent: dies,
                    next_agent,
                    host,
                });
            }
        }
    }
    for host in 1..=host {
        play(Deaths {
            agent: NEVER,
            next_agent: NEVER,
            host,
        });
    }
}

/// Runs one whole session of host `number` up to its proof.
fn prove(
    memory: &Arc<LocalMemory>,
    agent: &mut AgentSlot<Arc<LocalMemory>>,
    number: u64,
) -> HostSlot<Arc<LocalMemory>> {
    let claim = PendingClaim::place(Arc::clone(memory), BASE, 1000 + number)
        .expect("right")
        .expect("free");
    agent.poll(number).expect("right");
    let granted = claim.poll(EPOCH, 2000 + number, &Host::identity(number));
    let Ok(Claim::Granted(unproved)) = granted else {
        panic!("not granted");
    };
    assert_eq!(agent.poll(number), Ok(Some(SlotEvent::Proved)));
    match unproved.poll() {
        Ok(Proof::Proved(slot)) => slot,
        other => panic!("not proved: {other:?}"),
    }
}

#[test]
fn a_look_at_a_slot_never_takes_one_owner_for_another() {
    for at in 1..20 {
        for proved in [false, true] {
            let memory = Arc::new(LocalMemory::new(4096));
            let mut agent = AgentSlot::adopt(Arc::clone(&memory), BASE, EPOCH).expect("reachable");
            prove(&memory, &mut agent, 1);
            let mut wait = at;
            // Between two of the reader's looks the slot changes hands.
            let hasty = Watched::new(
                &Arc::clone(&memory),
                Meddler::new(move |_, _| {
                    wait -= 1;
                    if wait == 0 {
                        release_for_dead_owner(&memory, BASE, 1001).expect("reachable");
                        assert_eq!(agent.poll(0), Ok(Some(SlotEvent::Released)));
                        agent.free().expect("reachable");
                        if proved {
                            prove(&memory, &mut agent, 2);
                        } else {
                            PendingClaim::place(Arc::clone(&memory), BASE, 1002).expect("right");
                            assert_eq!(agent.poll(2), Ok(Some(SlotEvent::Granted)));
                        }
                    }
                }),
            );
            let view = SlotView::read(&hasty, BASE).expect("right words");
            if let Some(owner) = view.owner {
                assert_eq!(view.token, 1000 + owner.pid, "change before look {at}");
            }
        }
    }
}

#[test]
fn of_two_claims_for_one_slot_one_is_granted() {
    let memory = Arc::new(LocalMemory::new(4096));
    let mut agent = AgentSlot::adopt(Arc::clone(&memory), BASE, EPOCH).expect("reachable");
    let place = |token| {
        PendingClaim::place(Arc::clone(&memory), BASE, token)
            .expect("right")
            .expect("free")
    };
    let (first, second) = (place(11), place(22));
    assert_eq!(agent.poll(1), Ok(Some(SlotEvent::Granted)));
    let poll = |claim: PendingClaim<_>| claim.poll(EPOCH, 1, &HostIdentity::default());
    assert!(matches!(poll(first), Ok(Claim::Lost)));
    assert!(matches!(poll(second), Ok(Claim::Granted(_))));
    assert!(
        PendingClaim::place(Arc::clone(&memory), BASE, 33)
            .expect("right")
            .is_none()
    );
}

#[test]
fn a_host_whose_agent_died_before_it_answered_gives_the_slot_back() {
    let memory = Arc::new(LocalMemory::new(4096));
    // The agent's operations until it has said "proved", but has not answered yet.
    let dying = Watched::new(&memory, Failing::from(NEVER));
    let mut agent = AgentSlot::adopt(dying.clone(), BASE, EPOCH).expect("reachable");
    let claim = PendingClaim::place(Arc::clone(&memory), BASE, 11)
        .expect("right")
        .expect("free");
    assert_eq!(agent.poll(1), Ok(Some(SlotEvent::Granted)));
    let Ok(Claim::Granted(unproved)) = claim.poll(EPOCH, 1, &Host::identity(1)) else {
        panic!("not granted");
    };
    let Ok(Proof::Waiting(unproved)) = unproved.poll() else {
        panic!("nobody has answered");
    };
    // It looks at `released` and at `nonce`, and writes `state`.
    dying.watcher.from.set(dying.watcher.done.get() + 4);
    assert_eq!(agent.poll(1), Err(LinkError::Fault(GONE)));
    let mut next = AgentSlot::adopt(Arc::clone(&memory), BASE, EPOCH).expect("reachable");
    assert_eq!(next.state(), SlotState::Orphaned);
    assert!(unproved.poll().is_err(), "it waits for an answer for ever");
    assert_eq!(next.poll(2), Ok(Some(SlotEvent::Released)));
}

#[test]
fn an_orphaned_slot_keeps_its_number_until_its_host_lets_go() {
    let memory = Arc::new(LocalMemory::new(4096));
    let mut agent = AgentSlot::adopt(Arc::clone(&memory), BASE, EPOCH).expect("reachable");
    prove(&memory, &mut agent, 7);
    let mut next = AgentSlot::adopt(Arc::clone(&memory), BASE, EPOCH).expect("reachable");
    assert_eq!((next.state(), next.session()), (SlotState::Orphaned, 7));
    assert!(next.rings().is_none());
    assert_eq!(next.poll(8), Ok(None));
    let view = SlotView::read(&memory, BASE).expect("right words");
    assert_eq!(view.owner, Some(Host::identity(7)));
    release_for_dead_owner(&memory, BASE, view.token).expect("reachable");
    assert_eq!(next.poll(8), Ok(Some(SlotEvent::Released)));
    next.free().expect("reachable");
    let free = SlotView::read(&memory, BASE).expect("right words");
    assert_eq!((free.state, free.is_held()), (SlotState::Free, false));
}

#[test]
fn an_owner_is_asked_to_leave_and_the_next_one_is_not() {
    let memory = Arc::new(LocalMemory::new(4096));
    let mut agent = AgentSlot::adopt(Arc::clone(&memory), BASE, EPOCH).expect("reachable");
    let first = prove(&memory, &mut agent, 7);
    assert_eq!(first.is_asked_to_leave(), Ok(false));
    let seen = SlotView::read(&memory, BASE).expect("right words");
    ask_to_leave(&memory, BASE, seen.token).expect("reachable");
    assert_eq!(first.is_asked_to_leave(), Ok(true));
    // Nothing else comes of it.
    assert_eq!(first.verify(), Ok(()));
    assert_eq!(agent.poll(8), Ok(None));
    first.release().expect("reachable");
    assert_eq!(agent.poll(8), Ok(Some(SlotEvent::Released)));
    agent.free().expect("reachable");
    let next = prove(&memory, &mut agent, 8);
    assert_eq!(next.is_asked_to_leave(), Ok(false));
    // Who has looked long ago asks nobody.
    ask_to_leave(&memory, BASE, seen.token).expect("reachable");
    assert_eq!(next.is_asked_to_leave(), Ok(false));
}

#[test]
fn what_an_owner_copies_is_not_said_of_the_next_one() {
    let memory = Arc::new(LocalMemory::new(4096));
    let mut agent = AgentSlot::adopt(Arc::clone(&memory), BASE, EPOCH).expect("reachable");
    let first = prove(&memory, &mut agent, 7);
    let copied = || SlotView::read(&memory, BASE).expect("right words").copied;
    let has = |region: u64| copied().may_have(region);
    assert!((0..200).all(|region| !has(region)));
    say_copied(&memory, BASE, 0, Some(3)).expect("reachable");
    say_copied(&memory, BASE, COPIED_NAMED - 1, Some(0)).expect("reachable");
    assert!(has(3) && has(0) && !has(4) && !has(3 + 64));
    say_copied(&memory, BASE, 0, None).expect("reachable");
    assert!(!has(3) && has(0));
    // One that cannot be named may be each.
    say_copied(&memory, BASE, COPIED_NAMED, Some(9)).expect("reachable");
    assert!(!has(9));
    say_more_copied(&memory, BASE, 1).expect("reachable");
    assert!(has(9) && has(4));
    assert_eq!(first.verify(), Ok(()));
    first.release().expect("reachable");
    assert_eq!(agent.poll(8), Ok(Some(SlotEvent::Released)));
    agent.free().expect("reachable");
    prove(&memory, &mut agent, 8);
    assert!((0..200).all(|region| !has(region)));
}
