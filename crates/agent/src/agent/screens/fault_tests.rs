//! Sources that die, lie, hang or do not read, and hosts that ask too much.

use std::os::fd::AsFd;

use vmshm_channel::source::{FromSource, PixelMemory, ToSource};
use vmshm_link::control::{RefusalCode, Reply, Request};
use vmshm_link::directory::regions;
use vmshm_link::frames::{FRAMES_SIZE, FrameReader, FrameWriter, SourceState, Wants};
use vmshm_link::input::InputEvent;
use vmshm_link::screens::{Events, KEYMAP_PART, KeymapPart, ScreenRequest};
use vmshm_shm::{Mapping, Protection};

use super::super::simulation::{Host, MIB};
use super::stage::{Source, Stage, about, as_screen, mode, sway};
use super::{Findings, MAX_ADDED, Offer, SCREENS_PER_SOURCE, looks};

const PIXELS: PixelMemory = PixelMemory::Pinned { size: MIB };

/// A host that watches sway's only output.
fn watching(stage: &mut Stage) -> (Host, Source, u64, u64) {
    let mut host = stage.host(0);
    let mut source = stage.sway_with(&mut host, &["HEADLESS-1"]);
    let describe = ScreenRequest::Describe { number: 0 };
    let screen = stage.screen(&mut host, describe).screen;
    let frames = stage.watch(&mut host, screen).region;
    let (file, _) = source.watched(stage);
    let memory = Mapping::whole(file.as_fd(), FRAMES_SIZE, Protection::ReadWrite);
    let writer = FrameWriter::resume(memory.expect("maps")).expect("frames");
    writer.set_state(SourceState::Live).expect("set");
    (host, source, screen, frames)
}

fn state(stage: &Stage, frames: u64) -> SourceState {
    let memory = stage.guest.map(frames, FRAMES_SIZE);
    let reader = FrameReader::new(memory, 0, Wants::default()).expect("frames");
    reader.state().expect("a state").source
}

#[test]
fn a_screen_that_returns_with_a_new_process_is_the_same() {
    let mut stage = Stage::with_sway();
    let (mut host, mut source, screen, frames) = watching(&mut stage);
    let (pixels, _) = source.pixels(&mut stage, 1, PIXELS).expect("memory");
    let part = KeymapPart::new(b"keys");
    let keymap = ScreenRequest::Keymap {
        screen,
        total: 4,
        offset: 0,
        part,
    };
    assert_eq!(stage.ask(&mut host, keymap), Reply::Done);
    drop(source);
    stage.turn();
    assert_eq!(state(&stage, frames), SourceState::Gone);
    let gone = stage.refused(&mut host, ScreenRequest::Describe { number: 0 });
    assert_eq!(gone, RefusalCode::NotFound);
    assert!(stage.starts_nothing(), "not at once");
    stage.pass(2);
    let mut source = stage.source();
    // Its numbers are another process's.
    source.say(&FromSource::Screens {
        screens: vec![about(8, "HEADLESS-9"), about(9, "HEADLESS-1")],
        can_add: true,
    });
    let (_, readers) = source.watched(&mut stage);
    assert_eq!(readers, [0]);
    assert!(matches!(
        source.hear(&mut stage),
        ToSource::Keymap { screen: 9, text, .. } if text == "keys"
    ));
    let back = stage.screen(&mut host, ScreenRequest::Describe { number: 1 });
    assert_eq!((back.screen, back.name.as_str()), (screen, "HEADLESS-1"));
    let (next, _) = source.pixels(&mut stage, 9, PIXELS).expect("memory");
    assert_ne!(next, pixels);
}

#[test]
fn a_compositor_that_ends_and_starts_anew_brings_added_screens_back() {
    for name in ["HEADLESS-2", "HEADLESS-7"] {
        an_added_screen_comes_back_as(name);
    }
}

