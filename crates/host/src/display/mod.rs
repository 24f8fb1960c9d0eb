//! Showing a screen of a guest: which screens there are, plugging one in, watching it, and
//! serving the process that shows it (`vmshm-monitor`), which gets the frames' memory and
//! nothing else of the guest.
//!
//! [`list`] tells what there is. A [`Display`] owns a session and the channel to a monitor
//! that the caller has started; the caller calls [`Display::turn`] again and again. A
//! session that ends is not the end: the display finds the VM again and goes on, unless one
//! picture was wanted.
//!
//! It starts no process and prints nothing. What the guest writes into frames is parsed by
//! the monitor; only the relay, for RAM that no other process can map, parses it here.

mod asking;
mod copying;
mod error;
mod opening;
mod outgoing;
mod own_memory;
mod relay;
mod seeking;
mod showing;
mod watched;

use std::time::Duration;

use vmshm_channel::Size;
use vmshm_channel::sink::{Sink, Stats};
use vmshm_link::frames::Mode;
use vmshm_ram::{Method, Vmm};

pub use asking::{Listing, Screen, list, mode_words};
pub use error::{DisplayError, Doing};
pub use opening::Choice;
pub use relay::RelayCounts;
pub use seeking::Target;
pub use showing::Display;

use crate::attach::AttachOptions;

/// What is to be shown, and how.
#[derive(Debug)]
pub struct DisplayOptions {
    /// Which screen.
    pub choice: Choice,
    /// The mode that it is to have; nothing: the one that it has.
    pub mode: Option<Mode>,
    /// Where pictures go.
    pub sink: Sink,
    /// Whether input goes to the guest, if it takes any.
    pub input: bool,
    /// How often statistics are wanted; zero: never.
    pub stats_every: Duration,
    /// Whether they are drawn over the picture.
    pub stats_overlay: bool,
    /// Copy frames even where the monitor could map them.
    pub relayed: bool,
    /// How to attach again.
    pub attach: AttachOptions,
    /// How long one picture is waited for.
    pub picture_within: Duration,
}

/// What has happened, for the user.
#[derive(Debug)]
pub enum Event {
    /// The monitor can show pictures.
    Ready {
        /// What rights it has given up, in words.
        confinement: String,
    },
    /// The VM was found again, maybe as another process.
    Reattached(Box<Vmm>),
    /// The screen is watched from now on.
    Watching {
        /// The screen.
        screen: Screen,
        /// How the monitor reaches its frames; `Copy` where they are copied before it sees them.
        method: Method,
        /// Why no input goes there, if none does.
        input: Result<(), String>,
    },
    /// Frames do not come, for this reason; the display goes on trying.
    Trouble(String),
    /// They come again.
    Running,
    /// The window's size is no mode of the screen.
    ModeRefused(String),
    /// The monitor's counts.
    Stats(Box<Stats>),
    /// The picture is in its file.
    PictureDone,
    /// The user has closed the window.
    Closed,
}

/// A mode as monitors are told it.
#[must_use]
pub const fn size_of(mode: &Mode) -> Size {
    Size {
        width: mode.width,
        height: mode.height,
        refresh_millihertz: mode.refresh_millihertz,
    }
}

const fn mode_of(size: Size) -> Mode {
    Mode {
        width: size.width,
        height: size.height,
        refresh_millihertz: size.refresh_millihertz,
    }
}
