//! `display` against a process that plays a guest with screens, and a monitor that is played
//! here: what arrives is what was drawn, by either method, and after whatever happened.
#![cfg(target_os = "linux")]
#![allow(
    clippy::expect_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod played;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use played::{Player, ROLE, agent};
use vmshm_channel::sink::{Condition, FromMonitor, Run, Scaling, Sink, ToMonitor};
use vmshm_channel::{Channel, Size};
use vmshm_host::display::{Choice, Display, DisplayError, DisplayOptions, Event, Target, list};
use vmshm_host::{AttachOptions, attach, machines};
use vmshm_link::frames::{Damage, FrameReader, Mode, Wants};
use vmshm_link::input::InputEvent;
use vmshm_ram::Method;
use vmshm_shm::{Mapping, Piece, Protection, SharedMemory};

/// As long as a slow machine may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);
const SMALL: Mode = Mode {
    width: 90,
    height: 40,
    refresh_millihertz: 0,
};

/// Not a test of its own: what the other processes do.
#[test]
fn role() {
    if std::env::var(ROLE).as_deref() == Ok("guest") {
        agent::play();
    }
}

fn guest() -> Player {
    let mut guest = Player::start("guest");
    for name in ["PLAYED-1", "PLAYED-2"] {
        guest.tell(&format!("screen plug {name}"));
    }
    guest
}

fn window(follow: bool) -> Sink {
    Sink::Window {
        fullscreen: false,
        scaling: Scaling::Integer,
        follow,
    }
}

fn options(choice: Choice, sink: Sink, method: Method) -> DisplayOptions {
    DisplayOptions {
        choice,
        mode: None,
        sink,
        input: true,
        stats_every: Duration::ZERO,
        stats_overlay: false,
        relayed: false,
        attach: AttachOptions {
            method,
            timeout: PATIENCE,
            ..AttachOptions::default()
        },
        picture_within: PATIENCE,
    }
}

fn map(file: &OwnedFd, runs: &[Run], protection: Protection) -> Mapping {
    let pieces: Vec<_> = runs
        .iter()
        .map(|run| Piece {
            offset: run.offset,
            length: run.length,
        })
        .collect();
    Mapping::new(file, &pieces, protection).expect("mapped")
}

fn checksum(picture: &[u8]) -> String {
    let sum = picture
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum: u64, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
    sum.to_string()
}

/// A display, and the monitor that it talks to.
struct Stand {
    display: Display,
    channel: Channel,
    _never: UnixStream,
    wake: UnixStream,
    frames: Option<FrameReader<Mapping>>,
    pixels: Option<(u64, Mapping)>,
    asked: Option<u64>,
    picture: Vec<u8>,
    size: (u32, u32),
    /// How often frames were handed over.
    attached: usize,
    screen: Option<(String, Size, Result<(), String>)>,
    condition: Option<Condition>,
    troubles: Vec<String>,
    refused: Vec<String>,
    ended: bool,
}

impl Stand {
    fn start(guest: &Player, options: DisplayOptions) -> Self {
        let vmm = machines::find(&guest.name()).expect("it runs");
        let session = attach(&vmm, &options.attach).expect("attached");
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (wake, never) = UnixStream::pair().expect("a pair");
        let channel = Channel::new(ours).expect("a channel");
        let target = Target::new(&guest.name(), &vmm);
        let picture = match &options.sink {
            Sink::Picture { .. } => Some(std::fs::File::open("/dev/null").expect("opened")),
            _ => None,
        };
        let picture = picture.as_ref().map(AsFd::as_fd);
        let display = Display::start(session, target, options, channel, picture);
        let mut stand = Self {
            display: display.expect("started"),
            channel: Channel::new(theirs).expect("a channel"),
            _never: never,
            wake,
            frames: None,
            pixels: None,
            asked: None,
            picture: Vec::new(),
            size: (0, 0),
            attached: 0,
            screen: None,
            condition: None,
            troubles: Vec::new(),
            refused: Vec::new(),
            ended: false,
        };
        let first = stand.channel.next::<ToMonitor>(PATIENCE).expect("a start");
        assert!(matches!(first.0, ToMonitor::Start { .. }));
        stand.say(&FromMonitor::Ready {
            confinement: "none".to_owned(),
            keymap: Some("xkb_keymap { }".repeat(500)),
        });
        stand
    }

    fn say(&mut self, message: &FromMonitor) {
        self.channel.send(message, None).expect("sent");
    }