fn an_added_screen_comes_back_as(name: &str) {
    let mut stage = Stage::with_sway();
    let mut host = stage.host(0);
    let mut source = stage.sway_with(&mut host, &["HEADLESS-1"]);
    let add = Request::Screen(ScreenRequest::Add {
        mode: mode(1280, 720),
    });
    host.send(&add);
    let ToSource::Add { request, .. } = source.hear(&mut stage) else {
        panic!("Add is expected");
    };
    source.list(&["HEADLESS-1", "HEADLESS-2"]);
    source.say(&FromSource::Added { request, screen: 2 });
    let screen = as_screen(stage.reply(&mut host)).screen;
    let frames = stage.watch(&mut host, screen).region;
    let (file, _) = source.watched(&mut stage);
    let memory = Mapping::whole(file.as_fd(), FRAMES_SIZE, Protection::ReadWrite);
    FrameWriter::resume(memory.expect("maps")).expect("frames");
    // The compositor ends, and with it its process.
    let found = std::mem::take(&mut *stage.findings.lock().expect("not poisoned"));
    source.say(&FromSource::Failed {
        message: "sway has ended".to_owned(),
        hint: None,
    });
    drop(source);
    stage.turn();
    assert_eq!(state(&stage, frames), SourceState::Gone);
    *stage.findings.lock().expect("not poisoned") = found;
    stage.pass(2);
    let mut source = stage.source();
    source.list(&["HEADLESS-1"]);
    let ToSource::Add { request, .. } = source.hear(&mut stage) else {
        panic!("Add is expected");
    };
    // It may be called otherwise this time.
    source.list(&["HEADLESS-1", name]);
    source.say(&FromSource::Added { request, screen: 2 });
    let (_, readers) = source.watched(&mut stage);
    assert_eq!(readers, [0]);
    let back = stage.screen(&mut host, ScreenRequest::Describe { number: 1 });
    assert_eq!((back.screen, back.total), (screen, 2));
    // It still belongs to who added it.
    host.slot.release().expect("released");
    let last = [source.hear(&mut stage), source.hear(&mut stage)];
    assert!(last.contains(&ToSource::Remove { screen: 2 }), "{last:?}");
}

#[test]
fn processes_that_fail_are_started_ever_less_often_and_only_while_somebody_cares() {
    let mut stage = Stage::with_sway();
    let (host, mut source, ..) = watching(&mut stage);
    let mut starts = 0;
    for _ in 0..looks(120) {
        drop(source);
        stage.service.look_at_screens().expect("looks");
        stage.turn();
        source = if stage.starts_nothing() {
            continue_without(&mut stage)
        } else {
            starts += 1;
            stage.source()
        };
    }
    assert!((4..=9).contains(&starts), "{starts} starts in two minutes");
    host.slot.release().expect("released");
    stage.turn();
    drop(source);
    stage.pass(15);
    while !stage.starts_nothing() {
        drop(stage.source());
    }
    stage.pass(120);
    assert!(stage.starts_nothing(), "nobody cares");
}

/// Stands for no process.
fn continue_without(_: &mut Stage) -> Source {
    let (one, _) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
    Source {
        channel: vmshm_channel::Channel::new(one).expect("a channel"),
        kind: vmshm_channel::source::Kind::TestCard,
        user: None,
        input: false,
    }
}

#[test]
fn a_session_that_falls_silent_reads_no_more_until_it_is_heard() {
    let mut stage = Stage::with_sway();
    let (mut host, mut source, ..) = watching(&mut stage);
    for _ in 0..looks(6) {
        super::super::sessions::look_at_all(&mut stage.service.sessions).expect("looks");
    }
    assert_eq!(source.readers(&mut stage), Vec::<usize>::new());
    assert!(source.hears_nothing(&mut stage), "it is not unwatched");
    host.slot.beat().expect("beats");
    super::super::sessions::look_at_all(&mut stage.service.sessions).expect("looks");
    assert_eq!(source.readers(&mut stage), [0]);
}

#[test]
fn an_output_that_vanishes_is_gone_and_its_memory_stays_for_whoever_holds_it() {
    let mut stage = Stage::with_sway();
    let (mut host, mut source, screen, frames) = watching(&mut stage);
    source.list(&[]);
    stage.turn();
    assert_eq!(state(&stage, frames), SourceState::Gone);
    assert!(stage.guest.holds(frames));
    for request in [
        ScreenRequest::SetMode {
            screen,
            mode: mode(1, 1),
        },
        ScreenRequest::Modes { screen, first: 0 },
    ] {
        assert_eq!(stage.refused(&mut host, request), RefusalCode::NotFound);
    }
    host.slot.release().expect("released");
    stage.turn();
    assert!(stage.guest.frees(frames));
    assert!(stage.service.screens.book.is_empty());
}

