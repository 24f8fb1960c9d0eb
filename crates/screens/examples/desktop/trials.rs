//! What is tried, in order.

use std::process::Command;
use std::time::{Duration, Instant};

use vmshm_channel::source::ToSource;
use vmshm_link::frames::{Frame, SourceState, Wants};
use vmshm_link::input::InputEvent;

use super::agent::{Agent, PATIENCE, Reader, size};
use super::target;

const QUIET: Duration = Duration::from_millis(1500);
const NO_POINTER: Wants = Wants { no_pointer: true };

fn said(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    output.stdout
}

fn outputs() -> String {
    let text = String::from_utf8(said("swaymsg", &["-t", "get_outputs", "-r"])).unwrap();
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    let name = |one: &serde_json::Value| {
        let mode = &one["current_mode"];
        format!(
            "{} {}x{}",
            one["name"].as_str().unwrap(),
            mode["width"],
            mode["height"]
        )
    };
    let names: Vec<_> = list.as_array().unwrap().iter().map(name).collect();
    names.join(", ")
}

/// Width, height and RGB bytes of what grim sees.
fn grim(output: &str, pointer: bool) -> (u32, u32, Vec<u8>) {
    let mut arguments = vec!["-t", "ppm", "-o", output];
    if pointer {
        arguments.push("-c");
    }
    arguments.push("-");
    let ppm = said("grim", &arguments);
    let mut fields = ppm.splitn(4, |byte| byte.is_ascii_whitespace());
    assert_eq!(fields.next().unwrap(), b"P6");
    let mut number = || {
        let text = std::str::from_utf8(fields.next().unwrap()).unwrap();
        text.parse().unwrap()
    };
    let (width, height): (u32, u32) = (number(), number());
    let rgb = ppm[ppm.len() - (width * height * 3) as usize..].to_vec();
    (width, height, rgb)
}

/// How many pixels differ.
fn differing(frame: &Frame, pixels: &[u8], grim: &(u32, u32, Vec<u8>)) -> usize {
    let (width, height, rgb) = grim;
    assert_eq!((frame.place.width, frame.place.height), (*width, *height));
    let mut count = 0;
    for (row, theirs) in rgb.chunks_exact(*width as usize * 3).enumerate() {
        let ours = &pixels[row * frame.place.stride as usize..][..*width as usize * 4];
        for (own, their) in ours.chunks_exact(4).zip(theirs.chunks_exact(3)) {
            count += usize::from([own[2], own[1], own[0]] != [their[0], their[1], their[2]]);
        }
    }
    count
}

fn compare(
    agent: &mut Agent,
    reader: &mut Reader,
    name: &str,
    last: Option<(Frame, Vec<u8>)>,
    pointer: bool,
) {
    let (frame, pixels) = reader.settle(agent, QUIET).or(last).unwrap();
    assert_eq!(frame.has_pointer, pointer);
    let theirs = grim(name, pointer);
    let differing = differing(&frame, &pixels, &theirs);
    let colours: std::collections::BTreeSet<&[u8]> = pixels.chunks_exact(4).collect();
    println!(
        "{name}: frame {} {}x{} differs from grim in {differing} pixels; {} colours; captured {} us ago when announced",
        frame.serial,
        theirs.0,
        theirs.1,
        colours.len(),
        frame.capture_nanos / 1000
    );
    assert_eq!(differing, 0);
    assert!(colours.len() > 1, "the picture is empty");
}

/// Evdev code of a character on the us layout, and whether it is shifted.
fn key(c: char) -> (u32, bool) {
    const ROWS: [(&str, &str, u32); 4] = [
        ("1234567890-=", "!@#$%^&*()_+", 2),
        ("qwertyuiop[]", "QWERTYUIOP{}", 16),
        ("asdfghjkl;'`", "ASDFGHJKL:\"~", 30),
        ("\\zxcvbnm,./", "|ZXCVBNM<>?", 43),
    ];
    for (plain, shifted, first) in ROWS {
        if let Some(index) = plain.find(c) {
            return (first + index as u32, false);
        }
        if let Some(index) = shifted.find(c) {
            return (first + index as u32, true);
        }
    }
    match c {
        ' ' => (57, false),
        '\n' => (28, false),
        '\t' => (15, false),
        _ => panic!("{c:?} is on no key"),
    }
}

