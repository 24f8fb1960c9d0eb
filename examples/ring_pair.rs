//! Both sides send numbered records to each other over a ring, and check what comes.
//!
//! ```text
//! host$  cargo run --release -p vmshm-examples --example ring_pair -- host web
//! guest$ ring_pair guest
//! ```
//!
//! Give both the same `--count`. Either may be started first.

use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use vmshm_examples::{Failure, Options, Place, in_guest, on_host, run};
use vmshm_guest::endpoint::{Connection, RegionOptions, Ring, RingReceiver, RingSender, Side};
use vmshm_guest::{Agent, LinkFailure};
use vmshm_host::Vm;

#[derive(Debug, clap::Args)]
struct RingPair {
    /// Records each way.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, global = true)]
    count: u64,
    /// Sends and receives up to so many records at once.
    #[arg(long, value_name = "N", default_value_t = 1, global = true)]
    batch: usize,
}

const ABOUT: &str = "Sends numbered records both ways and checks them";

fn main() -> ExitCode {
    run(
        "ring_pair",
        ABOUT,
        |options: &Options<RingPair>| match &options.place {
            Place::Host { vm } => on_host(Vm::connect(vm)?, options, open, |ring| {
                exchange(ring, options)
            }),
            Place::Guest => in_guest(Agent::connect()?, options, open, |ring| {
                exchange(ring, options)
            }),
        },
    )
}

/// The same on both sides: `C` is a VM on the host and the agent in the guest.
fn open<C: Connection>(region: RegionOptions<C>) -> Result<Ring<u64, C>, Failure> {
    // A record may be any plain struct; both sides must say the same type.
    Ok(region.size(1 << 20).ring::<u64>()?)
}

fn exchange<C: Connection>(
    ring: Ring<u64, C>,
    options: &Options<RingPair>,
) -> Result<String, Failure> {
    options.wait_for_peer(|| ring.peer())?;

    // The two directions are independent: each may have a thread of its own.
    let begun = Instant::now();
    let (mut sender, mut receiver) = ring.split();
    thread::scope(|scope| {
        let sending = scope.spawn(|| send(&mut sender, options));
        receive(&mut receiver, options)?;
        sending
            .join()
            .map_err(|_| Failure::wrong("the sender panicked"))??;
        Ok::<(), Failure>(())
    })?;
    let seconds = begun.elapsed().as_secs_f64();

    // What was sent stays in the region when this side goes. Only the host, which is to
    // remove the region, must wait until the guest has read it.
    if C::SIDE == Side::Host {
        options.wait_until_gone(|| receiver.peer())?;
    }
    let count = options.own.count;
    let rate = 2.0 * count as f64 / seconds / 1e6;
    Ok(format!(
        "{count} records each way, {seconds:.3} s, {rate:.2} M records/s"
    ))
}

/// Sends all records. `send` and `send_all` would do, but wait for ever.
fn send<C: Connection>(
    sender: &mut RingSender<u64, C>,
    options: &Options<RingPair>,
) -> Result<(), LinkFailure> {
    let mut records = (0..options.own.count).map(|number| record(C::SIDE, number));
    if options.own.batch <= 1 {
        return records.try_for_each(|one| sender.send_timeout(&one, options.timeout));
    }
    loop {
        let batch: Vec<u64> = records.by_ref().take(options.own.batch).collect();
        let mut rest = &batch[..];
        while let Some((first, others)) = rest.split_first() {
            // One announcement for as many as there is room for.
            let sent = sender.try_send_all(rest)?;
            rest = &rest[sent..];
            if sent == 0 {
                sender.send_timeout(first, options.timeout)?;
                rest = others;
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
    }
}

/// Receives all records and checks each.
fn receive<C: Connection>(
    receiver: &mut RingReceiver<u64, C>,
    options: &Options<RingPair>,
) -> Result<(), Failure> {
    let mut batch = vec![0; options.own.batch.max(1)];
    let mut number = 0;
    while number < options.own.count {
        // As many as are there, but not more than are due; else the next one is waited for.
        let due = usize::try_from(options.own.count - number).unwrap_or(usize::MAX);
        let room = batch.len().min(due);
        let mut count = receiver.try_receive_into(&mut batch[..room])?;
        if count == 0 {
            batch[0] = receiver.receive_timeout(options.timeout)?;
            count = 1;
        }
        for &received in &batch[..count] {
            let expected = record(C::SIDE.other(), number);
            if received != expected {
                return Err(options.left_over(format!(
                    "record {number} is {received:#x}, not {expected:#x}"
                )));
            }
            number += 1;
        }
    }
    Ok(())
}

/// What a side sends as its record `number`.
const fn record(side: Side, number: u64) -> u64 {
    match side {
        Side::Host => number,
        Side::Guest => !number,
    }
}