#[test]
fn a_source_that_lies_harms_nobody() {
    let mut stage = Stage::with_sway();
    let (mut host, mut source, screen, _) = watching(&mut stage);
    for message in [
        FromSource::PixelsInUse {
            screen: 1,
            region: 1,
        },
        FromSource::PixelsInUse {
            screen: 77,
            region: 2,
        },
        FromSource::Added {
            request: 1,
            screen: 1,
        },
        FromSource::ModeSet { request: u64::MAX },
        FromSource::Refused {
            request: 3,
            message: "x".repeat(100_000),
        },
        FromSource::Note {
            message: "\u{1b}[2J".to_owned(),
        },
    ] {
        source.say(&message);
    }
    for size in [0, 1, u64::MAX] {
        let memory = PixelMemory::Pinned { size };
        let made = source.pixels(&mut stage, 1, memory);
        assert_eq!(made.is_ok(), size == 1, "{size}");
    }
    // Far too many screens, absurd ones, and one number twice.
    let mut screens: Vec<_> = (1..500).map(|n| about(n, &"x".repeat(200))).collect();
    screens[0].name = "HEADLESS-1".to_owned();
    screens[1].mode.width = 0;
    screens[2].mode.height = u32::MAX;
    screens[4].screen = 1;
    source.say(&FromSource::Screens {
        screens,
        can_add: false,
    });
    let listed = stage.screen(&mut host, ScreenRequest::Describe { number: 0 });
    assert_eq!(listed.screen, screen);
    assert!(listed.total <= SCREENS_PER_SOURCE as u64);
    assert!(stage.service.screens.book.len() <= SCREENS_PER_SOURCE);
    // Asking for memory again and again leaves no more than one that is not in use.
    for _ in 0..100 {
        source.pixels(&mut stage, 1, PIXELS).expect("memory");
    }
    stage.turn();
    assert!(regions(&*stage.guest.directory()).count() <= 2);
    // Nothing that it says reaches a terminal as it is.
    let info = stage.service.screens.info();
    assert!(!format!("{info:?}").contains('\u{1b}'));
    // What is no message ends it.
    let garbage = std::iter::repeat_n(0xff_u8, 64).collect::<Vec<_>>();
    rustix::net::send(&source.channel, &garbage, rustix::net::SendFlags::NOSIGNAL).expect("sent");
    let gone = stage.until(|stage| {
        let host = &mut host;
        host.send(&Request::Screen(ScreenRequest::Describe { number: 0 }));
        match stage.reply(host) {
            Reply::Refused { code, .. } => Some(code),
            _ => None,
        }
    });
    assert_eq!(gone, RefusalCode::NotFound);
}

