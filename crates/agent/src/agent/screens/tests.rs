//! What hosts get of screens whose sources behave.

use std::os::fd::AsFd;

use vmshm_channel::source::{FromSource, Kind, PixelMemory, ToSource};
use vmshm_link::control::{RefusalCode, Reply, Request};
use vmshm_link::directory::{RegionKind, regions};
use vmshm_link::fields::Text;
use vmshm_link::frames::{FRAMES_SIZE, FrameReader, FrameWriter, SourceState, Wants};
use vmshm_link::input::InputEvent;
use vmshm_link::screens::{Events, KeymapPart, ScreenRequest, TEST_CARD};
use vmshm_shm::{Mapping, Protection};

use super::super::simulation::{MIB, region};
use super::stage::{SIZE, Stage, about, as_screen, mode, sway};
use super::{Findings, Offer};

const PIXELS: PixelMemory = PixelMemory::Pinned { size: MIB };

#[test]
fn screens_are_listed_compositors_first_once_all_have_answered() {
    let mut findings = sway();
    findings.framebuffers.push("/dev/fb0".to_owned());
    let mut stage = Stage::new(Offer::ALL, findings);
    let mut host = stage.host(3);
    host.send(&Request::Screen(ScreenRequest::Describe { number: 1 }));
    let (mut sway, mut device) = (stage.source(), stage.source());
    assert!(matches!(sway.kind, Kind::Wlroots { .. }) && sway.input);
    assert_eq!(sway.user, Some((1000, 100)));
    assert_eq!((device.user, host.receive()), (None, None));
    device.list(&["fb0"]);
    stage.turn();
    assert_eq!(host.receive(), None, "sway has not answered");
    sway.list(&["HEADLESS-1"]);
    let second = as_screen(stage.reply(&mut host));
    assert_eq!((second.name.as_str(), second.total), ("fb0", 2));
    let first = stage.screen(&mut host, ScreenRequest::Describe { number: 0 });
    assert_eq!(first.name.as_str(), "HEADLESS-1");
    assert_ne!(first.screen, second.screen);
    assert!(first.abilities.input && !first.abilities.input_forbidden);
    let beyond = stage.refused(&mut host, ScreenRequest::Describe { number: 2 });
    assert_eq!(beyond, RefusalCode::NotFound);
    let modes = ScreenRequest::Modes {
        screen: first.screen,
        first: 0,
    };
    match stage.ask(&mut host, modes) {
        Reply::Modes(list) => assert!(list.any_size && list.modes() == [mode(1280, 720)]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_guest_without_a_desktop_says_what_it_has() {
    let findings = Findings {
        others: vec!["GNOME on Xorg".to_owned()],
        ..Findings::default()
    };
    let mut stage = Stage::new(Offer::ALL, findings);
    let mut host = stage.host(0);
    let add = ScreenRequest::Add {
        mode: mode(800, 600),
    };
    match stage.ask(&mut host, add) {
        Reply::Refused { code, explanation } => {
            assert_eq!(code, RefusalCode::Unable);
            assert_eq!(
                explanation.as_str(),
                "adding a monitor needs a wlroots compositor; found: GNOME on Xorg"
            );
        }
        other => panic!("{other:?}"),
    }
    let empty = stage.refused(&mut host, ScreenRequest::Describe { number: 0 });
    assert_eq!(empty, RefusalCode::NotFound);
}

#[test]
fn frames_are_proved_handed_to_the_source_and_end_with_the_last_reader() {
    let mut stage = Stage::with_sway();
    let (mut first, mut second) = (stage.host(2), stage.host(5));
    let mut source = stage.sway_with(&mut first, &["HEADLESS-1"]);
    let screen = stage
        .screen(&mut first, ScreenRequest::Describe { number: 0 })
        .screen;
    let made = region(stage.ask(&mut first, ScreenRequest::Watch { screen }));
    assert!(!made.ready && made.size == FRAMES_SIZE);
    assert!(source.hears_nothing(&mut stage), "not proved yet");
    // Another one waits until the pages are proved.
    second.send(&Request::Screen(ScreenRequest::Watch { screen }));
    stage.turn();
    assert_eq!(second.receive(), None);
    first.prove(&mut stage.service, made.region);
    let (frames, readers) = source.watched(&mut stage);
    let seen = region(stage.reply(&mut second));
    assert!(seen.ready && seen.region == made.region);
    let readers = if readers == [2] {
        source.readers(&mut stage)
    } else {
        readers
    };
    assert_eq!(readers, [2, 5]);
    let names: Vec<_> = regions(&*stage.guest.directory())
        .map(|entry| entry.expect("an entry"))
        .map(|entry| (entry.kind, entry.name.as_str().to_owned()))
        .collect();
    assert_eq!(names, [(RegionKind::Frames, format!("screen-{screen}"))]);
    let memory = Mapping::whole(frames.as_fd(), FRAMES_SIZE, Protection::ReadWrite);
    FrameWriter::resume(memory.expect("maps")).expect("a frames region");

    // Who leaves may still write: the pages stay until he closes.
    assert_eq!(
        stage.ask(&mut second, ScreenRequest::Leave { screen }),
        Reply::Done
    );
    assert_eq!(source.readers(&mut stage), [2]);
    first.slot.release().expect("released");
    assert_eq!(source.hear(&mut stage), ToSource::Unwatch { screen: 1 });
    assert!(stage.guest.holds(made.region));
    let close = Request::Close {
        region: made.region,
    };
    second.send(&close);
    assert_eq!(stage.reply(&mut second), Reply::Done);
    assert!(stage.guest.frees(made.region));
}

#[test]
fn pixels_are_had_by_watchers_only_and_replaced() {
    let mut stage = Stage::with_sway();
    let (mut host, mut other) = (stage.host(0), stage.host(1));
    let mut source = stage.sway_with(&mut host, &["HEADLESS-1"]);
    assert!(source.pixels(&mut stage, 1, PIXELS).is_err(), "unwatched");
    let screen = stage
        .screen(&mut host, ScreenRequest::Describe { number: 0 })
        .screen;
    stage.watch(&mut host, screen);
    source.watched(&mut stage);
    let (pixels, file) = source.pixels(&mut stage, 1, PIXELS).expect("memory");
    assert!(file.is_some());
    let hold = ScreenRequest::Pixels { region: pixels };
    let held = region(stage.ask(&mut host, hold));
    assert!(held.ready && held.size == MIB);
    assert_eq!(
        stage.refused(&mut other, hold),
        RefusalCode::NotFound,
        "it watches nothing"
    );
    source.say(&FromSource::PixelsInUse {
        screen: 1,
        region: pixels,
    });
    // Too large for the guest's limit: the old one stays.
    let huge = PixelMemory::Pinned { size: 1 << 40 };
    assert!(source.pixels(&mut stage, 1, huge).is_err());
    assert!(stage.guest.holds(pixels));
    let (next, _) = source.pixels(&mut stage, 1, PIXELS).expect("memory");
    source.say(&FromSource::PixelsInUse {
        screen: 1,
        region: next,
    });
    stage.turn();
    assert_eq!(stage.refused(&mut host, hold), RefusalCode::NotFound);
    assert!(stage.guest.holds(pixels), "the host has it mapped");
    host.send(&Request::Close { region: pixels });
    assert_eq!(stage.reply(&mut host), Reply::Done);
    assert!(stage.guest.frees(pixels));
    // A region that was never used goes when another is asked for.
    let (unused, _) = source.pixels(&mut stage, 1, PIXELS).expect("memory");
    let (last, _) = source.pixels(&mut stage, 1, PIXELS).expect("memory");
    assert!(stage.guest.frees(unused) && stage.guest.holds(next));
    host.slot.release().expect("released");
    stage.turn();
    assert!(stage.guest.frees(last) && stage.guest.frees(next));
}

#[test]
fn only_a_framebuffer_gets_the_memory_of_its_own_device() {
    let mut findings = sway();
    findings.framebuffers = vec!["/dev/fb0".to_owned(), "/dev/fb1".to_owned()];
    let mut stage = Stage::new(Offer::ALL, findings);
    let mut host = stage.host(0);
    host.send(&Request::Screen(ScreenRequest::Describe { number: 0 }));
    let mut sources = [stage.source(), stage.source(), stage.source()];
    for source in &mut sources {
        source.list(&["X-1"]);
    }
    stage.reply(&mut host);
    for (number, source) in sources.iter_mut().enumerate() {
        let number = number as u64;
        let screen = stage.screen(&mut host, ScreenRequest::Describe { number });
        stage.watch(&mut host, screen.screen);
        source.watched(&mut stage);
    }
    let [sway, first, second] = &mut sources;
    let memory = |device: &str| PixelMemory::Device {
        device: device.to_owned(),
        size: 64 * MIB,
    };
    assert!(sway.pixels(&mut stage, 1, memory("/dev/fb0")).is_err());
    assert!(second.pixels(&mut stage, 1, memory("/dev/fb0")).is_err());
    // The guest's limit is about pinned memory. Its pages are the source's already.
    let (_, file) = first
        .pixels(&mut stage, 1, memory("/dev/fb0"))
        .expect("memory");
    assert!(file.is_none());
    // The keeper knows no frames of this one.
    let refused = second.pixels(&mut stage, 1, memory("/dev/fb1"));
    assert!(refused.expect_err("refused").contains("no pages"));
}

#[test]
fn an_added_screen_goes_with_its_session() {
    let mut stage = Stage::with_sway();
    let mut other = stage.host(0);
    let mut source = stage.sway_with(&mut other, &["HEADLESS-1"]);
    for (number, way) in [(2, "release"), (3, "leave"), (4, "silence")] {
        let mut host = stage.host(usize::try_from(number).expect("small"));
        let wanted = mode(1920, 1080);
        host.send(&Request::Screen(ScreenRequest::Add { mode: wanted }));
        let ToSource::Add { request, mode } = source.hear(&mut stage) else {
            panic!("Add is expected");
        };
        assert_eq!((mode.width, mode.height), (1920, 1080));
        let mut added = about(number, "HEADLESS-2");
        added.added = true;
        source.say(&FromSource::Screens {
            screens: vec![about(1, "HEADLESS-1"), added],
            can_add: true,
        });
        source.say(&FromSource::Added {
            request,
            screen: number,
        });
        let screen = as_screen(stage.reply(&mut host));
        assert!(screen.abilities.added && screen.total == 2);
        match way {
            "release" => host.slot.release().expect("released"),
            "leave" => {
                let screen = screen.screen;
                let left = stage.ask(&mut host, ScreenRequest::Leave { screen });
                assert_eq!(left, Reply::Done);
            }
            // Nobody beats for the host.
            _ => {
                for _ in 0..super::looks(11) {
                    super::super::sessions::look_at_all(&mut stage.service.sessions)
                        .expect("looks");
                }
            }
        }
        stage.turn();
        let removed = ToSource::Remove { screen: number };
        assert_eq!(source.hear(&mut stage), removed, "by {way}");
        let first = stage.screen(&mut other, ScreenRequest::Describe { number: 0 });
        assert_eq!(first.total, 1, "it is not listed any more");
        source.list(&["HEADLESS-1"]);
        stage.turn();
    }
}

#[test]
fn modes_are_set_one_after_the_other_and_the_last_one_counts() {
    let mut stage = Stage::with_sway();
    let mut hosts = [stage.host(0), stage.host(1), stage.host(2)];
    let mut source = stage.sway_with(&mut hosts[0], &["HEADLESS-1"]);
    let screen = stage
        .screen(&mut hosts[0], ScreenRequest::Describe { number: 0 })
        .screen;
    for (host, width) in hosts.iter_mut().zip([800, 900, 1000]) {
        let mode = mode(width, 600);
        host.send(&Request::Screen(ScreenRequest::SetMode { screen, mode }));
        stage.turn();
    }
    // Those who came too early are told what there is.
    let [first, second, third] = &mut hosts;
    for host in [first, second] {
        let now = as_screen(stage.reply(host));
        assert_eq!(now.mode, mode(1280, 720));
    }
    let ToSource::SetMode { request, mode, .. } = source.hear(&mut stage) else {
        panic!("SetMode is expected");
    };
    assert_eq!(mode.width, 800);
    assert!(source.hears_nothing(&mut stage));
    source.say(&FromSource::ModeSet { request });
    let ToSource::SetMode { request, mode, .. } = source.hear(&mut stage) else {
        panic!("SetMode is expected");
    };
    assert_eq!(mode.width, 1000);
    source.say(&FromSource::Refused {
        request,
        message: "it can have 1280x720".to_owned(),
    });
    match stage.reply(third) {
        Reply::Refused { code, explanation } => {
            assert_eq!(code, RefusalCode::Unable);
            assert_eq!(explanation.as_str(), "it can have 1280x720");
        }
        other => panic!("{other:?}"),
    }
    // What it has already needs no source.
    let same = ScreenRequest::SetMode {
        screen,
        mode: vmshm_link::frames::Mode {
            refresh_millihertz: 0,
            width: SIZE.width,
            height: SIZE.height,
        },
    };
    stage.screen(third, same);
    assert!(source.hears_nothing(&mut stage));
}

#[test]
fn input_and_keymaps_reach_the_source_of_a_watched_screen() {
    let mut stage = Stage::with_sway();
    let mut host = stage.host(4);
    let mut source = stage.sway_with(&mut host, &["HEADLESS-1"]);
    let screen = stage
        .screen(&mut host, ScreenRequest::Describe { number: 0 })
        .screen;
    let key = InputEvent::Key {
        code: 30,
        pressed: true,
    };
    let input = Request::Screen(ScreenRequest::Input {
        screen,
        events: Events::new(&[key]),
    });
    host.send(&input);
    assert!(source.hears_nothing(&mut stage), "it does not watch");
    stage.watch(&mut host, screen);
    source.watched(&mut stage);
    let text = "x".repeat(500);
    for offset in [0, 400] {
        let part = text.as_bytes().get(offset..).expect("a part");
        let reply = stage.ask(
            &mut host,
            ScreenRequest::Keymap {
                screen,
                total: 500,
                offset: offset as u64,
                part: KeymapPart::new(part),
            },
        );
        assert_eq!(reply, Reply::Done);
    }
    host.send(&input);
    let keymap = source.hear(&mut stage);
    assert!(matches!(keymap, ToSource::Keymap { reader: 4, text: t, .. } if t == text));
    match source.hear(&mut stage) {
        ToSource::Input {
            screen: 1,
            reader: 4,
            events,
        } => assert_eq!(events, [key.to_words()]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_guest_that_forbids_input_or_screens_says_so() {
    let offer = Offer {
        screens: true,
        input: false,
    };
    let mut stage = Stage::new(offer, sway());
    let mut host = stage.host(0);
    let mut source = stage.sway_with(&mut host, &["HEADLESS-1"]);
    assert!(!source.input);
    let found = stage.screen(&mut host, ScreenRequest::Describe { number: 0 });
    assert!(found.abilities.input_forbidden && !found.abilities.input);
    let screen = found.screen;
    stage.watch(&mut host, screen);
    source.watched(&mut stage);
    host.send(&Request::Screen(ScreenRequest::Input {
        screen,
        events: Events::new(&[InputEvent::ReleaseAll]),
    }));
    let keymap = ScreenRequest::Keymap {
        screen,
        total: 1,
        offset: 0,
        part: KeymapPart::new(b"x"),
    };
    assert_eq!(stage.refused(&mut host, keymap), RefusalCode::Forbidden);
    assert!(source.hears_nothing(&mut stage));

    let mut stage = Stage::new(Offer::NONE, sway());
    let mut host = stage.host(0);
    for request in [
        ScreenRequest::Describe { number: 0 },
        ScreenRequest::Describe { number: TEST_CARD },
        ScreenRequest::Watch { screen: 1 },
        ScreenRequest::Leave { screen: 1 },
    ] {
        assert_eq!(stage.refused(&mut host, request), RefusalCode::Forbidden);
    }
    assert!(stage.starts_nothing());
}

#[test]
fn the_test_card_is_there_when_asked_for_and_goes_when_nobody_looks() {
    let mut stage = Stage::with_sway();
    let mut host = stage.host(0);
    host.send(&Request::Screen(ScreenRequest::Describe {
        number: TEST_CARD,
    }));
    let mut card = stage.source();
    if card.kind != Kind::TestCard {
        card = stage.source();
    }
    card.list(&["test-card"]);
    let found = as_screen(stage.reply(&mut host));
    assert_eq!((found.screen, found.total), (TEST_CARD, 0));
    stage.watch(&mut host, TEST_CARD);
    card.watched(&mut stage);
    stage.pass(30);
    host.slot.release().expect("released");
    assert_eq!(card.hear(&mut stage), ToSource::Unwatch { screen: 1 });
    stage.pass(12);
    assert!(card.channel.receive::<ToSource>().is_err(), "it may end");
}

#[test]
fn the_memory_of_screens_is_had_by_watching_alone() {
    let mut stage = Stage::with_sway();
    let (mut host, mut other) = (stage.host(0), stage.host(1));
    let mut source = stage.sway_with(&mut host, &["HEADLESS-1"]);
    let screen = stage
        .screen(&mut host, ScreenRequest::Describe { number: 0 })
        .screen;
    let frames = stage.watch(&mut host, screen);
    let (file, _) = source.watched(&mut stage);
    let name = Text::new(&format!("screen-{screen}"));
    for kind in [RegionKind::Frames, RegionKind::Pixels, RegionKind::Raw] {
        other.send(&Request::Open {
            kind,
            size: 0,
            name,
        });
        let reply = stage.reply(&mut other);
        assert!(matches!(
            reply,
            Reply::Refused {
                code: RefusalCode::WrongKind,
                ..
            }
        ));
    }
    other.send(&Request::Remove { name });
    assert!(matches!(stage.reply(&mut other), Reply::Refused { .. }));
    other.send(&Request::Create {
        kind: RegionKind::Frames,
        size: FRAMES_SIZE,
        name: Text::new("mine"),
    });
    assert!(matches!(stage.reply(&mut other), Reply::Refused { .. }));
    // A host looks at it as the source leaves it.
    let memory = Mapping::whole(file.as_fd(), FRAMES_SIZE, Protection::ReadWrite);
    let writer = FrameWriter::resume(memory.expect("maps")).expect("a frames region");
    writer.set_state(SourceState::Live).expect("set");
    let memory = stage.guest.map(frames.region, FRAMES_SIZE);
    assert!(FrameReader::new(memory, 0, Wants::default()).is_ok());
}
