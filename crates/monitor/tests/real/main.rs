//! The real binary over a real channel, with a guest made of memfds.

mod material;
mod measuring;
mod nowhere;
mod picture;
mod wayland;
mod window;
