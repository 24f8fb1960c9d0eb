//! One way through the ring between two threads of one process, beside a bare word in
//! the same run: what the ring's own instructions cost, without any VM.

use std::sync::Arc;
use std::time::Instant;

use vmshm_link::ring::{Consumer, Producer, RingLayout};
use vmshm_shm::{LocalMemory, SharedMemory};

const ROUNDS: usize = 4000;
const TURNS: usize = 200;

const THERE: RingLayout = RingLayout {
    tail: 0x100,
    head: 0x180,
    data: 0x1000,
    capacity: 1 << 12,
};
const BACK: RingLayout = RingLayout {
    tail: 0x200,
    head: 0x280,
    data: 0x2000,
    capacity: 1 << 12,
};

fn main() {
    let (mut floors, mut rings) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        floors.push(bare_word());
        rings.push(through_the_ring());
    }
    // The quick quarter: turns that nothing else on the machine got in the way of.
    let quick = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[TURNS / 8]
    };
    let (floor, ring) = (quick(&mut floors), quick(&mut rings));
    println!(
        "bare word {floor:.0} ns, ring {ring:.0} ns, ratio {:.2}",
        ring / floor
    );
}

fn memory() -> Arc<LocalMemory> {
    Arc::new(LocalMemory::new(0x9000))
}

fn one_way(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e9 / ROUNDS as f64 / 2.0
}

fn bare_word() -> f64 {
    let memory = memory();
    let answering = Arc::clone(&memory);
    let echo = std::thread::spawn(move || {
        for round in 1..=ROUNDS as u64 {
            while answering.load_acquire(0) != Ok(round) {
                std::hint::spin_loop();
            }
            answering.store_release(0x80, round).expect("inside");
        }
    });
    let start = Instant::now();
    for round in 1..=ROUNDS as u64 {
        memory.store_release(0, round).expect("inside");
        while memory.load_acquire(0x80) != Ok(round) {
            std::hint::spin_loop();
        }
    }
    echo.join().expect("ended");
    one_way(start)
}

fn through_the_ring() -> f64 {
    let memory = memory();
    let mut producer = Producer::start(Arc::clone(&memory), THERE).expect("fits");
    let mut consumer = Consumer::start(Arc::clone(&memory), BACK).expect("fits");
    let mut far_consumer = Consumer::start(Arc::clone(&memory), THERE).expect("fits");
    let mut far_producer = Producer::start(memory, BACK).expect("fits");
    let echo = std::thread::spawn(move || {
        let mut message = [0; 64];
        for _ in 0..ROUNDS {
            while far_consumer
                .try_pop(&mut message)
                .expect("no failure")
                .is_none()
            {
                std::hint::spin_loop();
            }
            assert!(far_producer.try_push(1, &message).expect("no failure"));
        }
    });
    let start = Instant::now();
    let mut message = [7; 64];
    for _ in 0..ROUNDS {
        assert!(producer.try_push(1, &message).expect("no failure"));
        while consumer
            .try_pop(&mut message)
            .expect("no failure")
            .is_none()
        {
            std::hint::spin_loop();
        }
    }
    echo.join().expect("ended");
    one_way(start)
}
