//! The latency of single messages of one part of a round: its median and its slowest thousandth.

use std::time::Instant;

use anyhow::{Context, Result};
use vmshm_host::bench::Percentiles;

/// What one part gave, in nanoseconds one way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    /// Half were faster.
    pub p50: f64,
    /// 999 of 1000 were faster.
    pub p999: f64,
}

impl Latency {
    /// Of these one-way times.
    pub fn of(nanoseconds: Vec<f64>) -> Result<Self> {
        let percentiles = Percentiles::of(nanoseconds).context("no message was timed")?;
        Ok(Self {
            p50: percentiles.p50,
            p999: percentiles.p999,
        })
    }
}

/// Times `messages` round trips one by one, after some that are not counted; half of each is one way.
pub fn time(messages: usize, mut there_and_back: impl FnMut(u64) -> Result<()>) -> Result<Latency> {
    const WARM_UP: usize = 64;
    let clock = clock_cost();
    let mut times = Vec::with_capacity(messages);
    for round in 0..messages + WARM_UP {
        let start = Instant::now();
        there_and_back(round as u64)?;
        let both_ways = start.elapsed().as_secs_f64() * 1e9 - clock;
        if round >= WARM_UP {
            times.push(both_ways.max(0.0) / 2.0);
        }
    }
    Latency::of(times)
}

/// What reading the clock itself costs, in nanoseconds.
fn clock_cost() -> f64 {
    let mut costs: Vec<f64> = (0..500)
        .map(|_| Instant::now().elapsed().as_secs_f64() * 1e9)
        .collect();
    costs.sort_by(f64::total_cmp);
    costs[costs.len() / 2]
}
