//! Screens of real guests: outputs added to a running desktop, windows on the host, framebuffers, deaths.
//!
//! Each module holds the tests of one promise.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod deaths;
mod framebuffers;
mod modes;
mod outputs;
mod several;
mod shown;
mod windows;
