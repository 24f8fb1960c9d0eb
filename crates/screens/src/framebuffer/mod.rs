//! A framebuffer device.

use vmshm_channel::Channel;

use crate::SourceError;

/// Delivers the screen of `device`.
///
/// # Errors
/// [`SourceError`].
pub fn serve(_channel: &mut Channel, _device: &str, _input: bool) -> Result<(), SourceError> {
    Ok(())
}

/// The framebuffer devices that are there, by their paths.
#[must_use]
pub fn find() -> Vec<String> {
    Vec::new()
}