    /// Both sides do what there is to do.
    fn turn(&mut self) -> Result<(), DisplayError> {
        for event in self.display.turn(self.wake.as_fd())? {
            match event {
                Event::Trouble(message) => self.troubles.push(message),
                Event::ModeRefused(message) => self.refused.push(message),
                _ => {}
            }
        }
        while let Ok(Some((message, file))) = self.channel.receive::<ToMonitor>() {
            self.take(message, file);
        }
        self.look();
        Ok(())
    }

    fn take(&mut self, message: ToMonitor, file: Option<OwnedFd>) {
        match message {
            ToMonitor::Frames { runs, reader } => {
                let memory = map(&file.expect("a file"), &runs, Protection::ReadWrite);
                let frames = FrameReader::new(memory, reader, Wants::default());
                self.frames = Some(frames.expect("frames"));
                (self.pixels, self.asked) = (None, None);
                self.attached += 1;
            }
            ToMonitor::Pixels { region, runs } => {
                let memory = map(&file.expect("a file"), &runs, Protection::Read);
                self.pixels = Some((region, memory));
            }
            ToMonitor::NoPixels { .. } => self.asked = None,
            ToMonitor::Screen { name, mode, input } => self.screen = Some((name, mode, input)),
            ToMonitor::Condition(condition) => self.condition = Some(condition),
            ToMonitor::End => self.ended = true,
            ToMonitor::Start { .. } => panic!("a second start"),
        }
    }

    /// Takes the newest frame in, if it can be.
    fn look(&mut self) {
        let Some(frames) = &mut self.frames else {
            return;
        };
        frames.beat().expect("written");
        let look = match frames.look() {
            Ok(Some(look)) => look,
            Ok(None) => return,
            Err(error) => {
                self.frames = None;
                let message = error.to_string();
                return self.say(&FromMonitor::BadGuest { message });
            }
        };
        let place = look.frame.place;
        let pixels = self.pixels.as_ref().filter(|one| one.0 == place.region);
        let Some((_, pixels)) = pixels else {
            frames.let_go().expect("written");
            let region = place.region;
            if self.asked != Some(region) {
                self.asked = Some(region);
                if let Some((old, _)) = self.pixels.take() {
                    self.say(&FromMonitor::DroppedPixels { region: old });
                }
                self.say(&FromMonitor::WantPixels { region });
            }
            return;
        };
        place.check(pixels.size()).expect("inside");
        if self.size != (place.width, place.height) {
            self.size = (place.width, place.height);
            self.picture = vec![0; (place.width * place.height * 4) as usize];
        }
        let whole = Damage::whole(place.width, place.height);
        for part in look.damage.unwrap_or(whole).rectangles() {
            for row in part.y..part.y + part.height {
                let at = ((row * place.width + part.x) * 4) as usize;
                let into = &mut self.picture[at..at + (part.width * 4) as usize];
                let from = place.offset + u64::from(row * place.stride + part.x * 4);
                pixels.read(from, into).expect("inside");
            }
        }
        if frames.is_whole(&look.frame).expect("good") {
            frames.acknowledge(&look.frame).expect("written");
        }
    }

    fn until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(
                start.elapsed() < PATIENCE,
                "it never came: {:?}",
                self.troubles
            );
            self.turn().expect("it goes on");
        }
    }

    fn until_shown(&mut self, sum: &str) {
        self.until(|stand| checksum(&stand.picture) == sum);
    }

    fn fails(&mut self) -> DisplayError {
        let start = Instant::now();
        loop {
            if let Err(error) = self.turn() {
                return error;
            }
            assert!(start.elapsed() < PATIENCE, "it goes on");
        }
    }
}

#[test]
fn screens_are_listed_with_what_they_can() {
    let guest = guest();
    let vmm = machines::find(&guest.name()).expect("it runs");
    let options = AttachOptions {
        timeout: PATIENCE,
        ..AttachOptions::default()
    };
    let mut session = attach(&vmm, &options).expect("attached");
    let listing = list(&mut session, PATIENCE).expect("listed");
    let names: Vec<_> = listing
        .screens
        .iter()
        .map(|one| one.name.as_str())
        .collect();
    assert_eq!(names, ["PLAYED-1", "PLAYED-2"]);
    let first = &listing.screens[0];
    assert_eq!((first.mode.width, first.mode.height), (120, 70));
    assert_eq!(
        (first.scale_thousandths, first.source.as_str()),
        (1500, "player")
    );
    assert!(first.abilities.input && first.abilities.set_mode && !first.abilities.added);
}

