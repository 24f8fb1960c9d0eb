//! What a window needs to be told on Windows.

use winit::event_loop::ActiveEventLoop;
use winit::platform::windows::WindowAttributesExtWindows;
use winit::window::WindowAttributes;

/// Memory for pictures can be made at any time.
pub const ROOM_AHEAD: Option<(u32, u32)> = None;

/// Whether there may be a display: opening the window tells.
///
/// # Errors
/// None here.
pub const fn look_for_display() -> Result<(), &'static str> {
    Ok(())
}

/// Whether the window system says when it wants a picture, and keeps what was drawn: it does not.
pub const fn is_paced(_: &ActiveEventLoop) -> bool {
    false
}

/// Names the window's class. Nothing can be dropped on it: OLE is not needed.
pub fn named(attributes: WindowAttributes, _: &ActiveEventLoop, name: &str) -> WindowAttributes {
    attributes.with_class_name(name).with_drag_and_drop(false)
}
