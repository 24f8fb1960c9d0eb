//! Outputs of a wlroots compositor.

use vmshm_channel::Channel;

use crate::SourceError;

/// Delivers the outputs of the compositor at `socket`.
///
/// # Errors
/// [`SourceError`].
pub fn serve(
    _channel: &mut Channel,
    _socket: &str,
    _environment: &[(String, String)],
    _input: bool,
) -> Result<(), SourceError> {
    Ok(())
}

/// A compositor whose outputs can be delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its process.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// That user's group.
    pub gid: u32,
    /// Its Wayland socket.
    pub socket: String,
    /// Environment that its clients need.
    pub environment: Vec<(String, String)>,
    /// What it is called: `sway`.
    pub name: String,
}

/// The compositors that run now.
#[must_use]
pub fn find() -> Vec<Found> {
    Vec::new()
}

/// Desktops that are none of these, in words.
#[must_use]
pub fn others() -> Vec<String> {
    Vec::new()
}
