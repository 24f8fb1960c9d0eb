//! What the operating system lends: mapped pages. One module per system.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub use linux::{MapError, Mapping, PAGE_SIZE, Piece, Protection};
