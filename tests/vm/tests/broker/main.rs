//! The broker before real VMs: programs of another user, what they may not see, and that what was lent is taken back.
//!
//! Each module holds the tests of one promise.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod brokers;
mod deaths;
mod endings;
mod partners;
mod reboots;
mod sight;
mod units;
mod users;
