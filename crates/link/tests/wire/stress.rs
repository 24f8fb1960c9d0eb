//! Two threads at full speed over one memory: every record and every byte arrives
//! once, in order and whole.

use std::sync::Arc;
use std::thread;

use vmshm_link::LinkError;
use vmshm_link::beacon::PAGE;
use vmshm_link::duplex::{EndState, PipeEnd, Side};
use vmshm_link::mix::{checksum, mix};
use vmshm_link::ring::{Consumer, Producer};
use vmshm_link::stream::{Received, StreamReader, StreamWriter};
use vmshm_shm::LocalMemory;

use crate::material::{assert_guards, layout, memory_for, payload};

const RECORDS: u64 = 150_000;
const BYTES: usize = 24 << 20;

fn length(number: u64) -> usize {
    usize::try_from(mix(number, 1) % 300).expect("small")
}

/// Runs `call` until it gives something; the other thread runs meanwhile.
fn until<T>(mut call: impl FnMut() -> Result<Option<T>, LinkError>) -> T {
    loop {
        if let Some(value) = call().expect("a right peer") {
            return value;
        }
        thread::yield_now();
    }
}

fn ring(capacity: u64, batch: u64) {
    let memory = memory_for(capacity);
    let mut producer = Producer::start(Arc::clone(&memory), layout(capacity)).expect("fits");
    let mut consumer = Consumer::start(Arc::clone(&memory), layout(capacity)).expect("fits");
    let sender = thread::spawn(move || {
        for number in 0..RECORDS {
            let mut record = payload(number, length(number));
            record.extend_from_slice(&checksum(&record).to_le_bytes());
            let kind = u16::try_from(number % 1000).expect("small");
            until(|| {
                let staged = producer.try_stage(kind, &record)?;
                if !staged || number % batch == 0 {
                    producer.publish()?;
                }
                Ok(staged.then_some(()))
            });
        }
        producer.publish().expect("reachable");
        until(|| Ok(producer.is_drained()?.then_some(())));
    });
    let mut into = [0; 400];
    for number in 0..RECORDS {
        let (kind, count) = until(|| consumer.try_pop(&mut into));
        assert_eq!(u64::from(kind), number % 1000);
        let (bytes, sum) = into[..count].split_at(count - 8);
        assert_eq!(bytes.len(), length(number));
        assert_eq!(sum, checksum(bytes).to_le_bytes(), "record {number}");
        assert_eq!(bytes, payload(number, bytes.len()));
    }
    sender.join().expect("no panic");
    assert_eq!(consumer.peek(), Ok(None));
    assert_guards(&memory, capacity);
}

#[test]
fn records_cross_a_tight_ring() {
    ring(1024, 1);
}

#[test]
fn batches_of_records_cross_a_wide_ring() {
    ring(1 << 16, 32);
}

/// Sends `BYTES` made-up bytes in writes of changing length, and then the end.
fn send(writer: &mut StreamWriter<Arc<LocalMemory>>, seed: u64) {
    let mut left = BYTES;
    let mut number = seed;
    while left > 0 {
        number += 1;
        let whole = payload(number, left.min(1 + length(number) * 40));
        let mut rest = &whole[..];
        while !rest.is_empty() {
            match writer.try_write(rest).expect("a right peer") {
                0 => thread::yield_now(),
                count => rest = &rest[count..],
            }
        }
        left -= whole.len();
    }
    until(|| Ok(writer.try_end()?.then_some(())));
}

fn receive(reader: &mut StreamReader<Arc<LocalMemory>>, seed: u64) {
    let mut number = seed;
    let mut expected: Vec<u8> = Vec::new();
    let mut at = 0;
    let mut received = 0;
    let mut into = vec![0; 5000];
    loop {
        let room = 1 + usize::try_from(mix(received as u64, 3) % 5000).expect("small");
        match reader.try_read(&mut into[..room]).expect("a right peer") {
            Received::End => break,
            Received::Nothing => thread::yield_now(),
            Received::Bytes(count) => {
                let mut found = &into[..count];
                received += count;
                while !found.is_empty() {
                    if at == expected.len() {
                        number += 1;
                        expected = payload(number, 1 + length(number) * 40);
                        at = 0;
                    }
                    let part = found.len().min(expected.len() - at);
                    assert_eq!(
                        found[..part],
                        expected[at..at + part],
                        "near byte {received}"
                    );
                    at += part;
                    found = &found[part..];
                }
            }
        }
    }
    assert_eq!(received, BYTES);
}

#[test]
fn bytes_cross_a_pipe_both_ways_at_once() {
    let size = usize::try_from(PAGE + 2 * (1 << 15)).expect("small");
    let memory = Arc::new(LocalMemory::new(size));
    let end = |side, seed| {
        let memory = Arc::clone(&memory);
        move || {
            let PipeEnd {
                mut words,
                mut writer,
                mut reader,
            } = PipeEnd::open(memory, side).expect("fits");
            until(|| Ok((words.peer_state()? != EndState::Absent).then_some(())));
            let sender = thread::spawn(move || {
                send(&mut writer, seed);
                until(|| Ok(writer.is_drained()?.then_some(())));
                writer.verify().expect("nobody else writes");
            });
            receive(&mut reader, 3 - seed);
            sender.join().expect("no panic");
            words.say(EndState::Finished).expect("nobody else writes");
            until(|| Ok((words.peer_state()? == EndState::Finished).then_some(())));
            words.verify().expect("nobody else writes");
            reader.verify().expect("nobody else writes");
        }
    };
    let guest = thread::spawn(end(Side::Guest, 1));
    let host = thread::spawn(end(Side::Host, 2));
    guest.join().expect("no panic");
    host.join().expect("no panic");
}
