//! The keymap that the host's key codes mean, so that the guest types what the user types.
//!
//! It is asked over a connection of its own to the display, opened before the rights are
//! dropped: the window's library does not hand its keymap out. On X11 a program such as xdotool
//! may change the keymap at any time; so it is looked at before every key.

use std::os::fd::OwnedFd;

use wayland_client::protocol::{wl_keyboard, wl_registry, wl_seat};
use wayland_client::{Connection, Dispatch, EventQueue, QueueHandle, WEnum};
use x11rb::connection::Connection as _;
use x11rb::protocol::Event;
use x11rb::protocol::xkb::{ConnectionExt as _, EventType, ID, MapPart, SelectEventsAux};
use x11rb::protocol::xproto::ModMask;
use x11rb::xcb_ffi::XCBConnection;
use xkbcommon_dl::{xkbcommon_compose_option, xkbcommon_option};

use super::x11_keymap;

/// The longest keymap that is passed on, in bytes.
const LONGEST: usize = 256 << 10;

/// The keymap, and where it comes from.
pub struct Keymaps {
    source: Source,
    /// What was passed on last.
    last: Option<String>,
}

enum Source {
    /// The X server.
    X11(Box<XCBConnection>),
    /// The compositor.
    Wayland(Box<(EventQueue<Seat>, Seat)>),
    /// Not known.
    Unknown,
}

impl Keymaps {
    /// Connects to the display.
    pub fn open(is_wayland: bool) -> Self {
        // The window's library wants it when a keyboard comes, and it cannot be loaded then.
        let _ = (xkbcommon_option(), xkbcommon_compose_option());
        let opened = if is_wayland {
            open_wayland()
        } else {
            open_x11()
        };
        Self {
            source: opened.unwrap_or(Source::Unknown),
            last: None,
        }
    }

    /// The keymap now.
    pub fn text(&mut self) -> Option<String> {
        let text = match &self.source {
            Source::X11(connection) => x11_keymap::text(connection),
            Source::Wayland(keymaps) => keymaps.1.keymap.clone(),
            Source::Unknown => None,
        };
        let text = text.filter(|text| !text.is_empty() && text.len() <= LONGEST);
        self.last.clone_from(&text);
        text
    }

    /// The keymap, if it has changed since the last look.
    pub fn changed(&mut self) -> Option<String> {
        let changed = match &mut self.source {
            Source::X11(connection) => {
                let mut changed = false;
                while let Ok(Some(event)) = connection.poll_for_event() {
                    changed |= matches!(
                        event,
                        Event::MappingNotify(_)
                            | Event::XkbMapNotify(_)
                            | Event::XkbNewKeyboardNotify(_)
                    );
                }
                changed
            }
            Source::Wayland(keymaps) => {
                let (queue, seat) = &mut **keymaps;
                look_at_wayland(queue, seat);
                std::mem::take(&mut seat.changed)
            }
            Source::Unknown => false,
        };
        if !changed {
            return None;
        }
        // Another keyboard with the same keymap is told of, too.
        let before = self.last.take();
        self.text().filter(|text| Some(text) != before.as_ref())
    }

    /// Which locks are on (bits as in `InputEvent::Locks`), and which layout is in use.
    pub fn locks(&self) -> Option<(u32, u32)> {
        match &self.source {
            Source::X11(connection) => {
                let core_keyboard = u16::from(ID::USE_CORE_KBD);
                let state = connection.xkb_get_state(core_keyboard).ok()?.reply().ok()?;
                let on = |mask: ModMask| state.locked_mods.contains(mask);
                let caps = u32::from(on(ModMask::LOCK));
                // By convention Num Lock is the second of the free modifiers.
                let num = u32::from(on(ModMask::M2));
                Some((caps | num << 1, u32::from(u8::from(state.group))))
            }
            Source::Wayland(keymaps) => keymaps.1.locks,
            Source::Unknown => None,
        }
    }
}

