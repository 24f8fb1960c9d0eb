//! The stream against a plain queue of bytes.

use std::collections::VecDeque;

use proptest::prelude::*;
use vmshm_link::stream::{Received, StreamReader, StreamWriter};

use crate::material::{assert_guards, capacities, layout, memory_for, payload};

#[derive(Debug, Clone, Copy)]
enum Step {
    Write(usize),
    Read(usize),
    End,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0_usize..3000).prop_map(Step::Write),
        20 => (0_usize..600).prop_map(Step::Read),
        1 => Just(Step::End),
    ]
}

fn check_read(
    reader: &mut StreamReader<&vmshm_shm::LocalMemory>,
    room: usize,
    model: &mut VecDeque<u8>,
    end_written: bool,
) -> Received {
    let mut into = vec![0; room];
    let received = reader.try_read(&mut into).expect("a right peer");
    match received {
        Received::Bytes(count) => {
            assert!(count <= room && (count > 0 || room == 0));
            assert!(count > 0 || !model.is_empty());
            let expected: Vec<u8> = model.drain(..count).collect();
            assert_eq!(&into[..count], expected);
        }
        Received::Nothing => assert!(model.is_empty() && !end_written),
        Received::End => assert!(model.is_empty() && end_written),
    }
    received
}

proptest! {
    #[test]
    fn a_stream_is_a_queue_of_bytes(
        capacity in capacities(),
        steps in proptest::collection::vec(step(), 0..200),
    ) {
        let memory = memory_for(capacity);
        let mut writer = StreamWriter::start(&*memory, layout(capacity)).expect("fits");
        let mut reader = StreamReader::start(&*memory, layout(capacity)).expect("fits");
        let mut model = VecDeque::new();
        let mut number = 0;
        for step in steps {
            match step {
                Step::Write(length) => {
                    number += 1;
                    let bytes = payload(number, length);
                    let written = writer.try_write(&bytes).expect("a right peer");
                    prop_assert!(written <= length);
                    prop_assert!(!writer.has_ended() || written == 0);
                    if !writer.has_ended() && model.is_empty() && length > 0 {
                        prop_assert!(written > 0, "an empty stream took nothing");
                    }
                    model.extend(&bytes[..written]);
                }
                Step::Read(room) => {
                    check_read(&mut reader, room, &mut model, writer.has_ended());
                }
                Step::End => {
                    let ended = writer.try_end().expect("a right peer");
                    prop_assert_eq!(ended, writer.has_ended());
                }
            }
        }
        while !writer.try_end().expect("a right peer") {
            check_read(&mut reader, 100, &mut model, false);
        }
        while check_read(&mut reader, 100, &mut model, true) != Received::End {}
        prop_assert!(reader.has_ended() && writer.is_drained().expect("a right peer"));
        prop_assert_eq!(check_read(&mut reader, 1, &mut model, true), Received::End);
        assert_guards(&memory, capacity);
    }
}
