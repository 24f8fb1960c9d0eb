//! The wire between a guest and a host: every byte that one side writes into shared
//! memory and the other reads, and the state machines on both ends.
//!
//! These pages are the specification of protocol 1.2. The crate does no I/O, reads no
//! clock, allocates nothing and has no `unsafe`: callers bring the memory
//! ([`vmshm_shm::SharedMemory`]), the random numbers and the waiting.
//!
//! # The picture
//!
//! ```text
//!            beacon (1 page, branded)          directory (32 pages)
//!            ┌───────────────────────┐         ┌──────────────────────────────┐
//!  scan ───▶ │ version, own address, │ extents │ header: version, kernel, RAM │
//!            │ epoch, checksum       │ ──────▶ ├──────────────────────────────┤
//!            │ pulses, keeper state  │         │ region table, 60 entries     │
//!            └───────────────────────┘         ├──────────────────────────────┤
//!                                              │ slot 0: claim, nonce, rings  │◀─ a host
//!            region (extents by control        │ …                            │   process
//!            message, proved page by page)     │ slot 26                      │◀─ another
//!            ┌───────────────────────┐         └──────────────────────────────┘
//!            │ raw │ pipe │ bench    │
//!            └───────────────────────┘
//! ```
//!
//! # Rules
//!
//! 1. Every shared word is 64 bits, little-endian, naturally aligned, and has one
//!    writer (the exception, a slot's claim, is described in [`slot`]).
//! 2. A reader loads a peer's word once, into private memory, checks it, and uses only
//!    the copy.
//! 3. Nothing relies on a read-modify-write or on a fence between a store and a later
//!    load across the border; only on release stores seen by acquire loads. Each such
//!    pair has a name, which stands as a comment at both of its ends.
//! 4. A payload is written before the word that announces it, by separate accesses, so
//!    that the same code is right over copying system calls.
//! 5. Each side keeps a private copy of the words that it wrote and compares them at
//!    every look: a difference is a rollback, and ends the session ([`own_word`]).
//! 6. A changed epoch or agent generation ends the session; it is never data.
//!
//! # Other ways to meet
//!
//! A host that shall not scan is told the beacon's address by hand, or by the agent over
//! TCP: see [`rendezvous`].
//!
//! # A session
//!
//! ```text
//!  host                                   agent
//!   │ read the beacon, see a pulse move     │
//!   │ read the directory, see a pulse move  │
//!   │ claim := token ─────────────────────▶ │
//!   │ ◀──────────── echo, session, Granted  │
//!   │ who I am, nonce ────────────────────▶ │
//!   │ ◀────────────── nonce echo, Proved    │
//!   │ Open "name" ────────────────────────▶ │
//!   │ ◀──────────── region, key, not ready  │
//!   │ Extents … ──────────────────────────▶ │
//!   │ see the pattern in every page         │
//!   │ Proved, where ──────────────────────▶ │ clears the pattern: ready
//!   │ … use the region …                    │
//!   │ released := token ──────────────────▶ │ frees what the session held
//! ```
#![no_std]

#[cfg(test)]
extern crate std;

pub mod address;
pub mod app_stream;
pub mod beacon;
pub mod bench;
pub mod control;
pub mod directory;
pub mod duplex;
pub mod ends;
pub mod error;
pub mod fields;
pub mod fixed_ring;
pub mod frames;
pub mod input;
pub mod latest;
pub mod local;
pub mod mix;
pub mod own_word;
pub mod proof;
pub mod quantity;
pub mod rendezvous;
pub mod ring;
pub mod screens;
pub mod slot;
pub mod stream;
pub mod test_card;
pub mod version;
pub mod wait;

pub use address::{Extent, GuestPhysical};
pub use error::LinkError;
pub use version::{VERSION, Version};
