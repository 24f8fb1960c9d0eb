//! The real binary over a real channel, with a guest made of memfds.

#![cfg(target_os = "linux")]

mod material;
mod measuring;
mod nowhere;
mod picture;
mod wayland;
mod window;
