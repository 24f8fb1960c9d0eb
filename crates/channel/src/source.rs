//! What the agent and a *source process* say to each other. A source process delivers all
//! screens of one compositor, one framebuffer device, or the test card; the agent starts it, with
//! the rights of the desktop's user, and it ends when its channel does. It then unplugs what it
//! plugged in.
//!
//! ```text
//!  agent                                   source process
//!   │ ◀─────────────── Screens (again on every change)
//!   │ Watch 3, the frames' descriptor ─────▶ │
//!   │ ◀─────────────── NeedPixels 3, bytes
//!   │ Pixels 3, region 17, descriptor ─────▶ │ frames flow
//!   │ Readers 3, [0, 4] ───────────────────▶ │
//!   │ Unwatch 3 ───────────────────────────▶ │ forgets both memories
//! ```

use serde::{Deserialize, Serialize};

use crate::Size;

/// What a process delivers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The outputs of a Wayland compositor that has this socket.
    Wlroots {
        /// The socket's path.
        socket: String,
        /// Environment of the compositor that its clients need: `SWAYSOCK`, `XDG_RUNTIME_DIR`, ….
        environment: Vec<(String, String)>,
    },
    /// A framebuffer device.
    Framebuffer {
        /// Its path: `/dev/fb0`.
        device: String,
    },
    /// The test card.
    TestCard,
}

/// From the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSource {
    /// The first message: what to deliver.
    Start {
        /// The source.
        kind: Kind,
        /// Whether input may be given to the guest.
        input: bool,
    },
    /// Somebody watches the screen from now on. Carries the descriptor of its frames region.
    Watch {
        /// The screen.
        screen: u64,
        /// Bytes of the frames region.
        size: u64,
    },
    /// Memory for pictures, in answer to `NeedPixels` with the same `request`. Carries its
    /// descriptor, unless it is the device's own memory.
    Pixels {
        /// The screen.
        screen: u64,
        /// The request that it answers.
        request: u64,
        /// The region's number, for the frames' records.
        region: u64,
        /// Its bytes.
        size: u64,
    },
    /// There is no memory for pictures.
    NoPixels {
        /// The screen.
        screen: u64,
        /// The request that it answers.
        request: u64,
        /// Why.
        message: String,
    },
    /// Which readers' lines are in use now.
    Readers {
        /// The screen.
        screen: u64,
        /// Their indices.
        readers: Vec<usize>,
    },
    /// Nobody watches the screen any more; both its memories may be forgotten.
    Unwatch {
        /// The screen.
        screen: u64,
    },
    /// Plug a screen in.
    Add {
        /// For the answer.
        request: u64,
        /// Its mode.
        mode: Size,
    },
    /// Unplug a screen that was plugged in by `Add`.
    Remove {
        /// The screen.
        screen: u64,
    },
    /// Give a screen a mode.
    SetMode {
        /// For the answer.
        request: u64,
        /// The screen.
        screen: u64,
        /// The mode.
        mode: Size,
    },
    /// A user did this: events in the words of `link::input`.
    Input {
        /// The screen.
        screen: u64,
        /// Who: the reader. What it holds is released when it leaves `Readers`.
        reader: usize,
        /// The events.
        events: Vec<[u64; 3]>,
    },
    /// The keymap (XKB text) that a reader's key codes mean from now on.
    Keymap {
        /// The screen.
        screen: u64,
        /// Who.
        reader: usize,
        /// The keymap.
        text: String,
    },
}

/// From a source process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromSource {
    /// The screens that there are now, in their order. The first one says that the source is ready.
    Screens {
        /// All of them.
        screens: Vec<Screen>,
        /// Whether it can plug more in.
        can_add: bool,
    },
    /// The screen's pictures need so much memory; earlier memory is of no use any more.
    NeedPixels {
        /// The screen.
        screen: u64,
        /// For the answer.
        request: u64,
        /// What memory.
        memory: PixelMemory,
    },
    /// The source has the new memory in use, and has forgotten every other pixels region of
    /// this screen.
    PixelsInUse {
        /// The screen.
        screen: u64,
        /// The region.
        region: u64,
    },
    /// To `Add`: it is plugged in, and listed in the last `Screens`.
    Added {
        /// The request.
        request: u64,
        /// The screen.
        screen: u64,
    },
    /// To `SetMode`: it is done, and listed in the last `Screens`.
    ModeSet {
        /// The request.
        request: u64,
    },
    /// To `Add` or `SetMode`: no, and why.
    Refused {
        /// The request.
        request: u64,
        /// Why, and what can be had.
        message: String,
    },
    /// Something that the user should know, once: the compositor cannot remove an output.
    Note {
        /// In words.
        message: String,
    },
    /// The source cannot go on; it ends with this.
    Failed {
        /// Why.
        message: String,
        /// What would help.
        hint: Option<String>,
    },
}

/// What memory a source needs for pictures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PixelMemory {
    /// So many bytes of pinned memory.
    Pinned {
        /// Whole pages.
        size: u64,
    },
    /// The memory of this device, from its first byte on, which the guest draws into.
    Device {
        /// Its path.
        device: String,
        /// Whole pages.
        size: u64,
    },
}

/// A screen of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Screen {
    /// Its number within the source; never used again for another.
    pub screen: u64,
    /// Its name: `HEADLESS-1`.
    pub name: String,
    /// What delivers it, in words: `sway (wlroots)`.
    pub source: String,
    /// Its mode now.
    pub mode: Size,
    /// Its modes.
    pub modes: Vec<Size>,
    /// Whether it can have other sizes, too.
    pub any_size: bool,
    /// 1000 times its scale.
    pub scale_thousandths: u64,
    /// Whether it takes input.
    pub input: bool,
    /// Whether the mode can be set.
    pub set_mode: bool,
    /// Whether `Add` made it.
    pub added: bool,
    /// Whether a frame may show two pictures.
    pub may_tear: bool,
}