fn open_x11() -> Option<Source> {
    let (connection, _) = XCBConnection::connect(None).ok()?;
    let version = connection.xkb_use_extension(1, 0).ok()?.reply().ok()?;
    if !version.supported || !x11_keymap::set_up(&connection) {
        return None;
    }
    let events = EventType::MAP_NOTIFY | EventType::NEW_KEYBOARD_NOTIFY;
    let core_keyboard = u16::from(ID::USE_CORE_KBD);
    let (every, none) = (MapPart::from(0xff_u16), EventType::from(0_u16));
    let details = SelectEventsAux::new();
    let selected =
        connection.xkb_select_events(core_keyboard, none, events, every, every, &details);
    selected.ok()?.check().ok()?;
    Some(Source::X11(Box::new(connection)))
}

fn open_wayland() -> Option<Source> {
    let connection = Connection::connect_to_env().ok()?;
    let mut queue = connection.new_event_queue();
    connection.display().get_registry(&queue.handle(), ());
    let mut seat = Seat::default();
    // What there is; the seat; its keyboard; the keymap.
    for _ in 0..4 {
        queue.roundtrip(&mut seat).ok()?;
    }
    (seat.changed, seat.asked) = (false, false);
    Some(Source::Wayland(Box::new((queue, seat))))
}

fn look_at_wayland(queue: &mut EventQueue<Seat>, seat: &mut Seat) {
    let _ = queue.flush();
    if let Some(guard) = queue.prepare_read() {
        // Answers at once when there is nothing.
        let _ = guard.read();
    }
    let _ = queue.dispatch_pending(seat);
    if std::mem::take(&mut seat.asked) {
        // A keyboard has come: its keymap is needed for the key that is about to be sent.
        let _ = queue.roundtrip(seat);
    }
}

/// What the compositor said of its keyboard.
#[derive(Debug, Default)]
pub struct Seat {
    keymap: Option<String>,
    changed: bool,
    /// A keyboard was asked for, and its keymap is still to come.
    asked: bool,
    locks: Option<(u32, u32)>,
}

impl Dispatch<wl_registry::WlRegistry, ()> for Seat {
    fn event(
        _: &mut Self,
        registry: &wl_registry::WlRegistry,
        event: wl_registry::Event,
        (): &(),
        _: &Connection,
        handle: &QueueHandle<Self>,
    ) {
        if let wl_registry::Event::Global {
            name, interface, ..
        } = event
            && interface == "wl_seat"
        {
            registry.bind::<wl_seat::WlSeat, _, _>(name, 1, handle, ());
        }
    }
}

impl Dispatch<wl_seat::WlSeat, ()> for Seat {
    fn event(
        state: &mut Self,
        seat: &wl_seat::WlSeat,
        event: wl_seat::Event,
        (): &(),
        _: &Connection,
        handle: &QueueHandle<Self>,
    ) {
        if let wl_seat::Event::Capabilities {
            capabilities: WEnum::Value(capabilities),
        } = event
            && capabilities.contains(wl_seat::Capability::Keyboard)
        {
            seat.get_keyboard(handle, ());
            state.asked = true;
        }
    }
}

impl Dispatch<wl_keyboard::WlKeyboard, ()> for Seat {
    fn event(
        state: &mut Self,
        _: &wl_keyboard::WlKeyboard,
        event: wl_keyboard::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let wl_keyboard::Event::Keymap {
            format: WEnum::Value(wl_keyboard::KeymapFormat::XkbV1),
            fd,
            size,
        } = event
        {
            let text = read_keymap(&fd, size);
            state.changed |= text != state.keymap;
            state.keymap = text;
        }
    }
}

fn read_keymap(file: &OwnedFd, size: u32) -> Option<String> {
    let size = usize::try_from(size).ok().filter(|size| *size <= LONGEST)?;
    let mut bytes = vec![0; size];
    let mut read = 0;
    while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(file, rest, read as u64) {
            Ok(0) | Err(_) => break,
            Ok(count) => read += count,
        }
    }
    bytes.truncate(read);
    // It ends with a zero.
    let end = bytes.iter().position(|byte| *byte == 0);
    bytes.truncate(end.unwrap_or(read));
    String::from_utf8(bytes).ok()
}
