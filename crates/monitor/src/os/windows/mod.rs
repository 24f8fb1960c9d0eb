//! Windows: winit's and softbuffer's own backends, sections, mitigation policies.
//!
//! No keymap is sent: Windows has none as text that a guest understands. Keys are sent by where
//! they are on the keyboard, and the guest's own layout says what they mean.

mod confinement;
mod figures;
mod keyboard;
pub mod lost_memory;
mod section;
mod token;
#[cfg(test)]
pub mod trial;
pub mod window;

pub use confinement::{confine_process, confine_this_thread};
pub use figures::{processor_time, sharpen_timers};
pub use keyboard::{Keymaps, key_code};
pub use section::size_if_it_can_shrink;
