//! One keyboard of the desktop: a connection of its own, with one keymap.
//!
//! Of its own, since a compositor ends a connection whose keymap it does not understand; pictures
//! are not to end with it.
//!
//! ```text
//! globals ──▶ the seat says whether it has a keyboard ──▶ its keymap ──▶ ours is made ──▶ keys
//! ```

use std::io::{Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmshm_link::screens::MAX_KEYMAP;
use wayland_client::protocol::wl_callback::{self, WlCallback};
use wayland_client::protocol::wl_keyboard::{self, KeymapFormat, WlKeyboard};
use wayland_client::protocol::wl_registry::{self, WlRegistry};
use wayland_client::protocol::wl_seat::{self, WlSeat};
use wayland_client::{Connection, Dispatch, Proxy, QueueHandle, WEnum, delegate_noop};
use wayland_protocols_misc::zwp_virtual_keyboard_v1::client::zwp_virtual_keyboard_manager_v1::ZwpVirtualKeyboardManagerV1;
use wayland_protocols_misc::zwp_virtual_keyboard_v1::client::zwp_virtual_keyboard_v1::ZwpVirtualKeyboardV1;

use super::held::{Held, Who};
use super::keymap::{Told, Typist, US, parse};
use super::line::{Line, LineError, connect};
use super::pointer::{WARM_UP, milliseconds};

/// Events that wait for the keyboard.
const LIMIT: usize = 1024;
/// Keys have codes below this; more is no keyboard's.
const KEYS: std::ops::Range<u32> = 1..248;
/// The format of keymaps that are XKB texts.
const XKB_V1: u32 = 1;

/// What happens at a keyboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyEvent {
    /// A key.
    Key {
        /// Its evdev code.
        code: u32,
        /// Whether it is down now.
        pressed: bool,
    },
    /// Locks and layout, as in `link::input`.
    Locks {
        /// The locks.
        locks: u32,
        /// The layout.
        group: u32,
    },
}

/// What the compositor has said.
#[derive(Debug, Default)]
struct Seat {
    seat: Option<WlSeat>,
    manager: Option<ZwpVirtualKeyboardManagerV1>,
    has_keyboard: bool,
    keymap: Option<String>,
    syncs: u64,
}

#[derive(Debug)]
struct Ready {
    proxy: ZwpVirtualKeyboardV1,
    typist: Typist,
    since: Instant,
}

/// A keyboard.
#[derive(Debug)]
pub struct Keyboard {
    line: Line<Seat>,
    seat: Seat,
    /// The reader's keymap; nothing: the seat's own.
    text: Option<Arc<str>>,
    ready: Option<Ready>,
    asked: u64,
    held: Held,
    pending: Vec<(Who, KeyEvent)>,
}

impl Keyboard {
    /// Connects; the keyboard is there a little later.
    pub fn new(socket: &str, text: Option<Arc<str>>) -> Result<Self, LineError> {
        let line: Line<Seat> = Line::new(connect(socket)?)?;
        let display = line.connection().display();
        display.get_registry(&line.handle(), ());
        display.sync(&line.handle(), ());
        Ok(Self {
            line,
            seat: Seat::default(),
            text,
            ready: None,
            asked: 1,
            held: Held::default(),
            pending: Vec::new(),
        })
    }

    /// The connection, to poll.
    pub const fn line(&self) -> &impl Pollable {
        &self.line
    }

    /// The keymap that it was made for.
    pub const fn text(&self) -> Option<&Arc<str>> {
        self.text.as_ref()
    }

    /// Takes an event.
    pub fn take(&mut self, who: Who, event: KeyEvent) {
        if let KeyEvent::Key { code, .. } = event
            && !KEYS.contains(&code)
        {
            return;
        }
        let is_warm = self.pending.is_empty()
            && self
                .ready
                .as_ref()
                .is_some_and(|ready| ready.since.elapsed() >= WARM_UP);
        if is_warm {
            self.pass(who, event);
        } else if self.pending.len() < LIMIT {
            self.pending.push((who, event));
        }
    }