pub fn press(agent: &mut Agent, screen: u64, code: u32, shifted: bool) {
    let key = |code, pressed| InputEvent::Key { code, pressed };
    let mut events = vec![key(code, true), key(code, false)];
    if shifted {
        events.insert(0, key(42, true));
        events.push(key(42, false));
    }
    agent.input(screen, 0, &events);
}

fn read_when(agent: &mut Agent, path: &str, enough: impl Fn(&str) -> bool) -> String {
    agent.until(path, |_| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        enough(&text).then_some(text)
    })
}

fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

pub fn run(socket: &str, environment: &[&str]) {
    let pair = |one: &&str| {
        let (key, value) = one.split_once('=').unwrap();
        (key.to_owned(), value.to_owned())
    };
    let environment: Vec<_> = environment.iter().map(pair).collect();
    let before = outputs();
    println!("before: {before}");
    let mut agent = Agent::start(socket, &environment, true);
    agent.until("screens", |agent| (!agent.screens.is_empty()).then_some(()));
    println!("screens: {:#?} can_add {}", agent.screens, agent.can_add);

    let start = Instant::now();
    let added = agent.add(size(1280, 720)).unwrap();
    let name = agent.by_number(added).name.clone();
    println!("added {name} in {:?}: {}", start.elapsed(), outputs());
    assert!(outputs().contains(&format!("{name} 1280x720")));
    said("swaymsg", &["focus", "output", &name]);

    // A terminal on the new output, which keeps what is typed into it.
    let typed = format!("{}/typed", std::env::var("XDG_RUNTIME_DIR").unwrap());
    let command = format!("exec foot sh -c 'echo ready >{typed}; exec cat >>{typed}'");
    said("swaymsg", &[&command]);
    read_when(&mut agent, &typed, |text| text.contains("ready"));

    agent.watch(added);
    let mut reader = agent.reader(added, 0, Wants::default());
    let last = reader.settle(&mut agent, QUIET);
    compare(&mut agent, &mut reader, &name, last.clone(), true);

    let line = "Hello, World! aB~{|}_+ \"x\" <y> 0123456789 \\ `z`;:?/@#$%^&*()\n";
    for c in line.chars() {
        let (code, shifted) = key(c);
        press(&mut agent, added, code, shifted);
    }
    let text = read_when(&mut agent, &typed, |text| text.matches('\n').count() > 1);
    println!("typed {:?}", text.strip_prefix("ready\n").unwrap());
    assert_eq!(text, format!("ready\n{line}"));
    let last = reader.settle(&mut agent, QUIET);
    let small = reader
        .damage
        .iter()
        .filter(|area| **area < 1280 * 720 / 4)
        .count();
    println!(
        "{} frames, {small} of them with less than a quarter damaged",
        reader.damage.len()
    );
    compare(&mut agent, &mut reader, &name, last, true);

    // A static screen.
    let (used_before, start) = (cpu(agent.child.id()), Instant::now());
    let newest = reader.state().newest;
    for _ in 0..50 {
        agent.pump(Duration::from_millis(100));
        reader.frames.beat().unwrap();
    }
    let (used, passed) = (cpu(agent.child.id()) - used_before, start.elapsed());
    println!(
        "static: {} frames, {used:?} of a processor in {passed:?}",
        reader.state().newest - newest
    );

    // A reader without pointer comes.
    let mut second = agent.reader(added, 5, NO_POINTER);
    let last = second.settle(&mut agent, QUIET);
    compare(&mut agent, &mut second, &name, last, false);
    agent.set_readers(added, &[0]);
    reader.settle(&mut agent, QUIET);

    clicks(&mut agent, socket, added, &name);
    modes(&mut agent, &mut reader, added, &name);

    let refused = agent.set_mode(added, size(20000, 10)).unwrap_err();
    println!("refused: {refused}");
    println!("notes: {:?}", agent.notes);

    agent.send(&ToSource::Remove { screen: added });
    // Before 1.8 sway cannot remove outputs, and the source says so.
    let removed = agent.until("removal", |agent| match agent.screen(&name) {
        None => Some(true),
        Some(_) => agent
            .notes
            .iter()
            .any(|note| note.contains("cannot be removed"))
            .then_some(false),
    });
    println!("notes: {:?}", agent.notes);
    if removed {
        assert_eq!(reader.state().source, SourceState::Gone);
    }
    println!("removed: {}", outputs());
    let again = agent.add(size(800, 600)).unwrap();
    println!("again: {} of {}", agent.by_number(again).name, outputs());
    let pid = agent.child.id();
    let mut child = std::mem::replace(&mut agent.child, Command::new("true").spawn().unwrap());
    drop(agent);
    println!("source {pid} ended: {}", child.wait().unwrap());
    println!("after: {}", outputs());
    assert_eq!(outputs(), if removed { before } else { outputs() });
    println!("ALL IS WELL");
}

