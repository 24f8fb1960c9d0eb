//! Links between two threads at full speed: every record arrives once, in order and whole,
//! and no value is torn, also when ends are given up and resumed meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use vmshm_link::fixed_ring::{FixedConsumer, FixedProducer};
use vmshm_link::latest::{LatestReader, LatestWriter};
use vmshm_link::mix::mix;
use vmshm_shm::LocalMemory;

use crate::fixed_ring_model::layout;
use crate::latest_model::layout as latest_layout;
use crate::material::payload;

const RECORDS: u64 = 150_000;

fn small(number: u64) -> usize {
    usize::try_from(number).expect("small")
}

/// Passes records in batches of changing size; each end is resumed every so many calls.
fn pass(record: u64, capacity: u64, batch: u64, life: u64) {
    let (ring, size) = layout(record, capacity);
    let memory = Arc::new(LocalMemory::new(size));
    let length = small(record);
    let sending = Arc::clone(&memory);
    let sender = thread::spawn(move || {
        let mut next = 0;
        let mut calls = 0;
        let mut producer = FixedProducer::resume(&*sending, ring).expect("empty");
        while next < RECORDS {
            calls += 1;
            if calls % life == 0 {
                producer = FixedProducer::resume(&*sending, ring).expect("as left");
            }
            let wanted = (1 + mix(calls, 1) % batch).min(RECORDS - next);
            let pushed = if batch == 1 {
                u64::from(producer.try_push(&payload(next, length)).expect("right"))
            } else {
                let bytes: Vec<u8> = (next..next + wanted)
                    .flat_map(|number| payload(number, length))
                    .collect();
                producer.try_push_all(&bytes).expect("right") as u64
            };
            next += pushed;
            if pushed == 0 {
                thread::yield_now();
            }
        }
    });
    let mut next = 0;
    let mut calls = 0;
    let mut into = vec![0; length * small(batch)];
    let mut consumer = FixedConsumer::resume(&*memory, ring).expect("right");
    while next < RECORDS {
        calls += 1;
        if calls % life == 0 {
            consumer = FixedConsumer::resume(&*memory, ring).expect("as left");
        }
        let popped = if batch == 1 {
            usize::from(consumer.try_pop(&mut into).expect("right"))
        } else {
            let wanted = small(1 + mix(calls, 2) % batch);
            consumer
                .try_pop_all(&mut into[..wanted * length])
                .expect("right")
        };
        for found in into.chunks_exact(length).take(popped) {
            assert_eq!(found, payload(next, length), "record {next}");
            next += 1;
        }
        if popped == 0 {
            thread::yield_now();
        }
    }
    sender.join().expect("no panic");
    assert_eq!(consumer.try_pop(&mut into[..length]), Ok(false));
}

#[test]
fn single_records_of_one_size_cross() {
    pass(8, 16, 1, 1000);
}

#[test]
fn batches_of_records_with_gaps_cross() {
    pass(100, 64, 30, 50);
}

#[test]
fn batches_of_words_cross() {
    pass(8, 1024, 200, 77);
}

#[test]
fn a_value_is_never_torn_at_full_speed() {
    let (latest, size) = latest_layout(600);
    let memory = Arc::new(LocalMemory::new(size));
    let stop = AtomicBool::new(false);
    let length = |version: u64| small(mix(version, 5) % 601);
    thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let mut writer = LatestWriter::resume(&*memory, latest).expect("empty");
            while !stop.load(Ordering::Relaxed) {
                let next = writer.version() + 1;
                assert_eq!(writer.publish(&payload(next, length(next))), Ok(next));
                if next % 100 == 0 {
                    writer = LatestWriter::resume(&*memory, latest).expect("as left");
                    thread::yield_now();
                }
            }
            writer.version()
        });
        let mut reader = LatestReader::open(&*memory, latest).expect("fits");
        let mut into = [0; 600];
        let mut last = 0;
        let mut found = 0;
        while found < 20_000 {
            match reader.try_read(&mut into).expect("right") {
                None => thread::yield_now(),
                Some((version, count)) => {
                    assert!(version >= last);
                    assert_eq!(count, length(version));
                    assert_eq!(into[..count], payload(version, count), "torn");
                    last = version;
                    found += 1;
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        let newest = writing.join().expect("no panic");
        assert_eq!(reader.newest(), Ok(newest));
    });
}
