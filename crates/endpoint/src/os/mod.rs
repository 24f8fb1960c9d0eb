//! What differs between systems where a link's end waits. One module per system, with the
//! same name.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(crate) use linux::STEP_OF_WAITS;

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub(crate) use windows::STEP_OF_WAITS;
