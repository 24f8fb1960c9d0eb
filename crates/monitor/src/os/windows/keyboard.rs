//! The host's keyboard: key codes by position, and which locks are on.

use windows_sys::Win32::UI::Input::KeyboardAndMouse::{
    GetKeyState, VK_CAPITAL, VK_NUMLOCK, VK_SCROLL,
};
use winit::keyboard::PhysicalKey;

use crate::os::key_codes;

/// No keymap (see the module above), but the locks.
pub struct Keymaps;

impl Keymaps {
    /// There is nothing to open.
    pub const fn open(_: bool) -> Self {
        Self
    }

    /// No keymap.
    #[allow(clippy::unused_self, reason = "other systems keep one")]
    pub const fn text(&mut self) -> Option<String> {
        None
    }

    /// No other keymap.
    #[allow(clippy::unused_self, reason = "other systems keep one")]
    pub const fn changed(&mut self) -> Option<String> {
        None
    }

    /// Which locks are on (bits as in `InputEvent::Locks`), and the guest's first layout.
    #[allow(clippy::unused_self, reason = "other systems ask the display")]
    pub fn locks(&self) -> Option<(u32, u32)> {
        let on = |key: u16| {
            // SAFETY: any key may be asked for.
            let state = unsafe { GetKeyState(i32::from(key)) };
            u32::from(state & 1 != 0)
        };
        Some((on(VK_CAPITAL) | on(VK_NUMLOCK) << 1 | on(VK_SCROLL) << 2, 0))
    }
}

/// The key's number in Linux's `input-event-codes.h`, which guests are told.
pub fn key_code(key: PhysicalKey) -> Option<u32> {
    match key {
        PhysicalKey::Code(code) => key_codes::key_code(code),
        PhysicalKey::Unidentified(_) => None,
    }
}
