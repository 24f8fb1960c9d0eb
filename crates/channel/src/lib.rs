//! Messages between processes of one system ([`Channel`]), and the two vocabularies that cross
//! crates: [`source`], between the agent and the process that delivers a screen, and [`sink`],
//! between `vmshm display` and the process that shows it.
//!
//! Other vocabularies stay with their only speakers: the keeper's is in the agent.
//! This crate knows no screen, no region and no VM; numbers and modes are plain numbers here.

mod channel;
mod os;
pub mod sink;
pub mod source;

pub use channel::{Channel, ChannelError, FRAME_LIMIT, frame};
pub use os::{Handed, HandedRef, borrowed, inherited, start};
#[cfg(target_os = "linux")]
pub use os::{credentials, timespec};

use serde::{Deserialize, Serialize};

/// Width, height, and frames per 1000 seconds (zero: the source's own choice).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Frames per 1000 seconds.
    pub refresh_millihertz: u32,
}
