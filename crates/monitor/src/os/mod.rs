//! What the operating system lends a monitor. One module per system; the names that every system
//! provides are listed here, and everything outside this module is the same on every system.
//!
//! - `confine_this_thread`, `confine_process`: giving up what is not needed.
//! - `lost_memory`: the end of a process whose mapped memory was taken away.
//! - `Keymaps`: the keymap and the locks of the host's keyboard. `key_code`: a key's code.
//! - `window`: what a window needs to be told.
//! - `size_if_it_can_shrink`: of a file of memory that was handed over.
//! - `processor_time`, `sharpen_timers`: measuring, and waking up in time.
//!
//! This is the only place of this crate with `unsafe`.
#![allow(
    unsafe_code,
    reason = "handlers of faults, a C library without a safe binding, the system's own calls"
)]

#[cfg(any(windows, test))]
mod key_codes;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub use linux::{
    Keymaps, confine_process, confine_this_thread, key_code, lost_memory, processor_time,
    sharpen_timers, size_if_it_can_shrink, window,
};
#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub use windows::{
    Keymaps, confine_process, confine_this_thread, key_code, lost_memory, processor_time,
    sharpen_timers, size_if_it_can_shrink, window,
};

#[cfg(all(test, target_os = "linux"))]
pub use linux::trial;
#[cfg(all(test, windows))]
pub use windows::trial;
