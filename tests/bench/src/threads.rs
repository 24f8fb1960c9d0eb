//! `ring-u64` and `ring-u64-batch`: numbers from one thread to another through our ring, with all its checks, and
//! through rtrb's, which has none to make.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use vmshm_link::duplex::Side;
use vmshm_link::fixed_ring::{FixedConsumer, FixedProducer, FixedRingLayout};
use vmshm_shm::Mapping;
use zerocopy::IntoBytes;

use crate::measurement::{Measurement, Plan, Round, rounds};
use crate::memory;
use crate::processors::Processors;
use crate::together;
use crate::waiting::Waiting;

/// Records that either ring holds.
const CAPACITY: usize = 4096;
/// Records that are handed over at once in `ring-u64-batch`.
const BATCH: usize = 256;
const RECORD: u64 = 8;

/// The row `ring-u64`: one by one.
pub fn single(plan: &Plan) -> Result<Measurement> {
    measure(plan, "ring-u64", ours_single, rtrb_single)
}

/// The row `ring-u64-batch`.
pub fn batched(plan: &Plan) -> Result<Measurement> {
    measure(plan, "ring-u64-batch", ours_batched, rtrb_batched)
}

/// Sends so many numbers and says how long it took.
type Run = fn(u64, Processors) -> Result<Duration>;

fn measure(plan: &Plan, name: &'static str, ours: Run, rtrb: Run) -> Result<Measurement> {
    let processors = plan.processors;
    // As many records as either takes about one part's time for, and whole batches of them.
    let trial = 1 << 18;
    let seconds = rtrb(trial, processors)?.as_secs_f64();
    let wanted = trial as f64 * plan.part.as_secs_f64() / seconds;
    let count = ((wanted as u64) / BATCH as u64).max(64) * BATCH as u64;
    let rate = |run: Run| -> Result<f64> {
        Ok(count as f64 / run(count, processors)?.as_secs_f64() / 1e6)
    };
    let mut waiting = Waiting::of(vec![std::process::id()]);
    let rounds = rounds(plan, &mut waiting, |number| {
        // Who goes first changes from round to round.
        let (one, other) = if number % 2 == 0 {
            (rate(ours)?, rate(rtrb)?)
        } else {
            let peer = rate(rtrb)?;
            (rate(ours)?, peer)
        };
        Ok(Round {
            ours: one,
            peer: Some(other),
            ..Round::default()
        })
    })?;
    let mut additional = serde_json::Map::new();
    additional.insert("capacity_records".into(), CAPACITY.into());
    if name == "ring-u64-batch" {
        additional.insert("batch_records".into(), BATCH.into());
    }
    Ok(Measurement {
        name,
        unit: "M records/s",
        better: "higher",
        peer_name: Some("rtrb"),
        rounds,
        additional,
    })
}

/// Runs both, and checks the sum of what came out.
fn both(
    count: u64,
    processors: Processors,
    produce: impl FnOnce() -> Result<()>,
    consume: impl FnOnce() -> Result<u64> + Send,
) -> Result<Duration> {
    let (took, sum) = together::run(processors, produce, consume)?;
    ensure!(
        sum == (0..count).fold(0, u64::wrapping_add),
        "other numbers came out than went in"
    );
    Ok(took)
}

type Ends = (FixedProducer<Arc<Mapping>>, FixedConsumer<Arc<Mapping>>);

fn ends() -> Result<Ends> {
    let size = FixedRingLayout::region_size(RECORD, CAPACITY as u64);
    let memory = Arc::new(memory::shared(size)?.1);
    let size = memory::size(size);
    let layout = FixedRingLayout::in_region(size, RECORD, Side::Host)?;
    ensure!(layout.capacity == CAPACITY as u64, "{layout:?}");
    Ok((
        FixedProducer::resume(Arc::clone(&memory), layout)?,
        FixedConsumer::resume(memory, layout)?,
    ))
}

fn ours_single(count: u64, processors: Processors) -> Result<Duration> {
    let (mut producer, mut consumer) = ends()?;
    let produce = || {
        for number in 0..count {
            while !producer.try_push(&number.to_le_bytes())? {
                std::hint::spin_loop();
            }
        }
        Ok(())
    };
    let consume = move || {
        let (mut sum, mut bytes) = (0_u64, [0; 8]);
        for _ in 0..count {
            while !consumer.try_pop(&mut bytes)? {
                std::hint::spin_loop();
            }
            sum = sum.wrapping_add(u64::from_le_bytes(bytes));
        }
        Ok(sum)
    };
    both(count, processors, produce, consume)
}

fn rtrb_single(count: u64, processors: Processors) -> Result<Duration> {
    let (mut producer, mut consumer) = rtrb::RingBuffer::<u64>::new(CAPACITY);
    let produce = || {
        for number in 0..count {
            while producer.push(number).is_err() {
                std::hint::spin_loop();
            }
        }
        Ok(())
    };
    let consume = move || {
        let mut sum = 0_u64;
        for _ in 0..count {
            let number = loop {
                match consumer.pop() {
                    Ok(number) => break number,
                    Err(_) => std::hint::spin_loop(),
                }
            };
            sum = sum.wrapping_add(number);
        }
        Ok(sum)
    };
    both(count, processors, produce, consume)
}

/// Fills the next batch of consecutive numbers.
fn fill(batch: &mut [u64; BATCH], first: u64) {
    for (number, slot) in (first..).zip(batch) {
        *slot = number;
    }
}

fn add(sum: u64, batch: &[u64]) -> u64 {
    batch.iter().copied().fold(sum, u64::wrapping_add)
}

fn ours_batched(count: u64, processors: Processors) -> Result<Duration> {
    let (mut producer, mut consumer) = ends()?;
    let produce = || {
        let mut batch = [0; BATCH];
        for first in (0..count).step_by(BATCH) {
            fill(&mut batch, first);
            let mut sent = 0;
            while sent < BATCH {
                match producer.try_push_all(batch[sent..].as_bytes())? {
                    0 => std::hint::spin_loop(),
                    records => sent += records,
                }
            }
        }
        Ok(())
    };
    let consume = move || {
        let (mut sum, mut batch, mut taken) = (0, [0_u64; BATCH], 0);
        while taken < count {
            match consumer.try_pop_all(batch.as_mut_bytes())? {
                0 => std::hint::spin_loop(),
                records => {
                    sum = add(sum, &batch[..records]);
                    taken += records as u64;
                }
            }
        }
        Ok(sum)
    };
    both(count, processors, produce, consume)
}

fn rtrb_batched(count: u64, processors: Processors) -> Result<Duration> {
    let (mut producer, mut consumer) = rtrb::RingBuffer::<u64>::new(CAPACITY);
    let produce = || {
        let mut batch = [0; BATCH];
        for first in (0..count).step_by(BATCH) {
            fill(&mut batch, first);
            let mut left = &batch[..];
            while !left.is_empty() {
                let before = left.len();
                left = producer.push_partial_slice(left).1;
                if left.len() == before {
                    std::hint::spin_loop();
                }
            }
        }
        Ok(())
    };
    let consume = move || {
        let (mut sum, mut batch, mut taken) = (0, [0_u64; BATCH], 0);
        while taken < count {
            let got = consumer.pop_partial_slice(&mut batch).0;
            if got.is_empty() {
                std::hint::spin_loop();
            }
            sum = add(sum, got);
            taken += got.len() as u64;
        }
        Ok(sum)
    };
    both(count, processors, produce, consume)
}
