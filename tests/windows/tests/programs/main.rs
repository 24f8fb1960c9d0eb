//! The programs for Windows, run under Wine against a program that stands in for VMware and others.
#![allow(
    clippy::expect_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod display;
mod faults;
mod finding;
mod memory;
mod pipes;
mod regions;
mod without_agent;
