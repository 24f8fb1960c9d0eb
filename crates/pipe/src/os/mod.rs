//! A program's standard streams, taken over whole, so that ending a direction reaches
//! whoever is behind it. One module per system, with the same name.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub use linux::take_standard_streams;

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub use windows::take_standard_streams;
