//! The test card's source over a channel, with these tests as the agent and as hosts that
//! verify every pixel of every frame. The memory is real memfds; no test depends on how fast
//! the machine is.

mod agent;
mod viewer;

use std::time::Duration;

use agent::{Agent, size};
use viewer::Viewer;
use vmshm_channel::source::{FromSource, ToSource};
use vmshm_link::frames::FRAMES_SIZE;
use vmshm_link::frames::{FrameReader, SourceState, Wants};
use vmshm_screens::test_card::STILL;
use vmshm_shm::SharedMemory;

/// Numbers that look made up and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = vmshm_link::mix::mix(self.0, 1);
        u32::try_from(self.0 % u64::from(limit)).expect("fits")
    }
}

#[test]
fn every_frame_is_right_by_its_damage_alone() {
    let mut agent = Agent::start("every");
    agent.set_mode(size(200, 150, 240_000)).expect("possible");
    agent.watch();
    agent.readers(&[3]);
    let mut viewer = Viewer::open(&agent, 3);
    let mut partial = 0;
    while viewer.shown < 100 {
        if let Some(look) = viewer.show_next(&mut agent) {
            partial += u64::from(look.damage.is_some_and(|damage| damage.area() < 200 * 150));
            assert_eq!(look.frame.checksum, viewer.stated);
        }
    }
    assert!(
        partial >= 50,
        "only {partial} frames had less than all damaged"
    );
    assert_eq!(
        viewer.reader.state().expect("right").source,
        SourceState::Live
    );
    agent.end();
}

#[test]
fn large_pictures_are_announced_before_they_are_finished_and_right_at_the_end() {
    let mut agent = Agent::start("large");
    agent.set_mode(size(1024, 512, 240_000)).expect("possible");
    agent.watch();
    agent.readers(&[0]);
    let mut viewer = Viewer::open(&agent, 0);
    while viewer.shown < 5 {
        viewer.show_next(&mut agent);
    }
    agent.end();
}

#[test]
fn modes_change_at_any_time_and_memory_is_asked_for_only_when_it_is_too_small() {
    let mut agent = Agent::start("modes");
    agent.set_mode(size(100, 100, 240_000)).expect("possible");
    agent.watch();
    agent.readers(&[0, 1]);
    let mut fast = Viewer::open(&agent, 0);
    let mut slow = Viewer::open(&agent, 1);
    let mut numbers = Numbers(7);
    let mut largest = 0;
    for round in 0..60 {
        let mode = size(64 + numbers.below(300), 64 + numbers.below(300), 240_000);
        agent.set_mode(mode).expect("possible");
        assert_eq!(agent.screen.mode, mode);
        let bytes = 3 * (u64::from(mode.width) * u64::from(mode.height) * 4).div_ceil(4096) * 4096;
        largest = bytes.max(largest);
        assert!(agent.pixels_size() >= bytes, "a region of too few bytes");
        let until = fast.shown + u64::from(numbers.below(4));
        while fast.shown < until {
            fast.show_next(&mut agent);
        }
        if round % 5 == 0 {
            slow.show_next(&mut agent);
        }
    }
    loop {
        fast.show_next(&mut agent);
        if fast.size() == (agent.screen.mode.width, agent.screen.mode.height) {
            break;
        }
    }
    while slow.size() != fast.size() {
        slow.show_next(&mut agent);
    }
    assert_eq!(agent.pixels_size(), largest, "memory that no mode needed");
    assert!(agent.regions < 30, "{} regions for 60 modes", agent.regions);
    drop((fast, slow));
    // One mapping of each memory here, and none is left over there.
    assert!(agent.mappings() <= 2, "{} mappings", agent.mappings());
    agent.unwatch();
    agent.end();
    assert_eq!(agent.mappings(), 0);
}

#[test]
fn a_still_card_is_drawn_once_for_each_reader_that_comes() {
    let mut agent = Agent::start("still");
    agent.set_mode(size(128, 96, STILL)).expect("possible");
    agent.watch();
    agent.readers(&[0]);
    let mut viewer = Viewer::open(&agent, 0);
    while viewer.shown < 1 {
        viewer.show_next(&mut agent);
    }
    // Opening may have been seen before or after the first frame.
    let quiet = |viewer: &mut Viewer, agent: &mut Agent| {
        let mut last = 0;
        loop {
            let from = std::time::Instant::now();
            while from.elapsed() < Duration::from_millis(400) {
                viewer.show_next(agent);
            }
            let newest = viewer.reader.state().expect("right").newest;
            if newest == last {
                return newest;
            }
            last = newest;
        }
    };
    let newest = quiet(&mut viewer, &mut agent);
    assert!(newest <= 3, "a still card that was drawn {newest} times");
    // Another one comes, and wants a picture that is newer than its coming.
    agent.readers(&[0, 5]);
    let newest = quiet(&mut viewer, &mut agent);
    let mut picture = Viewer::open(&agent, 5);
    while picture.serial <= newest {
        picture.show_next(&mut agent);
    }
    agent.end();
}

