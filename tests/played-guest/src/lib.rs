//! A guest with its agent, played over any memory: a beacon that beats, and the agent's side of slots, table, regions,
//! pipes, benches and screens, as far as tests need them. It obeys orders, one line each.
//!
//! The wire is the agent's own (`vmshm-link`, `vmshm-pipe`); what is played is the guest's kernel and its rules. It pins
//! nothing, trusts its orders, and panics where a test has gone wrong.
#![allow(
    clippy::expect_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod bench;
mod card;
mod guest;
mod pipes;
mod plan;
mod play;
mod ram;
mod regions;
mod requests;
mod screens;

pub use guest::Guest;
pub use plan::{Plan, Range};
pub use play::play;
pub use ram::{GuestMemory, Window};
