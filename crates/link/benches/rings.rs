//! The ring of records of one size between two threads, beside what it is measured by in
//! the same run: `rtrb` for throughput, and for latency a bare ping-pong of 64 bytes and
//! an index word. Each round runs both, in changing order; what counts is the median of the
//! rounds' ratios. It refuses nothing and needs two processors to itself to say much.
//!
//! `cargo bench -p vmshm-link --bench rings [-- NAME…]`

use std::hint::spin_loop;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use vmshm_link::duplex::Side;
use vmshm_link::fixed_ring::{FixedConsumer, FixedProducer, FixedRingLayout};
use vmshm_shm::{LocalMemory, SharedMemory};

const RECORDS: u64 = 1 << 18;
const CAPACITY: u64 = 1 << 12;
const BATCH: usize = 64;
const TURNS: usize = 31;
const PINGS: u64 = 2000;
const PING_TURNS: usize = 61;

type Memory = Arc<LocalMemory>;

fn main() {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|name| !name.starts_with('-'))
        .collect();
    let runs = |name: &str| wanted.is_empty() || wanted.iter().any(|word| name.contains(word));
    if runs("ring-u64-single") {
        throughput("ring-u64-single", single, rtrb_single);
    }
    if runs("ring-u64-batch") {
        throughput("ring-u64-batch", batched, rtrb_batched);
    }
    if runs("one-way-64B") {
        latency();
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs both by turns, and gives the medians of ours, of the other, and of the ratio.
fn compare(turns: usize, ours: impl Fn() -> f64, other: impl Fn() -> f64) -> [f64; 3] {
    let (mut own, mut others, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..turns {
        let (mine, theirs);
        if turn % 2 == 0 {
            mine = ours();
            theirs = other();
        } else {
            theirs = other();
            mine = ours();
        }
        own.push(mine);
        others.push(theirs);
        ratios.push(mine / theirs);
    }
    [median(&mut own), median(&mut others), median(&mut ratios)]
}

fn throughput(name: &str, ours: fn() -> Duration, peer: fn() -> Duration) {
    let rate = |time: Duration| RECORDS as f64 / time.as_secs_f64() / 1e6;
    let [own, other, ratio] = compare(TURNS, || rate(ours()), || rate(peer()));
    println!("{name}: {own:.0} M/s, rtrb {other:.0} M/s, ratio {ratio:.3}");
}

/// Runs both ends at once, and gives the time until the receiver has everything.
fn timed(send: impl FnOnce() + Send + 'static, receive: impl FnOnce()) -> Duration {
    let barrier = Arc::new(Barrier::new(2));
    let there = Arc::clone(&barrier);
    let sender = thread::spawn(move || {
        there.wait();
        send();
    });
    barrier.wait();
    let start = Instant::now();
    receive();
    let time = start.elapsed();
    sender.join().expect("no panic");
    time
}

fn ring(record: u64, capacity: u64) -> (FixedProducer<Memory>, FixedConsumer<Memory>) {
    let size = FixedRingLayout::region_size(record, capacity);
    let layout = FixedRingLayout::in_region(size, record, Side::Guest).expect("fits");
    let memory = Arc::new(LocalMemory::new(usize::try_from(size).expect("small")));
    (
        FixedProducer::resume(Arc::clone(&memory), layout).expect("empty"),
        FixedConsumer::resume(memory, layout).expect("empty"),
    )
}

fn single() -> Duration {
    let (mut producer, mut consumer) = ring(8, CAPACITY);
    timed(
        move || {
            for number in 0..RECORDS {
                while !producer.try_push(&number.to_ne_bytes()).expect("right") {
                    spin_loop();
                }
            }
        },
        || {
            let mut into = [0; 8];
            for number in 0..RECORDS {
                while !consumer.try_pop(&mut into).expect("right") {
                    spin_loop();
                }
                assert_eq!(u64::from_ne_bytes(into), number);
            }
        },
    )
}

fn rtrb_single() -> Duration {
    let capacity = usize::try_from(CAPACITY).expect("small");
    let (mut producer, mut consumer) = rtrb::RingBuffer::<u64>::new(capacity);
    timed(
        move || {
            for number in 0..RECORDS {
                while producer.push(number).is_err() {
                    spin_loop();
                }
            }
        },
        || {
            for number in 0..RECORDS {
                let found = loop {
                    match consumer.pop() {
                        Ok(found) => break found,
                        Err(_) => spin_loop(),
                    }
                };
                assert_eq!(found, number);
            }
        },
    )
}

const BATCH_BYTES: usize = BATCH * 8;

fn batched() -> Duration {
    let (mut producer, mut consumer) = ring(8, CAPACITY);
    timed(
        move || {
            let mut bytes = [0_u8; BATCH_BYTES];
            for first in (0..RECORDS).step_by(BATCH) {
                for (number, word) in (first..).zip(bytes.chunks_exact_mut(8)) {
                    word.copy_from_slice(&number.to_ne_bytes());
                }
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    match producer.try_push_all(rest).expect("right") {
                        0 => spin_loop(),
                        count => rest = &rest[count * 8..],
                    }
                }
            }
        },
        || {
            let mut bytes = [0_u8; BATCH_BYTES];
            let mut next = 0;
            while next < RECORDS {
                let count = consumer.try_pop_all(&mut bytes).expect("right");
                if count == 0 {
                    spin_loop();
                }
                for word in bytes[..count * 8].chunks_exact(8) {
                    assert_eq!(word, next.to_ne_bytes());
                    next += 1;
                }
            }
        },
    )
}

fn rtrb_batched() -> Duration {
    let capacity = usize::try_from(CAPACITY).expect("small");
    let (mut producer, mut consumer) = rtrb::RingBuffer::<u64>::new(capacity);
    timed(
        move || {
            let mut words = [0_u64; BATCH];
            for first in (0..RECORDS).step_by(BATCH) {
                for (number, word) in (first..).zip(&mut words) {
                    *word = number;
                }
                let mut rest = &words[..];
                while !rest.is_empty() {
                    let (_, left) = producer.push_partial_slice(rest);
                    if left.len() == rest.len() {
                        spin_loop();
                    }
                    rest = left;
                }
            }
        },
        || {
            let mut words = [0_u64; BATCH];
            let mut next = 0;
            while next < RECORDS {
                let (found, _) = consumer.pop_partial_slice(&mut words);
                if found.is_empty() {
                    spin_loop();
                }
                for word in found {
                    assert_eq!(*word, next);
                    next += 1;
                }
            }
        },
    )
}

fn latency() {
    let mean = |both: Sides| both.mean();
    let [own, floor, ratio] = compare(
        PING_TURNS,
        || mean(ring_ping(Timing::Whole)),
        || mean(bare_ping(Timing::Whole)),
    );
    println!("one-way-64B: {own:.0} ns, bare {floor:.0} ns, ratio {ratio:.3}");
    let [own, floor, ratio] = compare(
        PING_TURNS,
        || ring_ping(Timing::Each).tail(),
        || bare_ping(Timing::Each).tail(),
    );
    println!("one-way-64B p99.9: {own:.0} ns, bare {floor:.0} ns, ratio {ratio:.3}");
}

#[derive(Clone, Copy, PartialEq)]
enum Timing {
    Whole,
    Each,
}

/// Times of there and back, in nanoseconds.
struct Sides {
    whole: f64,
    each: Vec<f64>,
}

impl Sides {
    fn mean(&self) -> f64 {
        self.whole / PINGS as f64 / 2.0
    }

    fn tail(mut self) -> f64 {
        self.each.sort_by(f64::total_cmp);
        self.each[self.each.len() * 999 / 1000] / 2.0
    }
}

fn measure(timing: Timing, mut turn: impl FnMut(u64)) -> Sides {
    let mut each = Vec::with_capacity(usize::try_from(PINGS).expect("small"));
    for number in 0..PINGS / 10 {
        turn(number);
    }
    let nanos = |start: Instant| start.elapsed().as_secs_f64() * 1e9;
    let start = Instant::now();
    for number in PINGS / 10..PINGS / 10 + PINGS {
        if timing == Timing::Each {
            let start = Instant::now();
            turn(number);
            each.push(nanos(start));
        } else {
            turn(number);
        }
    }
    Sides {
        whole: nanos(start),
        each,
    }
}

const ALL: u64 = PINGS + PINGS / 10;

/// 64 bytes on one line, then an index word on another, there and back.
fn bare_ping(timing: Timing) -> Sides {
    let memory = Arc::new(LocalMemory::new(0x2000));
    let there = Arc::clone(&memory);
    let send = |memory: &LocalMemory, at: u64, number: u64, bytes: &[u8; 64]| {
        memory.write(at + 0x800, bytes).expect("inside");
        memory.store_release(at, number + 1).expect("inside");
    };
    let receive = |memory: &LocalMemory, at: u64, number: u64, bytes: &mut [u8; 64]| {
        while memory.load_acquire(at).expect("inside") != number + 1 {
            spin_loop();
        }
        memory.read(at + 0x800, bytes).expect("inside");
    };
    let echo = thread::spawn(move || {
        let mut bytes = [0; 64];
        for number in 0..ALL {
            receive(&there, 0, number, &mut bytes);
            send(&there, 0x1000, number, &bytes);
        }
    });
    let mut bytes = [7_u8; 64];
    let sides = measure(timing, |number| {
        bytes[0] = bytes[0].wrapping_add(1);
        send(&memory, 0, number, &bytes);
        let mut back = [0; 64];
        receive(&memory, 0x1000, number, &mut back);
        assert_eq!(back[0], bytes[0]);
    });
    echo.join().expect("no panic");
    sides
}

fn ring_ping(timing: Timing) -> Sides {
    let (mut there, mut far_there) = ring(64, 64);
    let (mut far_back, mut back) = ring(64, 64);
    let pop = |consumer: &mut FixedConsumer<Memory>, bytes: &mut [u8; 64]| {
        while !consumer.try_pop(bytes).expect("right") {
            spin_loop();
        }
    };
    let echo = thread::spawn(move || {
        let mut bytes = [0; 64];
        for _ in 0..ALL {
            pop(&mut far_there, &mut bytes);
            assert!(far_back.try_push(&bytes).expect("right"));
        }
    });
    let mut bytes = [7_u8; 64];
    let sides = measure(timing, |_| {
        bytes[0] = bytes[0].wrapping_add(1);
        assert!(there.try_push(&bytes).expect("right"));
        let mut found = [0; 64];
        pop(&mut back, &mut found);
        assert_eq!(found[0], bytes[0]);
    });
    echo.join().expect("no panic");
    sides
}
