//! Both sides count in the same memory, and both know the sum.
//!
//! ```text
//! host$  cargo run --release -p vmshm-examples --example shared_counter -- host web
//! guest$ shared_counter guest
//! ```
//!
//! No two programs write the same word: one that two sides add to at the same time does not
//! work across every VM's border. Each side adds to a word of its own, and the count is the
//! sum of both.

use std::process::ExitCode;
use std::time::Instant;

use vmshm_examples::{Failure, Options, Place, in_guest, on_host, run};
use vmshm_guest::Agent;
use vmshm_guest::endpoint::{Connection, Raw, RawWord, RegionOptions, Side};
use vmshm_host::Vm;

#[derive(Debug, clap::Args)]
struct SharedCounter {
    /// How far each side counts.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, global = true)]
    count: u64,
}

/// Where a side has its words: cache lines of its own.
const fn line(side: Side) -> u64 {
    match side {
        Side::Host => 0,
        Side::Guest => 128,
    }
}
/// Offset in a side's line of its count.
const COUNT: u64 = 0;
/// Offset in a side's line of how far it has come: one of the two below.
const STAGE: u64 = 64;
/// The side counts no more.
const COUNTED: u64 = 1;
/// The side has read the sum.
const DONE: u64 = 2;

const ABOUT: &str = "Counts on both sides in the same memory";

fn main() -> ExitCode {
    run(
        "shared_counter",
        ABOUT,
        |options: &Options<SharedCounter>| match &options.place {
            Place::Host { vm } => on_host(
                Vm::connect(vm)?,
                options,
                |region| open(region, options),
                |table| exchange(table, options),
            ),
            Place::Guest => in_guest(
                Agent::connect()?,
                options,
                |region| open(region, options),
                |table| exchange(table, options),
            ),
        },
    )
}

/// The memory, and the words that only this side writes.
struct Table<C: Connection> {
    raw: Raw<C>,
    count: RawWord<C>,
    stage: RawWord<C>,
}

/// The same on both sides: `C` is a VM on the host and the agent in the guest.
fn open<C: Connection>(
    region: RegionOptions<C>,
    options: &Options<SharedCounter>,
) -> Result<Table<C>, Failure> {
    let raw = region.size(4096).raw()?;
    let count = raw.own_word(line(C::SIDE) + COUNT)?;
    let stage = raw.own_word(line(C::SIDE) + STAGE)?;
    // Any number of programs may have raw memory open: this one is in somebody's hands.
    if (count.get(), stage.get()) != (0, 0) {
        return Err(options.left_over("somebody counts here, or has counted here before"));
    }
    Ok(Table { raw, count, stage })
}

fn exchange<C: Connection>(
    table: Table<C>,
    options: &Options<SharedCounter>,
) -> Result<String, Failure> {
    let Table {
        raw,
        mut count,
        mut stage,
    } = table;
    let (ours, theirs) = (line(C::SIDE), line(C::SIDE.other()));

    let begun = Instant::now();
    for _ in 0..options.own.count {
        count.add(1)?;
    }
    let nanoseconds = begun.elapsed().as_nanos() as f64 / options.own.count.max(1) as f64;

    // What a side stored before its stage is seen by whoever has loaded that stage.
    stage.set(COUNTED)?;
    options.wait_until("the other side did not count", || {
        Ok(raw.load(theirs + STAGE)? >= COUNTED)
    })?;
    let sum = u128::from(raw.load(ours + COUNT)?) + u128::from(raw.load(theirs + COUNT)?);
    if sum != 2 * u128::from(options.own.count) {
        return Err(Failure::wrong(format!(
            "the sum is {sum}, not twice {}",
            options.own.count
        )));
    }

    stage.set(DONE)?;
    // Only the host, which is to remove the region, must wait until the guest has read.
    if C::SIDE == Side::Host {
        options.wait_until("the guest did not end", || {
            Ok(raw.load(theirs + STAGE)? == DONE)
        })?;
    }
    Ok(format!(
        "{sum} counted by both together, {nanoseconds:.1} ns for each step here"
    ))
}