    /// Those whom `goes` names let go of their keys.
    pub fn release(&mut self, goes: impl Fn(Who) -> bool) {
        self.pending.retain(|(who, _)| !goes(*who));
        for code in self.held.release_all(goes) {
            self.tell_key(code, false);
        }
    }

    /// Reads, makes the keyboard when it can be made, and passes on what waits. When to look
    /// again, if anything waits for time.
    pub fn step(&mut self) -> Result<Option<Duration>, LineError> {
        self.line.dispatch(&mut self.seat)?;
        if self.ready.is_none() && self.seat.syncs == self.asked {
            self.set_up()?;
        }
        let wait = match &self.ready {
            Some(ready) if !self.pending.is_empty() => {
                Some(WARM_UP.saturating_sub(ready.since.elapsed()))
            }
            _ => None,
        };
        let wait = match wait {
            Some(left) if left.is_zero() => {
                for (who, event) in std::mem::take(&mut self.pending) {
                    self.pass(who, event);
                }
                None
            }
            other => other,
        };
        self.line.flush()?;
        Ok(wait)
    }

    /// Sends what is left.
    pub fn flush(&mut self) -> Result<(), LineError> {
        self.line.flush()
    }

    /// Takes the next step towards a keyboard: all that was asked has been answered.
    fn set_up(&mut self) -> Result<(), LineError> {
        let (Some(seat), Some(manager)) = (&self.seat.seat, &self.seat.manager) else {
            let missing = "it takes no keyboards".to_owned();
            return Err(LineError::Ended(missing));
        };
        let handle = self.line.handle();
        // First the globals, then the seat's abilities, then the keymap of its keyboard.
        let asks = match self.asked {
            1 => true,
            2 if self.text.is_none() && self.seat.has_keyboard => {
                seat.get_keyboard(&handle, ());
                true
            }
            _ => false,
        };
        if asks {
            self.line.connection().display().sync(&handle, ());
            self.asked += 1;
            return Ok(());
        }
        let text = self.text.as_deref().or(self.seat.keymap.as_deref());
        let parsed = text.and_then(|text| Some((text, parse(text).ok()?)));
        let (text, keymap) = match parsed {
            Some(parsed) => parsed,
            None => (US, parse(US).map_err(LineError::Ended)?),
        };
        let (file, size) = share(text).map_err(|error| LineError::Ended(error.to_string()))?;
        let proxy = manager.create_virtual_keyboard(seat, &handle, ());
        proxy.keymap(XKB_V1, file.as_fd(), size);
        self.ready = Some(Ready {
            proxy,
            typist: Typist::new(&keymap),
            since: Instant::now(),
        });
        Ok(())
    }

    fn pass(&mut self, who: Who, event: KeyEvent) {
        match event {
            KeyEvent::Key { code, pressed } => {
                let changes = if pressed {
                    self.held.press(who, code)
                } else {
                    self.held.release(who, code)
                };
                if changes {
                    self.tell_key(code, pressed);
                }
            }
            KeyEvent::Locks { locks, group } => {
                if let Some(ready) = &mut self.ready {
                    let told = ready.typist.set_locks(locks, group);
                    ready.tell(&told);
                }
            }
        }
    }

    fn tell_key(&mut self, code: u32, pressed: bool) {
        if let Some(ready) = &mut self.ready {
            let told = ready.typist.key(code, pressed);
            ready.tell(&told);
        }
    }
}

impl Ready {
    fn tell(&self, told: &[Told]) {
        for one in told {
            match *one {
                Told::Key { code, pressed } => {
                    self.proxy
                        .key(milliseconds(self.since), code, u32::from(pressed));
                }
                Told::Modifiers(modifiers) => self.proxy.modifiers(
                    modifiers.depressed,
                    modifiers.latched,
                    modifiers.locked,
                    modifiers.group,
                ),
            }
        }
    }
}

