//! Bounds-checked access to memory that another party writes at the same time.
//!
//! This crate is the only home of raw access to shared memory. It offers two
//! things and nothing else: single, naturally aligned 64-bit *words* with a
//! stated memory order, and *copies* between shared memory and private buffers.
//! It never hands out a reference or a slice to shared memory, since the
//! language's rules about references cannot hold there, and it offers no
//! read-modify-write operation, since those do not work across every VM border
//! (a guest that a single-threaded emulator runs does not honour them).
//!
//! [`SharedMemory`] is the seam: [`Mapping`] implements it over mapped pages,
//! the `vmshm-ram` crate implements it over copying system calls, and the tests
//! implement it over a model checker's atomics.
#![no_std]
#![allow(
    unsafe_code,
    reason = "this crate exists to hold the raw access that the others must not contain"
)]

#[cfg(windows)]
extern crate std;

mod copy;
mod fault;
mod local;
mod memory;
mod os;
mod word;

pub use fault::Fault;
pub use local::LocalMemory;
pub use memory::SharedMemory;
#[cfg(windows)]
pub use os::lays_views_side_by_side;
pub use os::{MapError, Mapping, PAGE_SIZE, Piece, Protection, SystemError};
