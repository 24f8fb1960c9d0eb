//! What a window needs to be told on Wayland and X11.

use winit::event_loop::ActiveEventLoop;
use winit::keyboard::PhysicalKey;
use winit::platform::scancode::PhysicalKeyExtScancode;
use winit::platform::wayland::{ActiveEventLoopExtWayland, WindowAttributesExtWayland};
use winit::platform::x11::WindowAttributesExtX11;
use winit::window::WindowAttributes;

/// Room for windows of this size is made while files may still be created: the X server's
/// pictures live in one, which grows never after. Sparse: only what is drawn takes memory.
pub const ROOM_AHEAD: Option<(u32, u32)> = Some((8192, 4608));

/// Whether there may be a display; if not, why.
///
/// # Errors
/// Why, in words.
pub fn look_for_display() -> Result<(), &'static str> {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if ["WAYLAND_DISPLAY", "WAYLAND_SOCKET", "DISPLAY"]
        .into_iter()
        .any(is_set)
    {
        Ok(())
    } else {
        Err("neither WAYLAND_DISPLAY nor DISPLAY is set")
    }
}

/// Whether the window system says when it wants a picture, and keeps what was drawn: Wayland.
pub fn is_paced(event_loop: &ActiveEventLoop) -> bool {
    event_loop.is_wayland()
}

/// Names the window for the desktop.
pub fn named(
    attributes: WindowAttributes,
    event_loop: &ActiveEventLoop,
    name: &str,
) -> WindowAttributes {
    if event_loop.is_wayland() {
        WindowAttributesExtWayland::with_name(attributes, name, name)
    } else {
        WindowAttributesExtX11::with_name(attributes, name, name)
    }
}

/// The key's number in Linux's `input-event-codes.h`, which guests are told.
pub fn key_code(key: PhysicalKey) -> Option<u32> {
    key.to_scancode()
}
