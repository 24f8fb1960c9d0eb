//! What the tests against real virtual machines stand on: machines that are booted, a shell in each guest, and the
//! programs under test with their output, exit codes and times.
//!
//! Nothing here knows what is right; that is in `tests/machines`. Whatever is started ends with its value, also when a
//! test panics, and when the test program itself is killed.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

pub mod agent;
pub mod bochs;
pub mod bytes;
pub mod cell;
pub mod command_line;
pub mod desktop;
pub mod environment;
pub mod example;
pub mod fleet;
pub mod grafted;
pub mod guest;
pub mod guest_pipe;
pub mod host_pipe;
pub mod kvm_machine;
pub mod lines;
pub mod listener;
pub mod machine;
pub mod monitor;
pub mod patience;
pub mod planted;
pub mod png_file;
pub mod processes;
pub mod program;
pub mod qmp;
pub mod residency;
pub mod status;
pub mod stopping;
pub mod x_server;
