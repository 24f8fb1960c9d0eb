//! The links of applications, from outside, over a loopback: two threads are the two sides.

#![allow(missing_docs, reason = "tests")]

#[cfg(feature = "futures")]
mod asynchronous;
mod byte_rings;
mod endings;
mod latests;
mod opening;
mod order;
mod raws;
mod restarts;
mod rings;
mod streams;
mod waiting;

use std::time::Duration;

/// Long enough for anything that will happen.
const LONG: Duration = Duration::from_secs(60);
/// For what will not.
const SHORT: Duration = Duration::from_millis(5);

/// Numbers that look random, the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
