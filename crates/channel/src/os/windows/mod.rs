//! Windows: two anonymous pipes, the standard input and output of the process that was started.
//! Things are handed over by duplicating their handles into that process, whose number for
//! it then stands in the frame. Only the process that started the other one can do that;
//! a frame of the started one that claims to carry a handle is refused.

mod handing;
mod pipes;
mod starting;
#[cfg(test)]
pub(crate) mod trial;

use std::os::windows::io::{AsHandle, BorrowedHandle, OwnedHandle};

pub(crate) use handing::HANDED_BYTES;
pub(crate) use pipes::Connection;
pub use starting::{inherited, start};

/// What is handed over: a handle, of a section or a file.
pub type Handed = OwnedHandle;
/// A handle that stays whose it is; the peer gets one of its own.
pub type HandedRef<'a> = BorrowedHandle<'a>;

/// A thing to hand over, without giving it away.
pub fn borrowed(handed: &Handed) -> HandedRef<'_> {
    handed.as_handle()
}
