//! Plays the agent for input: gives a framebuffer's source what a user does, and says what the
//! system's own input devices deliver of it.
//!
//! `input /dev/fb0`, as root, where `/dev/uinput` and `/dev/input` are. It ends with an error
//! when something does not arrive.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use evdev::{Device, EventType};
use vmshm_channel::Channel;
use vmshm_channel::source::{FromSource, Kind, ToSource};
use vmshm_link::input::InputEvent;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const PATIENCE: Duration = Duration::from_secs(20);
const DEVICES: [&str; 3] = ["vmshm absolute pointer", "vmshm pointer", "vmshm keyboard"];

fn main() -> Result<(), Failure> {
    let path = std::env::args().nth(1).ok_or("input DEVICE")?;
    let (ours, theirs) = UnixStream::pair()?;
    let source = std::thread::spawn(move || -> Result<(), Failure> {
        Ok(vmshm_screens::serve(Channel::new(theirs)?)?)
    });
    let played = play(Channel::new(ours)?, &path);
    source.join().map_err(|_| "the source panicked")??;
    played
}

fn play(mut channel: Channel, path: &str) -> Result<(), Failure> {
    let start = ToSource::Start {
        kind: Kind::Framebuffer {
            device: path.to_owned(),
        },
        input: true,
    };
    channel.send(&start, None)?;
    let (first, _) = channel.next::<FromSource>(PATIENCE)?;
    let FromSource::Screens { screens, .. } = first else {
        return Err(format!("not what there is: {first:?}").into());
    };
    if !screens.iter().all(|screen| screen.input) {
        return Err("the screen takes no input".into());
    }
    let key = |code, pressed| InputEvent::Key { code, pressed };
    let button = |pressed| InputEvent::Button {
        code: 0x110,
        pressed,
    };
    // The devices come into being with the first events, which wait for whoever opens them.
    give(
        &mut channel,
        &[
            InputEvent::PointerTo {
                x: 1919,
                y: 0,
                width: 1920,
                height: 1080,
            },
            button(true),
            button(false),
            InputEvent::Wheel {
                horizontal: 0,
                vertical: 120,
            },
            InputEvent::PointerBy { x: 512, y: -256 },
            key(42, true),
            key(30, true),
        ],
    )?;
    let mut devices = open()?;
    let mut seen = collect(&mut devices, Duration::from_millis(1000))?;
    // The reader leaves with two keys down.
    channel.send(
        &ToSource::Readers {
            screen: 0,
            readers: vec![],
        },
        None,
    )?;
    seen.extend(collect(&mut devices, Duration::from_millis(500))?);
    for line in &seen {
        println!("{line}");
    }
    let repeats = seen.iter().filter(|line| line.ends_with("KEY_A 2")).count();
    println!("{repeats} repeats of the key that was held");
    for expected in [
        "absolute pointer: ABS_X 65518",
        "absolute pointer: BTN_LEFT 1",
        "absolute pointer: BTN_LEFT 0",
        "absolute pointer: REL_WHEEL -1",
        "absolute pointer: REL_WHEEL_HI_RES -120",
        "pointer: REL_X 2",
        "pointer: REL_Y -1",
        "keyboard: KEY_LEFTSHIFT 1",
        "keyboard: KEY_A 1",
        "keyboard: KEY_A 2",
        "keyboard: KEY_A 0",
        "keyboard: KEY_LEFTSHIFT 0",
    ] {
        if !seen.iter().any(|line| line == expected) {
            return Err(format!("has not arrived: {expected}").into());
        }
    }
    println!("all has arrived");
    Ok(())
}

fn give(channel: &mut Channel, events: &[InputEvent]) -> Result<(), Failure> {
    let input = ToSource::Input {
        screen: 0,
        reader: 5,
        events: events.iter().map(|event| event.to_words()).collect(),
    };
    Ok(channel.send(&input, None)?)
}

/// Opens the devices when they are there; what they are takes no time under a real desktop.
fn open() -> Result<Vec<(String, Device)>, Failure> {
    let end = Instant::now() + PATIENCE;
    let mut devices: Vec<(String, Device)> = Vec::new();
    while Instant::now() < end {
        for (_, device) in evdev::enumerate() {
            let name = device.name().unwrap_or_default().to_owned();
            let known = devices.iter().any(|(known, _)| *known == name);
            if DEVICES.contains(&name.as_str()) && !known {
                device.set_nonblocking(true)?;
                devices.push((name, device));
            }
        }
        if devices.len() == DEVICES.len() {
            return Ok(devices);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err("the devices do not come into being".into())
}

fn collect(devices: &mut [(String, Device)], time: Duration) -> Result<Vec<String>, Failure> {
    let end = Instant::now() + time;
    let mut seen = Vec::new();
    while Instant::now() < end {
        for (name, device) in devices.iter_mut() {
            let events = match device.fetch_events() {
                Ok(events) => events,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            };
            let events = events.filter(|event| event.event_type() != EventType::SYNCHRONIZATION);
            for event in events {
                let name = name.trim_start_matches("vmshm ");
                let code = match event.destructure() {
                    evdev::EventSummary::Key(_, code, _) => format!("{code:?}"),
                    evdev::EventSummary::AbsoluteAxis(_, code, _) => format!("{code:?}"),
                    evdev::EventSummary::RelativeAxis(_, code, _) => format!("{code:?}"),
                    other => format!("{other:?}"),
                };
                seen.push(format!("{name}: {code} {}", event.value()));
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(seen)
}