fn clicks(agent: &mut Agent, socket: &str, screen: u64, name: &str) {
    let mode = agent.by_number(screen).mode;
    let mut target = target::Target::start(socket, name);
    let (width, height) = (mode.width, mode.height);
    for (x, y) in [
        (0, 0),
        (width - 1, 0),
        (0, height - 1),
        (width - 1, height - 1),
        (width / 2, height / 2),
    ] {
        let to = InputEvent::PointerTo {
            x,
            y,
            width,
            height,
        };
        let button = |pressed| InputEvent::Button {
            code: 0x110,
            pressed,
        };
        agent.input(screen, 0, &[to, button(true), button(false)]);
        let hit = target.next(agent, "press");
        println!("click at {x},{y} landed at {hit}");
        let (hit_x, hit_y) = hit.split_once(' ').unwrap();
        let near = |hit: &str, at: u32| (hit.parse::<f64>().unwrap() - f64::from(at)).abs() <= 1.0;
        assert!(near(hit_x, x) && near(hit_y, y));
    }
    let turn = |vertical| InputEvent::Wheel {
        horizontal: 0,
        vertical,
    };
    agent.input(screen, 0, &[turn(240)]);
    println!("two notches: {}", target.next(agent, "axis"));
    agent.input(screen, 0, &[turn(-30)]);
    println!("a quarter back: {}", target.next(agent, "axis"));
    agent.input(screen, 0, &[InputEvent::PointerBy { x: -2560, y: 128 }]);
    println!(
        "10 left and half a pixel down: {}",
        target.next(agent, "motion")
    );
    target.end();
}

fn modes(agent: &mut Agent, reader: &mut Reader, screen: u64, name: &str) {
    let start = Instant::now();
    let needed = agent.needed;
    let sizes = [
        (1920, 1080),
        (640, 480),
        (1000, 700),
        (2560, 1440),
        (333, 777),
        (1920, 1080),
    ];
    for (width, height) in sizes {
        agent.set_mode(screen, size(width, height)).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let last = loop {
            let last = reader.settle(agent, Duration::from_millis(300));
            let fits = |(frame, _): &(Frame, Vec<u8>)| {
                (frame.place.width, frame.place.height) == (width, height)
            };
            if last.as_ref().is_some_and(fits) {
                break last;
            }
            assert!(Instant::now() < deadline, "no picture of {width}x{height}");
        };
        compare(agent, reader, name, last, true);
    }
    println!(
        "{} modes in {:?}, {} more pixels regions, {} torn copies taken again",
        sizes.len(),
        start.elapsed(),
        agent.needed - needed,
        reader.torn
    );
}
