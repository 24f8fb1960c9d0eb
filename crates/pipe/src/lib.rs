//! Moves bytes between a program's input and output and a pipe region of shared
//! memory, the same way on both sides of the border.
//!
//! It knows the wire's pipe layout and threads, and nothing of how the memory was
//! found or who else watches the peer: the host library and the guest's agent bring
//! that.

mod os;
mod pause;
mod pump;

pub use os::take_standard_streams;
pub use pause::pause;
pub use pump::{Progress, Pump, PumpError};
