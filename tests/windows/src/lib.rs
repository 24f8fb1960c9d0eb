//! What the tests of the programs for Windows stand on: Wine, `vmshm.exe` in it, and a program that stands in for a VMM.
//!
//! Nothing here knows what is right; that is in `tests/programs`. Whatever is started ends with its value, also when a
//! test panics, and when the test program itself is killed.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

pub mod configuration;
pub mod stand_in;
pub mod wine;
