//! Memory that cannot be reached any more from some operation on, or fails once: every
//! call says so, and what this side believes stays true.

use std::sync::Arc;

use vmshm_link::LinkError;
use vmshm_link::beacon::PAGE;
use vmshm_link::control::Request;
use vmshm_link::directory::{
    Budget, DIRECTORY_SIZE, Header, read_region, slot_offset, write_pulse, write_region,
};
use vmshm_link::duplex::{EndState, PipeEnd, Side};
use vmshm_link::proof::{clear_pattern, verify_pattern, write_pattern};
use vmshm_link::ring::{Consumer, Producer};
use vmshm_link::slot::{AgentSlot, Claim, HostIdentity, PendingClaim, Proof, SlotEvent, SlotView};
use vmshm_shm::LocalMemory;

use crate::material::memories::{Failing, GONE, Watched};
use crate::material::{assert_guards, layout, memory_for, payload};

/// Tries again after a failure that comes once.
fn again<T>(mut call: impl FnMut() -> Result<T, LinkError>) -> T {
    match call() {
        Ok(value) => value,
        Err(error) => {
            assert_eq!(error, LinkError::Fault(GONE));
            call().expect("it fails only once")
        }
    }
}

/// Sends records of all lengths through a small ring, both ends over memory that fails
/// at operation `at`; says how many operations there were.
fn transfer(at: u64, costly: bool) -> u64 {
    let memory = memory_for(128);
    let shaky = Watched::new(&memory, Failing::once(at)).costly(costly);
    let mut producer = again(|| Producer::start(shaky.clone(), layout(128)));
    let mut consumer = again(|| Consumer::start(shaky.clone(), layout(128)));
    let mut expected = 0;
    let mut next = 0;
    while expected < 60 {
        let length = |number: u64| usize::try_from(number % 57).expect("small");
        while next < 60 {
            let bytes = payload(next, length(next));
            if !again(|| producer.try_stage(3, &bytes)) {
                break;
            }
            next += 1;
        }
        again(|| producer.publish());
        while let Some(record) = again(|| consumer.peek()) {
            let mut bytes = vec![0; length(expected)];
            assert_eq!(again(|| consumer.read(record, 0, &mut bytes)), bytes.len());
            assert_eq!(bytes, payload(expected, bytes.len()));
            assert_eq!(record.length, bytes.len() as u64);
            again(|| consumer.release(record));
            expected += 1;
        }
        again(|| producer.is_drained());
    }
    assert_guards(&memory, 128);
    shaky.watcher.done.get()
}

#[test]
fn a_ring_loses_and_doubles_nothing_when_any_one_operation_fails() {
    for costly in [false, true] {
        let operations = transfer(u64::MAX, costly);
        assert!(operations > 500);
        for at in 1..=operations {
            transfer(at, costly);
        }
    }
}

/// Everything that either side does to a directory and its slot.
fn directory_life(memory: &Watched<Failing>) -> Result<(), LinkError> {
    let base = slot_offset(1);
    Header::new(1, 2, "a", "b", &[]).write(memory)?;
    Header::read(memory)?;
    Budget {
        pinned: 1,
        limit: 2,
    }
    .write(memory)?;
    Budget::read(memory)?;
    write_pulse(memory, 3)?;
    write_region(memory, 0, None)?;
    read_region(memory, 0)?;
    let mut agent = AgentSlot::adopt(memory.clone(), base, 1)?;
    let claim = PendingClaim::place(memory.clone(), base, 2)?.expect("free");
    assert_eq!(agent.poll(1)?, Some(SlotEvent::Granted));
    let Claim::Granted(unproved) = claim.poll(1, 3, &HostIdentity::default())? else {
        panic!("not granted");
    };
    assert_eq!(agent.poll(1)?, Some(SlotEvent::Proved));
    let Proof::Proved(mut slot) = unproved.poll()? else {
        panic!("not proved");
    };
    slot.beat()?;
    slot.verify()?;
    let message = Request::Close { region: 1 }.to_message(1);
    assert!(slot.requests.try_push(message.kind, message.payload())?);
    let rings = agent.rings().expect("a session");
    assert!(rings.requests.try_pop(&mut [0; 504])?.is_some());
    SlotView::read(memory, base)?;
    slot.release()?;
    assert_eq!(agent.poll(1)?, Some(SlotEvent::Released));
    agent.host_pulse()?;
    agent.free()
}

/// Everything that is done to a region.
fn region_life(memory: &Watched<Failing>) -> Result<(), LinkError> {
    write_pattern(memory, 1, 2)?;
    verify_pattern(memory, 1, 2)?;
    clear_pattern(memory)?;
    let mut guest = PipeEnd::open(memory.clone(), Side::Guest)?;
    let mut host = PipeEnd::open(memory.clone(), Side::Host)?;
    for _ in 0..40 {
        guest.writer.try_write(&[1; 700])?;
        host.reader.try_read(&mut [0; 700])?;
        guest.words.beat()?;
        host.words.peer_pulse()?;
    }
    while !guest.writer.try_end()? {
        host.reader.try_read(&mut [0; 700])?;
    }
    guest.writer.is_drained()?;
    guest.words.say(EndState::Finished)?;
    host.words.peer_state()?;
    host.words.peer_is_lost()?;
    guest.words.verify()?;
    guest.writer.verify()?;
    guest.reader.verify()
}

fn dies_everywhere(size: u64, life: fn(&Watched<Failing>) -> Result<(), LinkError>) {
    let size = usize::try_from(size).expect("small");
    let shaky = |from| Watched::new(&Arc::new(LocalMemory::new(size)), Failing::from(from));
    let whole = shaky(u64::MAX);
    life(&whole).expect("nothing fails");
    for from in 1..=whole.watcher.done.get() {
        let memory = shaky(from);
        assert_eq!(
            life(&memory),
            Err(LinkError::Fault(GONE)),
            "operation {from}"
        );
        assert_eq!(memory.watcher.done.get(), from, "went on after a failure");
    }
}

#[test]
fn whoever_uses_a_directory_is_told_that_it_is_gone() {
    dies_everywhere(DIRECTORY_SIZE, directory_life);
}

#[test]
fn whoever_uses_a_region_is_told_that_it_is_gone() {
    dies_everywhere(3 * PAGE, region_life);
}
