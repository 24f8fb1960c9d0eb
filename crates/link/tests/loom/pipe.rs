//! Two ends of a pipe that open in any order, and what they learn of each other.

use loom::thread;
use vmshm_link::beacon::PAGE;
use vmshm_link::duplex::{EndState, PipeEnd, Side, mark_lost};
use vmshm_link::stream::Received;

use crate::check;
use crate::memory::LoomMemory;

/// The words of a pipe, and the first records of both directions.
fn memory() -> LoomMemory {
    let words = [0x080, 0x100, 0x180, 0x200, 0x280, 0x300].map(|at| (at, at + 0x10));
    let data = [PAGE, 2 * PAGE].map(|at| (at, at + 0x20));
    let ranges = [&[(0, 0x10)][..], &words, &data].concat();
    LoomMemory::new(3 * PAGE, &ranges)
}

#[test]
fn an_end_that_sees_the_other_open_can_send() {
    check(3, || {
        let memory = memory();
        let other = memory.clone();
        let guest = thread::spawn(move || {
            let mut end = PipeEnd::open(other, Side::Guest).expect("fits");
            let mut found = [0; 8];
            let count = loop {
                match end.reader.try_read(&mut found).expect("right") {
                    Received::Bytes(count) => break count,
                    Received::Nothing => thread::yield_now(),
                    Received::End => panic!("no bytes before the end"),
                }
            };
            assert_eq!(found[..count], *b"hello");
            end.words.say(EndState::Finished).expect("right");
        });
        let mut end = PipeEnd::open(memory, Side::Host).expect("fits");
        while end.words.peer_state().expect("right") == EndState::Absent {
            thread::yield_now();
        }
        assert_eq!(end.writer.try_write(b"hello"), Ok(5));
        while end.words.peer_state().expect("right") != EndState::Finished {
            thread::yield_now();
        }
        // What an end did before it said so is seen with it.
        assert_eq!(end.writer.is_drained(), Ok(true));
        guest.join().expect("no panic");
    });
}

#[test]
fn an_end_learns_that_the_other_is_lost_after_all_that_it_sent() {
    check(3, || {
        let memory = memory();
        let other = memory.clone();
        let mut end = PipeEnd::open(memory.clone(), Side::Host).expect("fits");
        let guest = thread::spawn(move || {
            let mut guest = PipeEnd::open(other.clone(), Side::Guest).expect("fits");
            assert_eq!(guest.writer.try_write(b"last"), Ok(4));
            // The agent sees the guest's end die.
            mark_lost(&other, Side::Guest).expect("reachable");
        });
        while !end.words.peer_is_lost().expect("right") {
            thread::yield_now();
        }
        let mut found = [0; 8];
        assert_eq!(end.reader.try_read(&mut found), Ok(Received::Bytes(4)));
        assert_eq!(found[..4], *b"last");
        guest.join().expect("no panic");
    });
}
