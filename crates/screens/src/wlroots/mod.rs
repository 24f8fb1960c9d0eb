//! Outputs of a wlroots compositor: found, shown, plugged in, and given input.
//!
//! ```text
//! find         which compositors there are, from /proc                (the agent, as root)
//! serve        one compositor's screens, with its user's rights       (a source process)
//! ├ line         a Wayland connection that never blocks
//! ├ desk         what the compositor says: globals, outputs, heads
//! ├ watched      one screen's frames: asks for captures, announces them
//! │ ├ capture      one picture on its way
//! │ └ buffers      the pixels region as the compositor sees it
//! ├ plugging     adding and removing outputs, setting modes
//! │ └ sway         its IPC
//! └ hands        readers' input: pointer, keyboard, keymap, held
//! ```
//!
//! The compositor copies a picture straight into the pixels region: here no pixel is touched,
//! unless the compositor delivers pictures upside down. Everything is driven by one loop that
//! polls; nothing waits for the compositor or for a reader. Refuses compositors without
//! wlr-screencopy version 2, pixel formats other than XRGB8888 and ARGB8888, and sockets that
//! belong to another user than the process.

mod buffers;
mod capture;
mod desk;
mod find;
mod hands;
mod held;
mod keyboard;
mod keymap;
mod line;
mod outputs;
mod plugging;
mod pointer;
mod source;
mod sway;
mod watched;

pub use find::{Found, find, others};
pub use source::serve;
