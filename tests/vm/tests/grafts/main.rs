//! Grafts in real virtual machines: regions become files of their own, and back, and the guest notices nothing.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod deaths;
mod kvm;
mod load;
mod pace;
mod partners;
mod refusals;
mod use_of;