#[test]
fn what_is_drawn_is_shown_by_either_method_whatever_is_damaged() {
    for (method, relayed) in [
        (Method::Map, false),
        (Method::Copy, false),
        (Method::Map, true),
    ] {
        let mut guest = guest();
        let mut options = options(Choice::Listed(1), window(false), method);
        options.relayed = relayed;
        let mut stand = Stand::start(&guest, options);
        stand.until(|stand| stand.attached == 1);
        let first = guest.tell("screen checksum 1");
        stand.until_shown(&first);
        let (name, mode, input) = stand.screen.clone().expect("told");
        assert_eq!((name.as_str(), input), ("PLAYED-2", Ok(())));
        assert_eq!((mode.width, mode.height), (120, 70));
        for round in 0..40 {
            if round % 10 == 9 {
                guest.tell("screen replace 1");
            }
            let sum = guest.tell("screen draw 1");
            stand.until_shown(&sum);
        }
        // What was shown is acknowledged.
        stand.until(|_| guest.tell("screen acknowledged 1") == "true");
        let copied = stand.display.relay_counts().copied_bytes;
        assert_eq!(copied > 0, relayed || method == Method::Copy);
        assert_eq!(stand.condition, Some(Condition::Running));
        assert_eq!((stand.attached, stand.troubles.len()), (1, 0));
        stand.display.close();
        let state = guest.tell("state");
        assert!(!state.contains("screen-"), "nothing is watched: {state}");
    }
}

#[test]
fn a_screen_that_was_added_goes_with_the_display() {
    let mut guest = guest();
    let added = Choice::Added(SMALL);
    let mut stand = Stand::start(&guest, options(added, window(false), Method::Auto));
    stand.until(|stand| stand.size == (90, 40));
    assert_eq!(guest.tell("screen names"), "PLAYED-1,PLAYED-2,ADDED-3");
    stand.say(&FromMonitor::Closed);
    let mut closed = false;
    while !closed {
        let events = stand.display.turn(stand.wake.as_fd()).expect("it goes on");
        closed = events.iter().any(|event| matches!(event, Event::Closed));
    }
    stand.display.close();
    assert_eq!(guest.tell("screen names"), "PLAYED-1,PLAYED-2");
    let last = stand.channel.next::<ToMonitor>(PATIENCE).expect("an end");
    assert_eq!(last.0, ToMonitor::End);
}

#[test]
fn a_display_that_is_dropped_without_a_word_leaves_nothing_behind() {
    let mut guest = guest();
    let added = Choice::Added(SMALL);
    let mut stand = Stand::start(&guest, options(added, window(false), Method::Auto));
    stand.until(|stand| stand.size == (90, 40));
    drop(stand);
    let start = Instant::now();
    while guest.tell("screen names") != "PLAYED-1,PLAYED-2" {
        assert!(start.elapsed() < PATIENCE, "it stays plugged in");
    }
}

#[test]
fn input_and_the_keymap_reach_the_guest_in_order() {
    let mut guest = guest();
    let mut stand = Stand::start(
        &guest,
        options(Choice::Listed(0), window(false), Method::Auto),
    );
    stand.until(|stand| stand.attached == 1);
    let keymap = checksum("xkb_keymap { }".repeat(500).as_bytes());
    stand.until(|_| guest.tell("screen keymap") == keymap);
    let keys = (0..200_u32).map(|index| InputEvent::Key {
        code: index / 2,
        pressed: index % 2 == 0,
    });
    let events: Vec<InputEvent> = keys.collect();
    let words = events.iter().map(|event| event.to_words()).collect();
    stand.say(&FromMonitor::Input { events: words });
    // An event of a newer version is passed over.
    stand.say(&FromMonitor::Input {
        events: vec![[99, 1, 2], InputEvent::ReleaseAll.to_words()],
    });
    let mut seen = String::new();
    stand.until(|_| {
        seen.push_str(&guest.tell("screen events"));
        seen.ends_with("ReleaseAll")
    });
    let mut expected: Vec<String> = events.iter().map(|event| format!("{event:?}")).collect();
    expected.push("ReleaseAll".to_owned());
    assert_eq!(seen.replace(';', ""), expected.concat());
}

#[test]
fn input_that_the_guest_forbids_is_told_and_not_sent() {
    let mut guest = guest();
    guest.tell("screen forbids-input");
    let mut stand = Stand::start(
        &guest,
        options(Choice::Listed(0), window(false), Method::Auto),
    );
    stand.until(|stand| stand.attached == 1);
    let input = stand.screen.clone().expect("told").2;
    assert_eq!(input, Err("the guest forbids input".to_owned()));
    stand.say(&FromMonitor::Input {
        events: vec![InputEvent::ReleaseAll.to_words()],
    });
    let sum = guest.tell("screen draw 0");
    stand.until_shown(&sum);
    assert_eq!(guest.tell("screen events"), "");
}

