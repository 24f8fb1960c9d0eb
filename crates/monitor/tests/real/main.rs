//! The real binary over a real channel, with a guest made of memfds.

mod material;
mod picture;
mod nowhere;
mod window;
