//! The guest serves, the host asks: texts go there and come back in capital letters.
//!
//! ```text
//! host$  cargo run --release -p vmshm-examples --example request_reply -- host web
//! guest$ request_reply guest
//! ```
//!
//! Requests and answers are records of any length in a ring of bytes. A request starts with
//! its number, which the answer repeats, so that several could be under way at once.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use vmshm_examples::{Failure, Options, Place, in_guest, on_host, run};
use vmshm_guest::Agent;
use vmshm_guest::endpoint::{ByteRing, Connection, RegionOptions};
use vmshm_host::Vm;

/// Bytes of a request's number, which is little-endian.
const NUMBER: usize = 8;

#[derive(Debug, clap::Args)]
struct RequestReply {
    /// How many requests the host sends.
    #[arg(long, value_name = "N", default_value_t = 100_000, global = true)]
    count: u64,
    /// Length of a request's text.
    #[arg(long, value_name = "N", default_value_t = 56, global = true)]
    bytes: usize,
}

const ABOUT: &str = "Sends requests from the host to the guest and checks the answers";

fn main() -> ExitCode {
    run(
        "request_reply",
        ABOUT,
        |options: &Options<RequestReply>| match &options.place {
            Place::Host { vm } => on_host(
                Vm::connect(vm)?,
                options,
                |region| open(region, options),
                |ring| ask(ring, options),
            ),
            Place::Guest => in_guest(
                Agent::connect()?,
                options,
                |region| open(region, options),
                |ring| serve(ring, options),
            ),
        },
    )
}

/// The same on both sides: `C` is a VM on the host and the agent in the guest.
fn open<C: Connection>(
    region: RegionOptions<C>,
    options: &Options<RequestReply>,
) -> Result<ByteRing<C>, Failure> {
    // Several requests fit into each direction.
    let request = NUMBER.saturating_add(options.own.bytes) as u64;
    let size = request.saturating_mul(16).max(1 << 16);
    Ok(region.size(size).byte_ring()?)
}

/// The guest's side. An empty request is the last one.
fn serve(mut ring: ByteRing<Agent>, options: &Options<RequestReply>) -> Result<String, Failure> {
    let mut record = Vec::new();
    let mut served = 0_u64;
    loop {
        ring.receive_timeout(&mut record, options.timeout)?;
        if record.is_empty() {
            return Ok(format!("{served} requests served"));
        }
        if let Some(text) = record.get_mut(NUMBER..) {
            text.make_ascii_uppercase();
        }
        ring.send_timeout(&record, options.timeout)?;
        served += 1;
    }
}

/// The host's side.
fn ask(mut ring: ByteRing<Vm>, options: &Options<RequestReply>) -> Result<String, Failure> {
    options.wait_for_peer(|| ring.peer())?;
    let text: Vec<u8> = (b'a'..=b'z').cycle().take(options.own.bytes).collect();
    let mut answer = Vec::new();
    let mut times = Vec::new();
    for number in 0..options.own.count {
        let mut request = number.to_le_bytes().to_vec();
        request.extend_from_slice(&text);
        let begun = Instant::now();
        ring.send_timeout(&request, options.timeout)?;
        ring.receive_timeout(&mut answer, options.timeout)?;
        times.push(begun.elapsed());

        request[NUMBER..].make_ascii_uppercase();
        if answer != request {
            let answer = String::from_utf8_lossy(&answer);
            return Err(options.left_over(format!("request {number} was answered by {answer:?}")));
        }
    }
    ring.send_timeout(&[], options.timeout)?;
    // The region is removed after this, which the guest must have left by then.
    options.wait_until_gone(|| ring.peer())?;

    times.sort_unstable();
    let percentile = |percent: usize| -> f64 {
        let time = times.get(times.len() * percent / 100);
        time.map_or(0.0, Duration::as_secs_f64) * 1e6
    };
    Ok(format!(
        "{} requests, there and back in {:.2} µs (p50), {:.2} µs (p99)",
        times.len(),
        percentile(50),
        percentile(99)
    ))
}
