//! `stream-1GiB`: a gibibyte from one private buffer to another through a [`Stream`](vmshm_endpoint::Stream) between
//! two threads, beside `memcpy` between the same two buffers; and what a record costs of which only the header is
//! written and read, whatever its length.

use std::io::{Read, Write};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::latency::{Latency, time};
use crate::local;
use crate::measurement::{Measurement, Plan, Round, rounds};
use crate::together;
use crate::waiting::Waiting;

/// All of it.
const BYTES: usize = 1 << 30;
/// What one round sends, and copies.
const PIECE: usize = 64 << 20;
/// Rounds that send all of it once.
const PIECES: usize = BYTES / PIECE;
/// The stream's region: its rings are larger than the second cache, so that what one processor has written comes to the
/// other from the cache that both share. With 1 MiB it is half as fast.
const REGION: u64 = 16 << 20;
/// Checked bytes lie so far apart.
const STRIDE: usize = 4096;

/// The row.
pub fn measure(plan: &Plan) -> Result<Measurement> {
    ensure!(
        available() >= 5 * BYTES as u64 / 2,
        "the two buffers of stream-1GiB need 2.5 GiB of free memory"
    );
    let (host, guest) = local::pair(REGION)?;
    let (mut writer, mut reader) = (host.stream()?, guest.stream()?);
    let source: Vec<u8> = (0..BYTES).map(|at| (at >> 3) as u8).collect();
    let mut target = vec![1_u8; BYTES];
    let mut piece = 0..PIECE;
    let mut stream = |target: &mut [u8], number: usize| -> Result<f64> {
        piece.start = number % PIECES * PIECE;
        piece.end = piece.start + PIECE;
        let (from, to) = (&source[piece.clone()], &mut target[piece.clone()]);
        for at in (0..PIECE).step_by(STRIDE) {
            to[at] = !from[at];
        }
        let send = || Ok(writer.write_all(from)?);
        let receive = || Ok(reader.read_exact(to)?);
        let (took, ()) = together::run(plan.processors, send, receive)?;
        for at in (0..PIECE).step_by(STRIDE) {
            ensure!(to[at] == from[at], "other bytes came out than went in");
        }
        Ok(PIECE as f64 / took.as_secs_f64() / 1e9)
    };
    let copy = |target: &mut [u8], number: usize| -> f64 {
        let start = number % PIECES * PIECE;
        let (from, to) = (
            &source[start..start + PIECE],
            &mut target[start..start + PIECE],
        );
        let begun = Instant::now();
        to.copy_from_slice(from);
        std::hint::black_box(to);
        PIECE as f64 / begun.elapsed().as_secs_f64() / 1e9
    };
    let plan_of_all = Plan {
        rounds: plan.rounds.max(PIECES),
        ..*plan
    };
    let mut waiting = Waiting::of(vec![std::process::id()]);
    let rounds = rounds(&plan_of_all, &mut waiting, |number| {
        let (ours, peer) = if number % 2 == 0 {
            (stream(&mut target, number)?, copy(&mut target, number))
        } else {
            let peer = copy(&mut target, number);
            (stream(&mut target, number)?, peer)
        };
        Ok(Round {
            ours,
            peer: Some(peer),
            floor: Some(peer),
            ..Round::default()
        })
    })?;
    let mut additional = serde_json::Map::new();
    additional.insert("region_bytes".into(), REGION.into());
    additional.insert("round_bytes".into(), PIECE.into());
    additional.insert("header_only_one_way_ns".into(), header_only(plan)?);
    Ok(Measurement {
        name: "stream-1GiB",
        unit: "GB/s",
        better: "higher",
        peer_name: Some("memcpy"),
        rounds,
        additional,
    })
}

/// One way of a record of which only the first 64 bytes are written and read, for several lengths.
fn header_only(plan: &Plan) -> Result<serde_json::Value> {
    const HEADER: usize = 64;
    const LENGTHS: [u64; 7] = [64, 512, 4 << 10, 32 << 10, 256 << 10, 1 << 20, 4 << 20];
    let messages = if plan.quick { 5_000 } else { 20_000 };
    let (host, guest) = local::pair((32 << 20) + 4096)?;
    let (mut sender, mut receiver) = host.byte_ring()?.split();
    let mut answerer = guest.byte_ring()?;
    let mut figures = Vec::new();
    for length in LENGTHS {
        // As many as `time` sends, its warm-up included, come back; then one that is not answered ends it.
        let answer = || -> Result<()> {
            let mut header = [0; HEADER];
            loop {
                let found = answerer.peek()?;
                found.read(0, &mut header)?;
                let length = found.len();
                found.release()?;
                if header[0] == u8::MAX {
                    return Ok(());
                }
                let mut room = answerer.reserve(length)?;
                room.write(0, &header)?;
                room.commit(length)?;
            }
        };
        let mut latency = None;
        let ask = || -> Result<()> {
            let mut send = |header: &[u8; HEADER]| -> Result<()> {
                let mut room = sender.reserve(length)?;
                room.write(0, header)?;
                Ok(room.commit(length)?)
            };
            let measured = time(messages, |number| {
                let mut header = [(number % 251) as u8; HEADER];
                send(&header)?;
                let found = receiver.peek()?;
                found.read(0, &mut header)?;
                found.release()?;
                ensure!(header == [(number % 251) as u8; HEADER], "another header");
                Ok(())
            });
            send(&[u8::MAX; HEADER])?;
            latency = Some(measured?);
            Ok(())
        };
        together::run(plan.processors, ask, answer)?;
        let Latency { p50, p999 } = latency.context("nothing was measured")?;
        figures.push(json!({"bytes": length, "p50": p50, "p999": p999}));
    }
    Ok(figures.into())
}

/// Bytes of memory that programs can have without swapping.
fn available() -> u64 {
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory.lines().find_map(|line| {
        let rest = line.strip_prefix("MemAvailable:")?;
        rest.split_whitespace().next()?.parse::<u64>().ok()
    });
    kib.map_or(u64::MAX, |kib| kib << 10)
}
