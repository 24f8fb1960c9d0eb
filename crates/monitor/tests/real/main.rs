//! The real binary over a real channel, with a guest made of memory files (or sections).

#[cfg(windows)]
mod lost_memory;
mod material;
#[cfg(target_os = "linux")]
mod measuring;
mod nowhere;
mod picture;
#[cfg(target_os = "linux")]
mod wayland;
#[cfg(target_os = "linux")]
mod window;
