//! What needs the system's own calling conventions: a signal's handler, and the library that
//! knows the X server's keymap. The only place of this crate with `unsafe`.
#![allow(
    unsafe_code,
    reason = "a signal handler and a C library without a safe binding"
)]

pub mod lost_memory;
pub mod x11_keymap;
