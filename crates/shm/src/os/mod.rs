//! What the operating system lends: mapped pages. One module per system, with the same
//! names; `pieces` is what is asked of each.

mod pieces;
pub use pieces::{MapError, PAGE_SIZE, Piece, Protection};

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub use linux::{Mapping, SystemError};

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub use windows::{Mapping, SystemError, lays_views_side_by_side};
