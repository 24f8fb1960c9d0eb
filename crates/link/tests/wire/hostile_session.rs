//! Slots and pipes whose other side writes whatever it likes, at any moment.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use vmshm_link::LinkError;
use vmshm_link::beacon::PAGE;
use vmshm_link::control::Request;
use vmshm_link::directory::{DIRECTORY_SIZE, slot_offset};
use vmshm_link::duplex::{PipeEnd, Side, rings};
use vmshm_link::slot::{
    AgentSlot, Claim, HostIdentity, PendingClaim, Proof, SlotView, release_for_dead_owner,
};
use vmshm_shm::{LocalMemory, SharedMemory};

use crate::material::memories::{Meddler, Watched};
use crate::material::nasty_word;

const EPOCH: u64 = 77;
const TOKEN: u64 = 0x1111;
const NONCE: u64 = 0x2222;

/// The words of a slot that the agent writes, and those that hosts write.
const AGENT_WORDS: [u64; 6] = [0x00, 0x08, 0x10, 0x18, 0x40, 0x48];
const HOST_WORDS: [u64; 12] = [
    0x80, 0x88, 0x90, 0x98, 0xa0, 0xa8, 0xb0, 0xb8, 0xc0, 0xc8, 0x100, 0x108,
];

/// Values that mean something in a slot, among others.
fn slot_word() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => 0_u64..6,
        2 => Just(TOKEN),
        1 => Just(NONCE),
        2 => (0_u64..160).prop_map(|words| words * 8),
        2 => nasty_word(),
    ]
}

type Change = (u8, u64, u64);

fn changes() -> impl Strategy<Value = Vec<Change>> {
    vec((0_u8..8, any::<u64>(), slot_word()), 0..120)
}

/// A peer that writes only the words that are its own: the given ones, and one ring's
/// records.
fn meddler(changes: Vec<Change>, base: u64, words: &'static [u64], records: u64) -> Meddler {
    let mut changes = changes.into_iter();
    let mut wait = 0;
    Meddler::new(move |memory, _| {
        if wait > 0 {
            wait -= 1;
        } else if let Some((pause, place, value)) = changes.next() {
            wait = pause;
            let choice = usize::try_from(place % 4096).expect("small");
            let offset = match words.get(choice % (words.len() + 2)) {
                Some(word) => *word,
                None => records + place % 16 * 8,
            };
            memory.store_relaxed(base + offset, value).expect("inside");
        }
    })
}

fn directory() -> Arc<LocalMemory> {
    let size = usize::try_from(DIRECTORY_SIZE).expect("small");
    Arc::new(LocalMemory::new(size))
}

fn identity() -> HostIdentity {
    HostIdentity {
        boot_id: [3; 16],
        pid_namespace: 4,
        pid: 5,
        start_time: 6,
    }
}

fn expected(error: LinkError) -> Result<(), TestCaseError> {
    match error {
        LinkError::Violation { .. } | LinkError::TooLong { .. } | LinkError::Revoked => Ok(()),
        other => Err(TestCaseError::fail(format!("{other}"))),
    }
}

/// One host process's way through a session, as far as the agent lets it come.
fn host_session(directory: &Watched<Meddler>, base: u64) -> Result<(), LinkError> {
    let mut into = [0; 504];
    let Some(mut claim) = PendingClaim::place(directory.clone(), base, TOKEN)? else {
        return Ok(());
    };
    let mut looks = 0;
    let mut unproved = loop {
        looks += 1;
        match claim.poll(EPOCH, NONCE, &identity())? {
            Claim::Waiting(_) if looks > 20 => return Ok(()),
            Claim::Waiting(waiting) => claim = waiting,
            Claim::Lost => return Ok(()),
            Claim::Granted(granted) => break granted,
        }
    };
    let mut slot = loop {
        looks += 1;
        match unproved.poll()? {
            Proof::Waiting(waiting) if looks > 40 => return waiting.release(),
            Proof::Waiting(waiting) => unproved = waiting,
            Proof::Proved(slot) => break slot,
        }
    };
    for tag in 0..40 {
        slot.verify()?;
        slot.beat()?;
        let message = Request::Close { region: 1 }.to_message(tag);
        slot.requests.try_push(message.kind, message.payload())?;
        slot.replies.try_pop(&mut into)?;
    }
    slot.release()
}

