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