/// A connection that can be polled.
pub trait Pollable: AsFd {
    /// What for.
    fn interest(&self) -> rustix::event::PollFlags;
}

impl<S> Pollable for Line<S> {
    fn interest(&self) -> rustix::event::PollFlags {
        self.interest()
    }
}

/// A file that holds a keymap and the zero behind it, and its bytes.
fn share(text: &str) -> std::io::Result<(OwnedFd, u32)> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING;
    let mut file = std::fs::File::from(rustix::fs::memfd_create("keymap", flags)?);
    file.write_all(text.as_bytes())?;
    file.write_all(&[0])?;
    file.seek(SeekFrom::Start(0))?;
    let size = u32::try_from(text.len() + 1).unwrap_or(u32::MAX);
    Ok((file.into(), size))
}

/// The text of a compositor's keymap, up to the zero behind it.
fn read(file: OwnedFd, size: u32) -> Option<String> {
    let size = usize::try_from(size).ok()?;
    if u64::try_from(size).ok()? > MAX_KEYMAP {
        return None;
    }
    let mut bytes = vec![0; size];
    std::fs::File::from(file)
        .read_exact_at(&mut bytes, 0)
        .ok()?;
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(size);
    bytes.truncate(end);
    String::from_utf8(bytes).ok()
}

impl Dispatch<WlRegistry, ()> for Seat {
    fn event(
        seat: &mut Self,
        registry: &WlRegistry,
        event: wl_registry::Event,
        (): &(),
        _: &Connection,
        handle: &QueueHandle<Self>,
    ) {
        let wl_registry::Event::Global {
            name, interface, ..
        } = event
        else {
            return;
        };
        if interface == WlSeat::interface().name && seat.seat.is_none() {
            seat.seat = Some(registry.bind(name, 1, handle, ()));
        } else if interface == ZwpVirtualKeyboardManagerV1::interface().name {
            seat.manager = Some(registry.bind(name, 1, handle, ()));
        }
    }
}

impl Dispatch<WlCallback, ()> for Seat {
    fn event(
        seat: &mut Self,
        _: &WlCallback,
        event: wl_callback::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let wl_callback::Event::Done { .. } = event {
            seat.syncs += 1;
        }
    }
}

impl Dispatch<WlSeat, ()> for Seat {
    fn event(
        seat: &mut Self,
        _: &WlSeat,
        event: wl_seat::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let wl_seat::Event::Capabilities {
            capabilities: WEnum::Value(capabilities),
        } = event
        {
            seat.has_keyboard = capabilities.contains(wl_seat::Capability::Keyboard);
        }
    }
}

impl Dispatch<WlKeyboard, ()> for Seat {
    fn event(
        seat: &mut Self,
        _: &WlKeyboard,
        event: wl_keyboard::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let wl_keyboard::Event::Keymap {
            format: WEnum::Value(KeymapFormat::XkbV1),
            fd,
            size,
        } = event
            && seat.keymap.is_none()
        {
            seat.keymap = read(fd, size);
        }
    }
}

delegate_noop!(Seat: ignore ZwpVirtualKeyboardManagerV1);
delegate_noop!(Seat: ignore ZwpVirtualKeyboardV1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keymap_crosses_as_a_file_with_a_zero_behind() {
        let (file, size) = share(US).expect("succeeds");
        assert_eq!(size as usize, US.len() + 1);
        assert_eq!(read(file, size).expect("is text"), US);
    }

    #[test]
    fn files_that_are_short_long_or_no_text_are_no_keymaps() {
        let (file, size) = share("xkb_keymap").expect("succeeds");
        assert_eq!(read(file, size + 1), None);
        let (file, _) = share("xkb_keymap").expect("succeeds");
        assert_eq!(read(file, u32::MAX), None);
    }
}
