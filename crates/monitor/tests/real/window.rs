//! A real window on an X server of its own, looked at and used as its user would.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use vmshm_channel::Size;
use vmshm_channel::sink::{Condition, FromMonitor, Scaling, Sink, ToMonitor};
use vmshm_link::frames::Rectangle;
use vmshm_link::input::InputEvent;
use x11rb::connection::Connection;
use x11rb::protocol::xproto::{
    AtomEnum, ClientMessageEvent, ConfigureWindowAux, ConnectionExt as _, EventMask, ImageFormat,
    InputFocus, Keycode, Window,
};
use x11rb::protocol::xtest::ConnectionExt as _;
use x11rb::rust_connection::RustConnection;

use crate::material::{Display, Guest, Monitor, PATIENCE, pattern};

const KEY_PRESS: u8 = 2;
const KEY_RELEASE: u8 = 3;
const BUTTON_PRESS: u8 = 4;
const BUTTON_RELEASE: u8 = 5;
const MOTION: u8 = 6;

/// An X server without a screen.
pub struct Server {
    child: Child,
    pub display: String,
    connection: RustConnection,
    root: Window,
}

impl Server {
    /// Nothing without Xvfb, which is said.
    pub fn start() -> Option<Self> {
        Self::start_with_screen("1280x1024x24")
    }