#[test]
fn a_mode_without_memory_is_refused_and_the_card_goes_on() {
    let mut agent = Agent::start("refused");
    agent.set_mode(size(100, 100, 240_000)).expect("possible");
    agent.watch();
    agent.readers(&[0]);
    let mut viewer = Viewer::open(&agent, 0);
    agent.refuse_memory = Some("the guest has no more".to_owned());
    let refusal = agent.set_mode(size(4000, 3000, 60_000));
    assert_eq!(refusal, Err("the guest has no more".to_owned()));
    agent.refuse_memory = None;
    let serial = viewer.serial;
    while viewer.serial < serial + 5 {
        viewer.show_next(&mut agent);
    }
    assert_eq!(viewer.size(), (100, 100));
    for bad in [
        size(63, 100, 0),
        size(100, 20_000, 0),
        size(100, 100, 240_001),
        size(u32::MAX, u32::MAX, u32::MAX),
    ] {
        let refusal = agent.set_mode(bad).expect_err("no such mode");
        assert!(refusal.contains("64x64"), "{refusal}");
    }
    agent.set_mode(size(90, 80, 0)).expect("possible");
    assert_eq!(
        agent.screen.mode,
        size(90, 80, 240_000),
        "the refresh stays"
    );
    agent.end();
}

#[test]
fn a_card_without_memory_says_so_once_and_asks_again() {
    let mut agent = Agent::start("again");
    agent.set_mode(size(100, 100, 240_000)).expect("possible");
    agent.refuse_memory = Some("too much is pinned".to_owned());
    agent.watch();
    agent.readers(&[0]);
    while agent.refused < 2 {
        agent.serve_one();
    }
    assert_eq!(agent.notes.len(), 1, "{:?}", agent.notes);
    assert!(agent.notes[0].contains("too much is pinned"));
    agent.refuse_memory = None;
    let mut viewer = Viewer::open(&agent, 0);
    while viewer.shown < 2 {
        viewer.show_next(&mut agent);
    }
    agent.end();
}

#[test]
fn a_source_that_starts_again_goes_on_in_the_same_frames() {
    let mut agent = Agent::start("again-and-again");
    agent.set_mode(size(120, 90, 240_000)).expect("possible");
    agent.watch();
    agent.readers(&[0]);
    let mut viewer = Viewer::open(&agent, 0);
    for _ in 0..3 {
        let until = viewer.serial + 5;
        while viewer.serial < until {
            viewer.show_next(&mut agent);
        }
        agent.restart_source();
        agent.set_mode(size(120, 90, 240_000)).expect("possible");
        agent.watch_again();
        agent.readers(&[0]);
    }
    let until = viewer.serial + 5;
    while viewer.serial < until {
        viewer.show_next(&mut agent);
    }
    agent.end();
}

#[test]
fn memory_that_is_taken_back_before_the_word_of_it_ends_no_source() {
    let mut agent = Agent::start("taken-back");
    agent.set_mode(size(120, 90, 240_000)).expect("possible");
    for _ in 0..3 {
        agent.watch();
        agent.readers(&[0]);
        let mut viewer = Viewer::open(&agent, 0);
        let until = viewer.serial + 3;
        while viewer.serial < until {
            viewer.show_next(&mut agent);
        }
        // Its pages are another's, all zero, while the source still draws.
        let zeros = [0_u8; 4096];
        for page in 0..FRAMES_SIZE / 4096 {
            agent
                .map_frames()
                .write(page * 4096, &zeros)
                .expect("succeeds");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    agent.end();
}

#[test]
fn a_reader_may_open_before_the_source_has_laid_anything_out() {
    let mut agent = Agent::start("early");
    agent.make_frames();
    let mut reader =
        FrameReader::new(agent.map_frames(), 0, Wants::default()).expect("zeros are fine");
    assert_eq!(reader.look(), Ok(None));
    assert_eq!(reader.state().expect("right").source, SourceState::Starting);
    agent.set_mode(size(120, 90, 240_000)).expect("possible");
    agent.watch_again();
    agent.readers(&[0]);
    while reader.look().expect("right").is_none() {
        reader.beat().expect("right");
        agent.serve_pending();
        std::thread::sleep(Duration::from_millis(1));
    }
    agent.end();
}

#[test]
fn other_screens_and_plugging_in_are_refused() {
    let mut agent = Agent::start("others");
    agent.send(&ToSource::Add {
        request: 70,
        mode: size(100, 100, 0),
    });
    agent.send(&ToSource::SetMode {
        request: 71,
        screen: 9,
        mode: size(100, 100, 0),
    });
    for expected in [70, 71] {
        match agent.next() {
            FromSource::Refused { request, .. } => assert_eq!(request, expected),
            other => panic!("{other:?}"),
        }
    }
    agent.end();
}
