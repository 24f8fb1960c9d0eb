//! What `vmshm display` and the process that shows a screen (`vmshm-monitor`) say to each other.
//!
//! The monitor gets the frames' memory and nothing else of the guest: descriptors of files with
//! the runs in them that it is to map (on Windows handles of sections). It never writes pixels;
//! it writes its reader's line in the frames.
//!
//! ```text
//!  vmshm display                           vmshm-monitor
//!   │ Start ───────────────────────────────▶ │ opens its window, then drops its rights
//!   │ ◀────────────────────────────────Ready │
//!   │ Frames, descriptor ──────────────────▶ │ maps them
//!   │ ◀───────────── WantPixels region ───── │ (a frame names it)
//!   │ Pixels region, descriptor ───────────▶ │ shows frames
//!   │ ◀───────────── Input, Resized, Stats ─ │
//!   │ Condition, Screen ───────────────────▶ │ overlay, title
//!   │ ◀──────────────────────────── Closed ─ │
//! ```

use serde::{Deserialize, Serialize};

use crate::Size;

/// A run of bytes in a file; the runs of a memory follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Where it begins in the file; whole pages.
    pub offset: u64,
    /// Its bytes; whole pages.
    pub length: u64,
}

/// How pictures fill a window of another size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scaling {
    /// By whole numbers only, with a border; a larger picture is made smaller smoothly.
    Integer,
    /// Smoothly, as large as fits.
    Smooth,
}

/// Where pictures go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sink {
    /// A window.
    Window {
        /// Whether it starts in fullscreen.
        fullscreen: bool,
        /// How pictures fill it.
        scaling: Scaling,
        /// Whether the guest's mode follows the window's size.
        follow: bool,
    },
    /// One picture, as PNG into the descriptor that this message carries.
    Picture {
        /// Only a frame of this size will do.
        size: Option<Size>,
    },
    /// No picture goes anywhere: for measuring. Frames are copied as for a window.
    Nowhere {
        /// Verify every frame as a test card.
        verify: bool,
    },
}

/// To the monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToMonitor {
    /// The first message.
    Start {
        /// Where pictures go; a `Picture` carries the file's descriptor.
        sink: Sink,
        /// The VM's name.
        vm: String,
        /// How often statistics are wanted, in milliseconds; zero: never.
        stats_every_millis: u64,
        /// Whether statistics are drawn over the picture.
        stats_overlay: bool,
    },
    /// What is shown: for the title. Sent again on changes.
    Screen {
        /// Its name.
        name: String,
        /// Its mode.
        mode: Size,
        /// Whether input is taken; if not, why (for the title).
        input: Result<(), String>,
    },
    /// The frames region, anew after every attaching. Carries the file's descriptor. What came
    /// before is void, pixels included.
    Frames {
        /// Its runs in the file.
        runs: Vec<Run>,
        /// Which reader the monitor is.
        reader: usize,
    },
    /// A pixels region that was wanted. Carries the file's descriptor.
    Pixels {
        /// Its number.
        region: u64,
        /// Its runs in the file.
        runs: Vec<Run>,
    },
    /// It cannot be had; a newer frame may name another.
    NoPixels {
        /// Its number.
        region: u64,
    },
    /// How the guest is.
    Condition(Condition),
    /// End now.
    End,
}

/// How the guest is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// All is well.
    Running,
    /// Frames do not come for this reason: the VM is paused, its agent has died, …. Shown over
    /// the last picture; the display goes on trying.
    Trouble {
        /// In a few words.
        message: String,
    },
}

/// From the monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromMonitor {
    /// It can show pictures; its rights are dropped.
    Ready {
        /// What was dropped, in words, for `--verbose`.
        confinement: String,
        /// The keymap (XKB text) that its key codes mean, if it knows.
        keymap: Option<String>,
    },
    /// A frame names this region.
    WantPixels {
        /// Its number.
        region: u64,
    },
    /// This region is not mapped any more.
    DroppedPixels {
        /// Its number.
        region: u64,
    },
    /// The user did this: events in the words of `link::input`.
    Input {
        /// The events.
        events: Vec<[u64; 3]>,
    },
    /// The keymap has changed.
    Keymap {
        /// XKB text.
        text: String,
    },
    /// The window shows pictures of this size now; sent when it has settled.
    Resized {
        /// The size.
        size: Size,
    },
    /// What has happened since the last one.
    Stats(Stats),
    /// The picture is in its file.
    PictureDone,
    /// The user closed the window.
    Closed,
    /// What the guest wrote makes no sense; another attaching may help.
    BadGuest {
        /// What.
        message: String,
    },
    /// The monitor cannot go on; it ends with this.
    Failed {
        /// Why.
        message: String,
        /// What would help.
        hint: Option<String>,
    },
}

/// Counts and durations since the last statistics; durations in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Over how long.
    pub over_nanos: u64,
    /// Frames that were shown.
    pub frames: u64,
    /// Frames that were skipped since a newer one was there.
    pub skipped: u64,
    /// Copies that were torn, and taken again.
    pub retaken: u64,
    /// Test cards whose checksum was wrong.
    pub wrong: u64,
    /// Bytes of damage in the frames shown.
    pub damage_bytes: u64,
    /// Bytes of pixels that this process copied.
    pub copied_bytes: u64,
    /// Bytes of pixels that the source touched.
    pub source_bytes: u64,
    /// What the source took, from knowing of a change to announcing it: median, and 99th in 100.
    pub capture: (u64, u64),
    /// From seeing a frame announced to its being ready for presenting.
    pub copy: (u64, u64),
    /// Presenting.
    pub present: (u64, u64),
    /// In the source's own clock, from announcing a frame to seeing it acknowledged.
    pub acknowledged: (u64, u64),
    /// Processor time of this process.
    pub cpu_nanos: u64,
}
