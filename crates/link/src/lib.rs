//! The wire between a guest and a host.
#![no_std]
pub mod address;
pub use address::{Extent, GuestPhysical};
