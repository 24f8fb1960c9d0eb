//! The X server's keymap as XKB text, through libxkbcommon-x11, which the window's library
//! has loaded as well.

use std::ffi::CStr;
use std::ptr;

use x11rb::xcb_ffi::XCBConnection;
use xkbcommon_dl::x11::{
    XKB_X11_MIN_MAJOR_XKB_VERSION, XKB_X11_MIN_MINOR_XKB_VERSION,
    xkb_x11_setup_xkb_extension_flags, xkbcommon_x11_option,
};
use xkbcommon_dl::{
    xkb_context_flags, xkb_keymap_compile_flags, xkb_keymap_format, xkbcommon_option,
};

/// Makes the X server's keyboard extension known to this connection. False when the server or
/// the library has none.
pub fn set_up(connection: &XCBConnection) -> bool {
    let Some(library) = xkbcommon_x11_option() else {
        return false;
    };
    // SAFETY: the connection is open and valid as long as `connection` is borrowed; the library
    // accepts null for what is not wanted.
    let done = unsafe {
        (library.xkb_x11_setup_xkb_extension)(
            connection.get_raw_xcb_connection().cast(),
            XKB_X11_MIN_MAJOR_XKB_VERSION,
            XKB_X11_MIN_MINOR_XKB_VERSION,
            xkb_x11_setup_xkb_extension_flags::XKB_X11_SETUP_XKB_EXTENSION_NO_FLAGS,
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
        )
    };
    done == 1
}

/// The keymap of the core keyboard; the connection has been [set up](set_up).
pub fn text(connection: &XCBConnection) -> Option<String> {
    let (common, x11) = (xkbcommon_option()?, xkbcommon_x11_option()?);
    let raw = connection.get_raw_xcb_connection().cast();
    // SAFETY: the connection is valid as long as `connection` is borrowed.
    let device = unsafe { (x11.xkb_x11_get_core_keyboard_device_id)(raw) };
    if device < 0 {
        return None;
    }
    // Nothing is looked for in files: the server tells the whole keymap.
    let flags = xkb_context_flags::XKB_CONTEXT_NO_DEFAULT_INCLUDES;
    // SAFETY: no preconditions; null is checked for below.
    let context = unsafe { (common.xkb_context_new)(flags) };
    if context.is_null() {
        return None;
    }
    // SAFETY: context and connection are valid; null is checked for below.
    let keymap = unsafe {
        (x11.xkb_x11_keymap_new_from_device)(
            context,
            raw,
            device,
            xkb_keymap_compile_flags::XKB_KEYMAP_COMPILE_NO_FLAGS,
        )
    };
    let mut text = None;
    if !keymap.is_null() {
        let format = xkb_keymap_format::XKB_KEYMAP_FORMAT_TEXT_V1;
        // SAFETY: the keymap is valid; the string is ours to free.
        let string = unsafe { (common.xkb_keymap_get_as_string)(keymap, format) };
        if !string.is_null() {
            // SAFETY: the library ends its strings with a zero.
            let content = unsafe { CStr::from_ptr(string) };
            text = content.to_str().ok().map(str::to_owned);
            // SAFETY: made by `malloc`, as the library says, and not used any more.
            unsafe { libc::free(string.cast_mut().cast()) };
        }
        // SAFETY: ours, and not used any more.
        unsafe { (common.xkb_keymap_unref)(keymap) };
    }
    // SAFETY: as above.
    unsafe { (common.xkb_context_unref)(context) };
    text
}