proptest! {
    #[test]
    fn a_host_survives_any_agent(
        state in 0_u64..5,
        changes in changes(),
        slot in 0_usize..27,
    ) {
        let base = slot_offset(slot);
        let memory = directory();
        memory.store_relaxed(base, state).expect("inside");
        let hostile = Watched::new(&memory, meddler(changes, base, &AGENT_WORDS, 0x600));
        if let Err(error) = host_session(&hostile, base) {
            expected(error)?;
        }
    }

    #[test]
    fn an_agent_survives_any_host(
        words in vec((0_usize..HOST_WORDS.len(), slot_word()), 0..12),
        left in vec((0_usize..AGENT_WORDS.len(), slot_word()), 0..4),
        changes in changes(),
    ) {
        let base = slot_offset(2);
        let memory = directory();
        for (index, value) in words {
            memory.store_relaxed(base + HOST_WORDS[index], value).expect("inside");
        }
        // What an earlier agent may have left behind.
        for (index, value) in left {
            memory.store_relaxed(base + AGENT_WORDS[index], value).expect("inside");
        }
        let hostile = Watched::new(&memory, meddler(changes, base, &HOST_WORDS, 0x200));
        let mut slot = AgentSlot::adopt(hostile.clone(), base, EPOCH).expect("reachable");
        let mut into = [0; 504];
        for session in 1..200 {
            hostile.watcher.operations.set(0);
            let event = slot.poll(session).expect("nothing that a host writes is an error");
            if event == Some(vmshm_link::slot::SlotEvent::Released) {
                slot.free().expect("reachable");
            }
            let mut broken = false;
            if let Some(rings) = slot.rings() {
                match rings.requests.try_pop(&mut into) {
                    Ok(Some((kind, count))) => {
                        let _ = Request::from_payload(kind, &into[..count]);
                    }
                    Ok(None) => {}
                    Err(error) => {
                        expected(error)?;
                        broken = true;
                    }
                }
                match rings.replies.try_push(3, &[0; 8]) {
                    Ok(_) => {}
                    Err(error) => {
                        expected(error)?;
                        broken = true;
                    }
                }
            }
            if broken && session % 3 == 0 {
                slot.free().expect("reachable");
            }
            prop_assert!(hostile.watcher.operations.get() < 60);
        }
    }

    #[test]
    fn any_bytes_are_judged_as_a_slot_without_harm(
        words in vec((0_u64..64, slot_word()), 0..40),
        changes in changes(),
        token in slot_word(),
    ) {
        let memory = directory();
        let base = slot_offset(0);
        for (index, value) in words {
            memory.store_relaxed(base + 8 * index, value).expect("inside");
        }
        let hostile = Watched::new(&memory, meddler(changes, base, &AGENT_WORDS, 0));
        if let Ok(view) = SlotView::read(&hostile, base) {
            prop_assert!(!view.released || view.token != 0);
        }
        release_for_dead_owner(&hostile, base, token).expect("reachable");
    }

    #[test]
    fn a_pipe_end_survives_any_other_end(
        guest in any::<bool>(),
        size in (3 * PAGE)..(6 * PAGE),
        words in vec((any::<u16>(), nasty_word()), 0..60),
        changes in vec((0_u8..8, any::<u64>(), nasty_word()), 0..200),
    ) {
        let (side, others) = if guest {
            (Side::Guest, [0x200_u64, 0x208, 0x280, 0x300])
        } else {
            (Side::Host, [0x080, 0x088, 0x100, 0x180])
        };
        let memory = Arc::new(LocalMemory::new(usize::try_from(size).expect("small")));
        let (to_host, to_guest) = rings(memory.size()).expect("fits");
        let incoming = if guest { to_guest } else { to_host };
        for (index, value) in words {
            let offset = incoming.data + u64::from(index) * 8 % incoming.capacity;
            memory.store_relaxed(offset, value).expect("inside");
        }
        let mut changes = changes.into_iter();
        let trick = Meddler::new(move |memory, _| {
            if let Some((_, place, value)) = changes.next() {
                let offset = match place % 8 {
                    0..4 => others[usize::try_from(place % 4).expect("small")],
                    4 => place / 8 % 2 * 8,
                    _ => incoming.data + place / 8 % 32 * 8,
                };
                memory.store_relaxed(offset, value).expect("inside");
            }
        });
        let hostile = Watched::new(&memory, trick);
        let mut end = PipeEnd::open(hostile.clone(), side).expect("fits");
        let mut into = [0; 700];
        for _ in 0..60 {
            hostile.watcher.operations.set(0);
            let outcomes = [
                end.words.peer_state().map(drop),
                end.words.peer_is_lost().map(drop),
                end.words.peer_pulse().map(drop),
                end.words.beat(),
                end.writer.try_write(&into).map(drop),
                end.writer.is_drained().map(drop),
                end.reader.try_read(&mut into).map(drop),
                end.words.verify(),
                end.writer.verify(),
                end.reader.verify(),
            ];
            for outcome in outcomes {
                if let Err(error) = outcome {
                    expected(error)?;
                }
            }
            prop_assert!(hostile.watcher.operations.get() < 200);
        }
    }
}
