//! One side publishes its state as fast as it can; the other always gets the newest, whole.
//!
//! ```text
//! host$  cargo run --release -p vmshm-examples --example latest -- host web
//! guest$ latest guest
//! ```
//!
//! The host publishes; with `--publish guest`, given to both, the guest does. The publisher
//! never waits for the reader, and the reader never sees half of a value, or an older one
//! than before.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use vmshm_examples::{Failure, Options, Place, in_guest, on_host, run};
use vmshm_guest::Agent;
use vmshm_guest::endpoint::{Connection, Latest, RegionOptions, Side};
use vmshm_host::Vm;
use zerocopy::{FromBytes, Immutable, IntoBytes};

#[derive(Debug, clap::Args)]
struct Newest {
    /// Which side publishes.
    #[arg(long, value_name = "SIDE", default_value = "host", global = true)]
    publish: Publisher,
    /// For how long it publishes.
    #[arg(long, value_name = "N", default_value_t = 2, global = true)]
    seconds: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Publisher {
    Host,
    Guest,
}

/// What is published: any plain struct, the same on both sides.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct State {
    number: u64,
    /// One in the last one.
    is_last: u64,
    readings: [u64; 13],
    checksum: u64,
}

impl State {
    fn new(number: u64, is_last: bool) -> Self {
        let mut state = Self {
            number,
            is_last: is_last.into(),
            readings: std::array::from_fn(|index| number.wrapping_mul(index as u64 + 3)),
            checksum: 0,
        };
        state.checksum = state.sum();
        state
    }

    fn sum(&self) -> u64 {
        let start = self.number ^ self.is_last;
        let readings = self.readings.iter();
        readings.fold(start, |sum, reading| {
            (sum ^ reading).wrapping_mul(0x0100_0000_01b3)
        })
    }
}

const ABOUT: &str = "Publishes a state as fast as possible; the other side reads the newest";

fn main() -> ExitCode {
    run(
        "latest",
        ABOUT,
        |options: &Options<Newest>| match &options.place {
            Place::Host { vm } => {
                on_host(Vm::connect(vm)?, options, open, |it| exchange(it, options))
            }
            Place::Guest => in_guest(Agent::connect()?, options, open, |it| exchange(it, options)),
        },
    )
}

/// The same on both sides: `C` is a VM on the host and the agent in the guest.
fn open<C: Connection>(region: RegionOptions<C>) -> Result<Latest<State, C>, Failure> {
    // The region's size follows from the value's.
    Ok(region.latest::<State>()?)
}

fn exchange<C: Connection>(
    mut latest: Latest<State, C>,
    options: &Options<Newest>,
) -> Result<String, Failure> {
    options.wait_for_peer(|| latest.peer())?;
    let publisher = match options.own.publish {
        Publisher::Host => Side::Host,
        Publisher::Guest => Side::Guest,
    };
    let figures = if C::SIDE == publisher {
        publish(&mut latest, Duration::from_secs(options.own.seconds))?
    } else {
        read(&mut latest, options)?
    };
    // The last value stays in the region when the publisher goes. Only the host, which is
    // to remove the region, must wait until the guest has read it.
    if C::SIDE == Side::Host {
        options.wait_until_gone(|| latest.peer())?;
    }
    Ok(figures)
}

fn publish<C: Connection>(
    latest: &mut Latest<State, C>,
    time: Duration,
) -> Result<String, Failure> {
    let begun = Instant::now();
    let mut number = 0;
    while begun.elapsed() < time {
        for _ in 0..100 {
            number += 1;
            latest.publish(&State::new(number, false))?;
        }
    }
    let nanoseconds = begun.elapsed().as_nanos() as f64 / number as f64;
    number += 1;
    latest.publish(&State::new(number, true))?;
    Ok(format!(
        "{number} values published, {nanoseconds:.0} ns each"
    ))
}

fn read<C: Connection>(
    latest: &mut Latest<State, C>,
    options: &Options<Newest>,
) -> Result<String, Failure> {
    let (mut version, mut number, mut count) = (0, 0, 0_u64);
    loop {
        let (newer, state) = latest.wait_newer(version, options.timeout)?;
        if state.checksum != state.sum() {
            return Err(Failure::wrong(format!("version {newer} is torn")));
        }
        if state.number <= number {
            return Err(options.left_over(format!(
                "version {newer} has number {}, after {number}",
                state.number
            )));
        }
        (version, number) = (newer, state.number);
        count += 1;
        if state.is_last == 1 {
            break;
        }
    }
    Ok(format!(
        "{count} values read of {number}, none torn, none older than the one before"
    ))
}