#[test]
fn the_mode_follows_the_window_and_a_refused_one_is_told_once() {
    let mut guest = guest();
    let mut stand = Stand::start(
        &guest,
        options(Choice::Listed(0), window(true), Method::Auto),
    );
    stand.until(|stand| stand.size == (120, 70));
    let resized = |width, height| FromMonitor::Resized {
        size: Size {
            width,
            height,
            refresh_millihertz: 0,
        },
    };
    stand.say(&resized(200, 100));
    stand.until(|stand| stand.size == (200, 100));
    assert_eq!(guest.tell("screen mode 0"), "200x100");
    for width in [300, 301, 302] {
        stand.say(&resized(width, 100));
        // Once the guest has this, it has answered what was asked before.
        let words = vec![InputEvent::ReleaseAll.to_words()];
        stand.say(&FromMonitor::Input { events: words });
        stand.until(|_| guest.tell("screen events") == "ReleaseAll");
        stand.turn().expect("it goes on");
    }
    stand.say(&resized(77, 33));
    stand.until(|stand| stand.size == (77, 33));
    assert_eq!(stand.refused, ["the player will not"]);
    let mode = stand.screen.clone().expect("told").1;
    assert_eq!((mode.width, mode.height), (77, 33));
}

#[test]
fn an_agent_that_dies_and_a_guest_that_reboots_are_found_again() {
    for (method, order) in [
        (Method::Map, "die"),
        (Method::Copy, "die"),
        (Method::Map, "reboot"),
        (Method::Copy, "reboot"),
    ] {
        let mut guest = guest();
        let mut stand = Stand::start(&guest, options(Choice::Listed(1), window(false), method));
        stand.until(|stand| stand.attached == 1);
        let sum = guest.tell("screen checksum 1");
        stand.until_shown(&sum);
        guest.tell(order);
        stand.until(|stand| !stand.troubles.is_empty());
        assert!(matches!(stand.condition, Some(Condition::Trouble { .. })));
        if order == "die" {
            guest.tell("restart");
        }
        stand.until(|stand| stand.attached == 2);
        let sum = guest.tell("screen draw 1");
        stand.until_shown(&sum);
        stand.until(|stand| stand.condition == Some(Condition::Running));
    }
}

#[test]
fn what_was_added_is_added_again_after_a_reboot() {
    let mut guest = guest();
    let added = Choice::Added(SMALL);
    let mut stand = Stand::start(&guest, options(added, window(false), Method::Auto));
    stand.until(|stand| stand.size == (90, 40));
    guest.tell("reboot");
    stand.until(|stand| stand.attached == 2);
    stand.until(|stand| stand.condition == Some(Condition::Running));
    assert_eq!(guest.tell("screen names"), "PLAYED-1,PLAYED-2,ADDED-4");
    assert_eq!(guest.tell("screen mode 2"), "90x40");
}

#[test]
fn a_screen_that_goes_and_comes_is_shown_again_under_its_name() {
    let mut guest = guest();
    let mut stand = Stand::start(
        &guest,
        options(Choice::Listed(0), window(false), Method::Auto),
    );
    stand.until(|stand| stand.size == (120, 70));
    guest.tell("screen unplug 0");
    stand.until(|stand| !stand.troubles.is_empty());
    assert_eq!(stand.troubles[0], "the screen PLAYED-1 is gone");
    // It comes back at another place of the list.
    guest.tell("screen plug PLAYED-1");
    stand.until(|stand| stand.attached == 2);
    let sum = guest.tell("screen draw 1");
    stand.until_shown(&sum);
    assert_eq!(stand.screen.clone().expect("told").0, "PLAYED-1");
}

#[test]
fn frames_that_cannot_be_are_trouble_and_the_end_of_a_picture() {
    for method in [Method::Map, Method::Copy] {
        let mut guest = guest();
        let mut stand = Stand::start(&guest, options(Choice::Listed(0), window(false), method));
        stand.until(|stand| stand.size == (120, 70));
        guest.tell("screen nonsense 0");
        stand.until(|stand| !stand.troubles.is_empty());
        let trouble = &stand.troubles[0];
        assert!(
            trouble.starts_with("the guest sends no valid frames"),
            "{trouble}"
        );
        stand.until(|stand| stand.attached == 2);
        drop(stand);
        let picture = Sink::Picture { size: None };
        let mut stand = Stand::start(&guest, options(Choice::Listed(1), picture, method));
        stand.until(|stand| stand.attached == 1);
        guest.tell("screen nonsense 1");
        let error = stand.fails();
        assert!(matches!(error, DisplayError::BadFrames(_)), "{error:?}");
    }
}