    pub fn start_with_screen(screen: &str) -> Option<Self> {
        let started = Command::new("Xvfb")
            .args(["-displayfd", "1", "-screen", "0", screen])
            .args(["-nolisten", "tcp"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut child) = started else {
            eprintln!("SKIPPED: Xvfb is not installed (apt-get install xvfb)");
            return None;
        };
        let mut number = String::new();
        let mut output = child.stdout.take().expect("is piped");
        let mut byte = [0];
        while output.read_exact(&mut byte).is_ok() && byte != *b"\n" {
            number.push(char::from(byte[0]));
        }
        let display = format!(":{number}");
        let (connection, screen) = x11rb::connect(Some(&display)).expect("succeeds");
        let root = connection.setup().roots[screen].root;
        Some(Self {
            child,
            display,
            connection,
            root,
        })
    }

    /// The monitor's window and its title, when there is one whose title contains `part`.
    fn window(&self, part: &str) -> Window {
        until("the window", || {
            let tree = self.connection.query_tree(self.root).ok()?.reply().ok()?;
            let mut windows = tree.children.into_iter();
            windows.find(|window| self.title(*window).contains(part))
        })
    }

    fn title(&self, window: Window) -> String {
        let property =
            self.connection
                .get_property(false, window, AtomEnum::WM_NAME, AtomEnum::ANY, 0, 1000);
        let reply = property.ok().and_then(|property| property.reply().ok());
        let bytes = reply.map(|reply| reply.value).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn pixels(&self, window: Window) -> Option<((u32, u32), Vec<u32>)> {
        let place = self.connection.get_geometry(window).ok()?.reply().ok()?;
        let (width, height) = (place.width, place.height);
        let image = self
            .connection
            .get_image(ImageFormat::Z_PIXMAP, window, 0, 0, width, height, !0)
            .ok()?
            .reply()
            .ok()?;
        let pixels = image.data.as_chunks::<4>().0.iter();
        let pixels = pixels.map(|pixel| u32::from_le_bytes(*pixel) & 0x00ff_ffff);
        Some(((width.into(), height.into()), pixels.collect()))
    }

    /// Waits until the window shows exactly this.
    fn wait_for(
        &self,
        what: &str,
        window: Window,
        size: (u32, u32),
        wanted: impl Fn(u32, u32) -> u32,
    ) {
        let places = (0..size.1).flat_map(|y| (0..size.0).map(move |x| (x, y)));
        let wanted: Vec<u32> = places.map(|(x, y)| wanted(x, y) & 0x00ff_ffff).collect();
        until(what, || {
            let (now, pixels) = self.pixels(window)?;
            (now == size && pixels == wanted).then_some(())
        });
    }

    fn focus(&self, window: Window) {
        let focused = self
            .connection
            .set_input_focus(InputFocus::PARENT, window, 0_u32);
        focused.expect("succeeds").check().expect("succeeds");
    }

    fn fake(&self, kind: u8, detail: u8, x: i16, y: i16) {
        let faked = self
            .connection
            .xtest_fake_input(kind, detail, 0, self.root, x, y, 0);
        faked.expect("succeeds").check().expect("succeeds");
    }

    /// The key with this symbol; without one: a key without any.
    fn keycode(&self, keysym: Option<u32>) -> Keycode {
        let setup = self.connection.setup();
        let (first, last) = (setup.min_keycode, setup.max_keycode);
        let mapping = self
            .connection
            .get_keyboard_mapping(first, last - first + 1);
        let mapping = mapping.expect("succeeds").reply().expect("succeeds");
        let per_key = usize::from(mapping.keysyms_per_keycode);
        let mut keys = mapping.keysyms.chunks(per_key);
        let index = keys.position(|keysyms| match keysym {
            Some(keysym) => keysyms.contains(&keysym),
            None => keysyms.iter().all(|keysym| *keysym == 0),
        });
        first + u8::try_from(index.expect("is mapped")).expect("fits")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not seen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn window_sink(follow: bool) -> Sink {
    Sink::Window {
        fullscreen: false,
        scaling: Scaling::Integer,
        follow,
    }
}

/// Input events up to the one that is wanted.
fn events_until(monitor: &mut Monitor, wanted: InputEvent) -> Vec<InputEvent> {
    let mut seen = Vec::new();
    loop {
        if let FromMonitor::Input { events } = monitor.next() {
            seen.extend(events.into_iter().filter_map(InputEvent::from_words));
            if seen.contains(&wanted) {
                return seen;
            }
        }
    }
}

#[test]
fn the_window_shows_the_guests_pixels() {
    let Some(server) = Server::start() else {
        return;
    };
    let mut guest = Guest::new(5, 320, 240);
    let mut monitor = Monitor::start(window_sink(false), None, Display::X11(&server.display));
    let keymap = monitor.ready().expect("an X server has a keymap");
    assert!(keymap.starts_with("xkb_keymap {"), "{keymap}");
    let window = server.window("a-vm - waiting for the first picture");
    monitor.give_screen(&guest);
    guest.publish(pattern, false);
    monitor.attach(&guest);
    // The window takes the mode's size, and shows it as it is.
    server.wait_for("the picture", window, (320, 240), pattern);
    assert_eq!(server.title(window), "a-vm - HEADLESS-1 320x240 - running");
    guest.wait_for(1);

    // Only a part is said to have changed, and only that is shown.
    let part = Rectangle {
        x: 100,
        y: 50,
        width: 30,
        height: 20,
    };
    let inside = |x: u32, y: u32| (100..130).contains(&x) && (50..70).contains(&y);
    guest.publish_part(|x, y| !pattern(x, y), false, part);
    server.wait_for("the part", window, (320, 240), |x, y| {
        if inside(x, y) {
            !pattern(x, y)
        } else {
            pattern(x, y)
        }
    });

    // Twice as large, with a border.
    let larger = ConfigureWindowAux::new().width(700).height(500);
    server
        .connection
        .configure_window(window, &larger)
        .expect("succeeds");
    server.connection.flush().expect("succeeds");
    guest.publish(|x, y| x | y << 8, false);
    server.wait_for("squares", window, (700, 500), |x, y| {
        match (x.checked_sub(30), y.checked_sub(10)) {
            (Some(x), Some(y)) if x < 640 && y < 480 => (x / 2) | (y / 2) << 8,
            _ => 0,
        }
    });
    let resized = FromMonitor::Resized {
        size: Size {
            width: 700,
            height: 500,
            refresh_millihertz: 0,
        },
    };
    while monitor.next() != resized {}

    // A note over the dimmed picture.
    let trouble = ToMonitor::Condition(Condition::Trouble {
        message: "the VM is paused".to_owned(),
    });
    monitor.channel.send(&trouble, None).expect("succeeds");
    until("the note", || {
        let (_, pixels) = server.pixels(window)?;
        let corner = pixels.get(100 * 700 + 100)?;
        (*corner == (35 | 45 << 8) >> 1 & 0x007f_7f7f).then_some(())
    });
    assert!(server.title(window).contains("the VM is paused"));
    let well = ToMonitor::Condition(Condition::Running);
    monitor.channel.send(&well, None).expect("succeeds");
    until("no note", || {
        let (_, pixels) = server.pixels(window)?;
        (*pixels.get(100 * 700 + 100)? == (35 | 45 << 8)).then_some(())
    });
    monitor.end();
}

#[test]
fn what_the_user_does_arrives_as_it_was_done() {
    let Some(server) = Server::start() else {
        return;
    };
    let mut guest = Guest::new(5, 320, 240);
    let mut monitor = Monitor::start(window_sink(true), None, Display::X11(&server.display));
    monitor.ready();
    monitor.give_screen(&guest);
    guest.publish(pattern, false);
    monitor.attach(&guest);
    let window = server.window("320x240 - running");
    server.wait_for("the picture", window, (320, 240), pattern);
    server.focus(window);
    let place = server
        .connection
        .translate_coordinates(window, server.root, 0, 0);
    let place = place.expect("succeeds").reply().expect("succeeds");
    let corners = [(0, 0), (319, 0), (0, 239), (319, 239), (160, 120)];
    for (x, y) in corners {
        server.fake(MOTION, 0, place.dst_x + x, place.dst_y + y);
        server.fake(BUTTON_PRESS, 1, 0, 0);
        server.fake(BUTTON_RELEASE, 1, 0, 0);
        let released = InputEvent::Button {
            code: 0x110,
            pressed: false,
        };
        let seen = events_until(&mut monitor, released);
        let pointer = seen.iter().rev().find_map(|event| match event {
            InputEvent::PointerTo { x, y, .. } => Some((*x, *y)),
            _ => None,
        });
        let wanted = (
            u32::try_from(x).expect("fits"),
            u32::try_from(y).expect("fits"),
        );
        assert_eq!(pointer, Some(wanted));
    }
    // The wheel, downwards.
    server.fake(BUTTON_PRESS, 5, 0, 0);
    server.fake(BUTTON_RELEASE, 5, 0, 0);
    let wheel = InputEvent::Wheel {
        horizontal: 0,
        vertical: 120,
    };
    events_until(&mut monitor, wheel);
    // Keys: codes of the keymap that was sent, which is the X server's less 8.
    for keysym in [u32::from(b'a'), 0xffe1, 0xff0d] {
        let key = server.keycode(Some(keysym));
        server.fake(KEY_PRESS, key, 0, 0);
        server.fake(KEY_RELEASE, key, 0, 0);
        let code = u32::from(key) - 8;
        let released = InputEvent::Key {
            code,
            pressed: false,
        };
        let seen = events_until(&mut monitor, released);
        let pressed = InputEvent::Key {
            code,
            pressed: true,
        };
        assert!(seen.contains(&pressed), "{seen:?}");
    }
    // The keymap changes as xdotool changes it, and is sent before the key.
    let spare = server.keycode(None);
    let snowman = 0x0100_2603;
    let changed = server
        .connection
        .change_keyboard_mapping(1, spare, 1, &[snowman]);
    changed.expect("succeeds").check().expect("succeeds");
    std::thread::sleep(Duration::from_millis(100));
    server.fake(KEY_PRESS, spare, 0, 0);
    server.fake(KEY_RELEASE, spare, 0, 0);
    loop {
        match monitor.next() {
            FromMonitor::Keymap { text } => {
                assert!(text.contains("U2603"));
                break;
            }
            FromMonitor::Input { events } => {
                let key = InputEvent::Key {
                    code: u32::from(spare) - 8,
                    pressed: true,
                };
                assert!(!events.contains(&key.to_words()), "the key came first");
            }
            _ => {}
        }
    }
    events_until(
        &mut monitor,
        InputEvent::Key {
            code: u32::from(spare) - 8,
            pressed: false,
        },
    );
    // The focus goes while a key is held.
    let key = server.keycode(Some(u32::from(b'b')));
    server.fake(KEY_PRESS, key, 0, 0);
    events_until(
        &mut monitor,
        InputEvent::Key {
            code: u32::from(key) - 8,
            pressed: true,
        },
    );
    server.focus(server.root);
    events_until(&mut monitor, InputEvent::ReleaseAll);
    server.fake(KEY_RELEASE, key, 0, 0);
    monitor.end();
}

#[test]
fn closing_the_window_is_told_and_ends_it() {
    let Some(server) = Server::start() else {
        return;
    };
    let mut monitor = Monitor::start(window_sink(false), None, Display::X11(&server.display));
    monitor.ready();
    let window = server.window("a-vm");
    let atom = |name: &[u8]| {
        let atom = server.connection.intern_atom(false, name);
        atom.expect("succeeds").reply().expect("succeeds").atom
    };
    let protocols = atom(b"WM_PROTOCOLS");
    let message = [atom(b"WM_DELETE_WINDOW"), 0, 0, 0, 0];
    let event = ClientMessageEvent::new(32, window, protocols, message);
    let sent = server
        .connection
        .send_event(false, window, EventMask::NO_EVENT, event);
    sent.expect("succeeds").check().expect("succeeds");
    while monitor.next() != FromMonitor::Closed {}
    // Nobody answers; it ends all the same.
    assert!(monitor.child.wait().expect("succeeds").success());
}
