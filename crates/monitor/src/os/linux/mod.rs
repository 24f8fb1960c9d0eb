//! Linux: Wayland and X11, seccomp and Landlock, memory files.

mod confinement;
mod figures;
mod keymaps;
pub mod lost_memory;
mod memory_file;
#[cfg(test)]
pub mod trial;
pub mod window;
mod x11_keymap;

pub use confinement::{confine_process, confine_this_thread};
pub use figures::{processor_time, sharpen_timers};
pub use keymaps::Keymaps;
pub use memory_file::size_if_it_can_shrink;
pub use window::key_code;