#[test]
fn refusals_say_what_would_help() {
    let mut guest = guest();
    let fails = |guest: &Player, choice, mode| {
        let mut options = options(choice, window(false), Method::Auto);
        options.mode = mode;
        let error = Stand::start(guest, options).fails();
        format!("{error}; {}", error.hint().unwrap_or_default())
    };
    let text = fails(&guest, Choice::Listed(7), None);
    assert!(text.contains("`--list` shows"), "{text}");
    let huge = Mode {
        width: 9999,
        ..SMALL
    };
    let text = fails(&guest, Choice::Listed(0), Some(huge));
    assert!(
        text.ends_with("it can have 100x50@60, 200x100@60, other sizes"),
        "{text}"
    );
    guest.tell("screen adds-nothing");
    let text = fails(&guest, Choice::Added(SMALL), None);
    assert!(
        text.ends_with("`--screen N` shows an existing screen"),
        "{text}"
    );
    guest.tell("screen old");
    for choice in [Choice::Listed(0), Choice::TestCard, Choice::Added(SMALL)] {
        let text = fails(&guest, choice, None);
        assert!(text.contains("knows no screens; update"), "{text}");
    }
}

#[test]
fn a_monitor_that_ends_and_one_that_fails_end_the_display() {
    let guest = guest();
    let options = || options(Choice::Listed(0), window(false), Method::Auto);
    let mut stand = Stand::start(&guest, options());
    stand.say(&FromMonitor::Failed {
        message: "no display".to_owned(),
        hint: Some("--screenshot needs none".to_owned()),
    });
    let error = stand.fails();
    assert_eq!(error.to_string(), "no display");
    assert_eq!(error.hint().as_deref(), Some("--screenshot needs none"));
    let mut stand = Stand::start(&guest, options());
    stand.until(|stand| stand.attached == 1);
    let (one, _other) = UnixStream::pair().expect("a pair");
    stand.channel = Channel::new(one).expect("a channel");
    stand.frames = None;
    let error = stand.fails();
    assert!(matches!(error, DisplayError::MonitorGone), "{error:?}");
}

#[test]
fn a_picture_that_never_comes_is_given_up() {
    let guest = guest();
    let picture = Sink::Picture { size: None };
    let mut options = options(Choice::Listed(0), picture, Method::Auto);
    options.picture_within = Duration::from_millis(300);
    let error = Stand::start(&guest, options).fails();
    assert!(matches!(error, DisplayError::NoPicture { .. }), "{error:?}");
}

#[test]
fn several_displays_show_one_screen_and_others_at_the_same_time() {
    let mut guest = guest();
    let mut stands =
        [(0, Method::Map), (0, Method::Copy), (1, Method::Map)].map(|(number, method)| {
            Stand::start(
                &guest,
                options(Choice::Listed(number), window(false), method),
            )
        });
    for stand in &mut stands {
        stand.until(|stand| stand.attached == 1);
    }
    for _ in 0..10 {
        let sums = [0, 1].map(|number| guest.tell(&format!("screen draw {number}")));
        for (index, stand) in stands.iter_mut().enumerate() {
            stand.until_shown(&sums[index / 2]);
        }
    }
    let [first, second, third] = stands;
    first.display.close();
    let sum = guest.tell("screen draw 0");
    let mut second = second;
    second.until_shown(&sum);
    drop(third);
}

#[test]
fn the_last_words_of_a_monitor_are_heard_before_its_end() {
    let guest = guest();
    let options = options(
        Choice::Listed(0),
        Sink::Picture { size: None },
        Method::Auto,
    );
    let mut stand = Stand::start(&guest, options);
    stand
        .channel
        .send(&FromMonitor::PictureDone, None)
        .expect("sent");
    let (gone, _) = UnixStream::pair().expect("a pair");
    drop(std::mem::replace(
        &mut stand.channel,
        Channel::new(gone).expect("a channel"),
    ));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let events = stand.display.turn(stand.wake.as_fd()).expect("heard first");
        if events
            .iter()
            .any(|event| matches!(event, Event::PictureDone))
        {
            break;
        }
        assert!(Instant::now() < deadline);
    }
}