#[test]
fn a_source_that_does_not_read_is_given_up() {
    let mut stage = Stage::with_sway();
    let (mut host, source, screen, _) = watching(&mut stage);
    let moves: Vec<InputEvent> = (0..18)
        .map(|code| InputEvent::Key {
            code,
            pressed: true,
        })
        .collect();
    for _ in 0..20_000 {
        host.send(&Request::Screen(ScreenRequest::Input {
            screen,
            events: Events::new(&moves),
        }));
        stage.turn();
    }
    // Its keymaps pile up until hosts are told to wait.
    let mut busy = false;
    for round in 0..4 {
        for offset in (0..256_u64 << 10).step_by(KEYMAP_PART) {
            let left = usize::try_from((256 << 10) - offset).expect("small");
            let text = vec![b'a' + round; left.min(KEYMAP_PART)];
            let keymap = ScreenRequest::Keymap {
                screen,
                total: 256 << 10,
                offset,
                part: KeymapPart::new(&text),
            };
            match stage.ask(&mut host, keymap) {
                Reply::Done => {}
                Reply::Refused { code, .. } => {
                    assert_eq!(code, RefusalCode::Busy);
                    busy = true;
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(busy);
    let backlog = stage.service.screens.sources.values().next();
    assert!(backlog.is_some_and(|source| source.backlog() < 2 << 20));
    stage.pass(32);
    let mut next = stage.source();
    next.list(&["HEADLESS-1"]);
    next.watched(&mut stage);
    drop(source);
}

#[test]
fn a_process_that_says_nothing_is_not_waited_for() {
    let mut stage = Stage::with_sway();
    let mut host = stage.host(0);
    host.send(&Request::Screen(ScreenRequest::Describe { number: 0 }));
    let silent = stage.source();
    stage.pass(5);
    assert!(matches!(
        stage.reply(&mut host),
        Reply::Refused {
            code: RefusalCode::NotFound,
            ..
        }
    ));
    host.send(&Request::Screen(ScreenRequest::Add { mode: mode(8, 8) }));
    stage.pass(12);
    match stage.reply(&mut host) {
        Reply::Refused { code, explanation } => {
            assert_eq!(code, RefusalCode::Unable);
            assert!(explanation.as_str().contains("sway"), "{explanation:?}");
        }
        other => panic!("{other:?}"),
    }
    drop(silent);
}

#[test]
fn hosts_that_add_and_change_modes_without_end_get_no_further() {
    let mut stage = Stage::with_sway();
    let mut host = stage.host(0);
    let mut source = stage.sway_with(&mut host, &["HEADLESS-1"]);
    let mut outputs = vec![about(1, "HEADLESS-1")];
    let add = ScreenRequest::Add { mode: mode(80, 60) };
    for number in 2.. {
        host.send(&Request::Screen(add));
        if outputs.len() > MAX_ADDED {
            assert!(matches!(stage.reply(&mut host), Reply::Refused { .. }));
            break;
        }
        let ToSource::Add { request, .. } = source.hear(&mut stage) else {
            panic!("Add is expected");
        };
        outputs.push(about(number, &format!("HEADLESS-{number}")));
        source.say(&FromSource::Screens {
            screens: outputs.clone(),
            can_add: true,
        });
        let screen = number;
        source.say(&FromSource::Added { request, screen });
        as_screen(stage.reply(&mut host));
    }
    // An answer that comes too late is undone.
    let mut other = stage.host(1);
    let unplug = stage.screen(&mut host, ScreenRequest::Describe { number: 1 });
    let screen = unplug.screen;
    assert_eq!(
        stage.ask(&mut host, ScreenRequest::Leave { screen }),
        Reply::Done
    );
    assert_eq!(source.hear(&mut stage), ToSource::Remove { screen: 2 });
    outputs.remove(1);
    source.say(&FromSource::Screens {
        screens: outputs.clone(),
        can_add: true,
    });
    stage.turn();
    other.send(&Request::Screen(add));
    let ToSource::Add { request, .. } = source.hear(&mut stage) else {
        panic!("Add is expected");
    };
    stage.pass(11);
    assert!(matches!(stage.reply(&mut other), Reply::Refused { .. }));
    outputs.push(about(99, "HEADLESS-99"));
    source.say(&FromSource::Screens {
        screens: outputs,
        can_add: true,
    });
    source.say(&FromSource::Added {
        request,
        screen: 99,
    });
    assert_eq!(source.hear(&mut stage), ToSource::Remove { screen: 99 });
    // Mode changes of a source that does not answer: one is on its way, one waits.
    let last = stage.screen(&mut host, ScreenRequest::Describe { number: 0 });
    let screen = last.screen;
    for width in 1..5000 {
        let mode = mode(width, 1);
        let sender = if width % 2 == 0 {
            &mut host
        } else {
            &mut other
        };
        sender.send(&Request::Screen(ScreenRequest::SetMode { screen, mode }));
        stage.turn();
        if width > 1 {
            let earlier = if width % 2 == 0 {
                &mut other
            } else {
                &mut host
            };
            assert_eq!(as_screen(stage.reply(earlier)).screen, screen);
        }
    }
    assert!(matches!(
        source.hear(&mut stage),
        ToSource::SetMode { mode, .. } if mode.width == 1
    ));
    assert!(source.hears_nothing(&mut stage));
}

#[test]
fn a_new_agent_frees_the_screens_of_the_old_one_once_hosts_let_go() {
    let mut stage = Stage::with_sway();
    let (host, mut source, _, frames) = watching(&mut stage);
    let (pixels, _) = source.pixels(&mut stage, 1, PIXELS).expect("memory");
    let Stage {
        mut guest, service, ..
    } = stage;
    drop(service);
    let mut service = guest.start_agent();
    assert!(guest.holds(frames), "its host may still write");
    assert!(guest.frees(pixels), "nobody holds it");
    host.slot.release().expect("released");
    super::super::simulation::turn(&mut service);
    assert!(guest.frees(frames));
}

#[test]
fn nothing_is_looked_for_before_somebody_asks() {
    let mut stage = Stage::new(Offer::ALL, sway());
    let _host = stage.host(0);
    stage.pass(60);
    assert!(stage.starts_nothing());
    let empty = Stage::new(Offer::ALL, Findings::default());
    assert!(empty.service.screens.sources.is_empty());
}
