//! A real window on a Wayland compositor of its own: sway without a screen, looked at by grim.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use vmshm_channel::sink::{FromMonitor, Scaling, Sink};

use vmshm_link::input::InputEvent;

use crate::material::{Display, Guest, Monitor, PATIENCE, pattern};

/// sway refuses to run as root.
const NOBODY: u32 = 65534;

struct Compositor {
    child: Child,
    directory: PathBuf,
}

impl Compositor {
    /// Nothing without sway and grim, which is said.
    fn start() -> Option<Self> {
        let is_there = |program: &str| {
            let asked = Command::new(program).arg("-h").output();
            asked.is_ok()
        };
        if !is_there("sway") || !is_there("grim") {
            eprintln!("SKIPPED: sway and grim are not installed (apt-get install sway grim)");
            return None;
        }
        let name = format!("vmshm-monitor-wayland-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir(&directory).expect("succeeds");
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(&directory, private).expect("succeeds");
        let config = directory.join("config");
        std::fs::write(&config, "default_border none\n").expect("succeeds");
        let mut command = Command::new("sway");
        if rustix::process::geteuid().is_root() {
            chown(&directory, Some(NOBODY), Some(NOBODY)).expect("succeeds");
            command.uid(NOBODY).gid(NOBODY);
        }
        let child = command
            .arg("-c")
            .arg(&config)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &directory)
            .env("XDG_RUNTIME_DIR", &directory)
            .env("WLR_BACKENDS", "headless")
            .env("WLR_RENDERER", "pixman")
            .env("WLR_LIBINPUT_NO_DEVICES", "1")
            .current_dir(&directory)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let compositor = Self { child, directory };
        let deadline = Instant::now() + PATIENCE;
        while compositor.shot().is_none() {
            assert!(Instant::now() < deadline, "sway does not come up");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(compositor)
    }

    /// What its output shows: its size, and red, green and blue of each pixel.
    fn shot(&self) -> Option<((usize, usize), Vec<u8>)> {
        let taken = Command::new("grim")
            .args(["-t", "ppm", "-"])
            .env("XDG_RUNTIME_DIR", &self.directory)
            .env("WAYLAND_DISPLAY", "wayland-1")
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let mut rest = taken.stdout.as_slice();
        let mut words = Vec::new();
        while words.len() < 4 {
            let end = rest.iter().position(u8::is_ascii_whitespace)?;
            words.push(String::from_utf8_lossy(&rest[..end]).into_owned());
            rest = &rest[end + 1..];
        }
        let number = |index: usize| words[index].parse::<usize>().ok();
        Some(((number(1)?, number(2)?), rest.to_vec()))
    }
}

impl Drop for Compositor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn the_window_shows_the_guests_pixels_on_wayland() {
    let Some(compositor) = Compositor::start() else {
        return;
    };
    let mut guest = Guest::new(5, 320, 240);
    let sink = Sink::Window {
        fullscreen: false,
        scaling: Scaling::Integer,
        follow: false,
    };
    let display = Display::Wayland(&compositor.directory);
    let mut monitor = Monitor::start(sink, None, display);
    let keymap = monitor.ready();
    eprintln!("keymap: {} bytes", keymap.map_or(0, |text| text.len()));
    monitor.give_screen(&guest);
    guest.publish(pattern, false);
    monitor.attach(&guest);
    // sway gives the window all of its output.
    let resized = loop {
        if let FromMonitor::Resized { size } = monitor.next() {
            break (size.width as usize, size.height as usize);
        }
    };
    for round in 0..20 {
        let picture = |x: u32, y: u32| pattern(x + round, y);
        guest.publish(picture, false);
        guest.wait_for(u64::from(round) + 2);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (size, pixels) = compositor.shot().expect("succeeds");
            assert_eq!(size, resized);
            if shows(&pixels, size, picture) {
                break;
            }
            assert!(Instant::now() < deadline, "the picture is not seen");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    typed_text_comes_with_its_keymap(&compositor, &mut monitor);
    monitor.end();
}

/// wtype brings a keyboard with a keymap of its own, made for the text. It waits until the window
/// knows the keyboard.
fn typed_text_comes_with_its_keymap(compositor: &Compositor, monitor: &mut Monitor) {
    let typed = Command::new("wtype")
        .args(["-s", "1000", "-d", "50", "aB\u{20ac}"])
        .env("XDG_RUNTIME_DIR", &compositor.directory)
        .env("WAYLAND_DISPLAY", "wayland-1")
        .status();
    if typed.is_err() {
        eprintln!("SKIPPED: wtype is not installed (apt-get install wtype)");
        return;
    }
    let (mut keymap, mut presses) = (None, 0);
    while presses < 3 {
        match monitor.next() {
            FromMonitor::Keymap { text } => keymap = Some(text),
            FromMonitor::Input { events } => {
                for event in events.into_iter().filter_map(InputEvent::from_words) {
                    if let InputEvent::Key { pressed: true, .. } = event {
                        assert!(keymap.is_some(), "a key came before its keymap");
                        presses += 1;
                    }
                }
            }
            _ => {}
        }
    }
    assert!(keymap.is_some_and(|text| text.contains("EuroSign")));
}

/// Whether a picture of 320x240 fills the output by whole numbers, with black around it.
fn shows(pixels: &[u8], size: (usize, usize), picture: impl Fn(u32, u32) -> u32) -> bool {
    let times = (size.0 / 320).min(size.1 / 240);
    let (left, top) = ((size.0 - 320 * times) / 2, (size.1 - 240 * times) / 2);
    let part = |place: usize, from: usize, count: usize| {
        let place = place.checked_sub(from)? / times;
        (place < count).then(|| u32::try_from(place).expect("fits"))
    };
    pixels.chunks_exact(3).enumerate().all(|(index, rgb)| {
        let (x, y) = (index % size.0, index / size.0);
        let wanted = match (part(x, left, 320), part(y, top, 240)) {
            (Some(x), Some(y)) => picture(x, y),
            _ => 0,
        };
        let [blue, green, red, _] = wanted.to_le_bytes();
        rgb == [red, green, blue]
    })
}
