//! The matrix of machines: every board, backing and size, found right and read right at guest-physical addresses, first
//! without the agent and then with it.
//!
//! `cells` lists them; the ordinary run takes some that together have every board, backing and size.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod cells;
mod plugging;
mod reading;
mod truth;
mod untouched;
