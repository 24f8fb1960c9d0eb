//! Outputs of a wlroots compositor.

mod find;

pub use find::{Found, find, others};

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
