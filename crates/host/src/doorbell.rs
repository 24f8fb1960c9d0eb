//! The doorbell of a host program: through a running `vmshm listen` of the same user, it
//! wakes sleepers in a guest, and is woken by that guest. Where a system has no listener
//! there is no doorbell, and every sleeper looks again by itself.

pub use crate::os::Doorbells;
