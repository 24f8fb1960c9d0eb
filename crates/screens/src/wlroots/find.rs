//! Which compositors run in this guest.

/// A compositor that may be a wlroots one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its process.
    pub pid: u32,
    /// The user that it runs as.
    pub uid: u32,
    /// That user's group.
    pub gid: u32,
    /// Its Wayland socket, as this process can reach it.
    pub socket: String,
    /// What its clients need to know: `SWAYSOCK`, `XDG_RUNTIME_DIR`, ….
    pub environment: Vec<(String, String)>,
    /// Its program's name: `sway`.
    pub name: String,
}

/// The compositors that listen on a Wayland socket, in the order of their processes.
#[must_use]
pub fn find() -> Vec<Found> {
    Vec::new()
}

/// What else shows a desktop here, in words: `GNOME on Xorg`.
#[must_use]
pub fn others() -> Vec<String> {
    Vec::new()
}
