//! One picture as PNG.

use std::io::{Cursor, Read, Seek, SeekFrom};

use vmshm_channel::Handed;
use vmshm_channel::sink::{FromMonitor, Run, Sink, ToMonitor};
use vmshm_channel::{Size, borrowed};
use vmshm_shm::{Mapping, Protection, SharedMemory};

use crate::material::{Display, Guest, Monitor, memory_file, pattern, picture_file};

fn read_png(file: Handed) -> ((u32, u32), Vec<u8>) {
    let mut file = std::fs::File::from(file);
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).expect("succeeds");
    file.read_to_end(&mut bytes).expect("succeeds");
    let mut reader = png::Decoder::new(Cursor::new(bytes))
        .read_info()
        .expect("is a picture");
    let mut pixels = vec![0; reader.output_buffer_size().expect("fits")];
    let info = reader.next_frame(&mut pixels).expect("is whole");
    ((info.width, info.height), pixels)
}

fn expected(size: (u32, u32), picture: impl Fn(u32, u32) -> u32) -> Vec<u8> {
    let places = (0..size.1).flat_map(|y| (0..size.0).map(move |x| (x, y)));
    places
        .flat_map(|(x, y)| {
            let [blue, green, red, _] = picture(x, y).to_le_bytes();
            [red, green, blue]
        })
        .collect()
}

#[test]
fn the_picture_is_the_guests_pixel_by_pixel() {
    let file = picture_file();
    let mut guest = Guest::new(7, 123, 45);
    // Neither one from before the monitor came will do, nor one with the pointer in it.
    guest.publish(|_, _| 0x1111_1111, false);
    let mut monitor = Monitor::start(Sink::Picture { size: None }, Some(&file), Display::None);
    assert_eq!(monitor.ready(), None);
    monitor.give_frames(&guest);
    guest.wait_for(1);
    assert!(guest.writer.reader(0).expect("succeeds").wants.no_pointer);
    guest.publish(|_, _| 0x2222_2222, true);
    guest.wait_for(2);
    guest.publish(pattern, false);
    assert_eq!(monitor.next(), FromMonitor::WantPixels { region: 7 });
    monitor.give_pixels(&guest);
    assert_eq!(monitor.next(), FromMonitor::PictureDone);
    assert!(monitor.child.wait().expect("succeeds").success());
    assert_eq!(read_png(file), ((123, 45), expected((123, 45), pattern)));
}

#[test]
fn only_a_picture_of_the_wanted_size_will_do() {
    let file = picture_file();
    let size = Size {
        width: 64,
        height: 32,
        refresh_millihertz: 0,
    };
    let sink = Sink::Picture { size: Some(size) };
    let mut monitor = Monitor::start(sink, Some(&file), Display::None);
    monitor.ready();
    let mut small = Guest::new(1, 32, 32);
    monitor.give_frames(&small);
    small.wait_for_reader();
    small.publish(pattern, false);
    small.wait_for(1);
    // Attached anew: what came before is void.
    let mut guest = Guest::new(2, 64, 32);
    monitor.give_frames(&guest);
    guest.wait_for_reader();
    guest.publish(pattern, false);
    assert_eq!(monitor.next(), FromMonitor::WantPixels { region: 2 });
    let none = ToMonitor::NoPixels { region: 2 };
    monitor.channel.send(&none, None).expect("succeeds");
    // It asks again.
    assert_eq!(monitor.next(), FromMonitor::WantPixels { region: 2 });
    monitor.give_pixels(&guest);
    assert_eq!(monitor.next(), FromMonitor::PictureDone);
    assert_eq!(read_png(file), ((64, 32), expected((64, 32), pattern)));
}

#[test]
fn memory_that_makes_no_sense_is_said_and_survived() {
    let file = picture_file();
    let mut monitor = Monitor::start(Sink::Picture { size: None }, Some(&file), Display::None);
    monitor.ready();
    let mut guest = Guest::new(3, 16, 16);
    let bad = ToMonitor::Frames {
        runs: vec![Run {
            offset: 0,
            length: 1 << 20,
        }],
        reader: 0,
    };
    let descriptor = Some(borrowed(&guest.frames));
    monitor.channel.send(&bad, descriptor).expect("succeeds");
    let FromMonitor::BadGuest { message } = monitor.next() else {
        panic!("no complaint");
    };
    let words = if cfg!(windows) {
        "cannot map"
    } else {
        "behind the file's end"
    };
    assert!(message.contains(words), "{message}");
    // No frames region at all.
    let other = Guest {
        frames: memory_file(4 * 4096),
        ..Guest::new(4, 16, 16)
    };
    let bytes = Mapping::whole(&other.frames, 4 * 4096, Protection::ReadWrite);
    bytes.expect("mapped").write(0, &[1; 8]).expect("succeeds");
    monitor.give_frames(&other);
    assert!(matches!(monitor.next(), FromMonitor::BadGuest { .. }));
    monitor.give_frames(&guest);
    guest.wait_for_reader();
    guest.publish(pattern, false);
    assert_eq!(monitor.next(), FromMonitor::WantPixels { region: 3 });
    monitor.give_pixels(&guest);
    assert_eq!(monitor.next(), FromMonitor::PictureDone);
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_shrinks_ends_the_monitor_with_words() {
    let file = picture_file();
    let mut monitor = Monitor::start(Sink::Picture { size: None }, Some(&file), Display::None);
    monitor.ready();
    let guest = Guest::new(3, 16, 16);
    monitor.give_frames(&guest);
    // Its beat shows that it has mapped them.
    let deadline = std::time::Instant::now() + crate::material::PATIENCE;
    while guest.writer.reader(0).expect("succeeds").beat < 2 {
        assert!(std::time::Instant::now() < deadline);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    rustix::fs::ftruncate(&guest.frames, 0).expect("succeeds");
    let FromMonitor::Failed { message, .. } = monitor.next() else {
        panic!("no last words");
    };
    assert!(message.contains("cut short"), "{message}");
    let status = monitor.child.wait().expect("succeeds");
    assert_eq!(status.code(), Some(75));
}

#[cfg(target_os = "linux")]
#[test]
fn without_a_display_a_window_is_refused_with_a_hint() {
    let sink = Sink::Window {
        fullscreen: false,
        scaling: vmshm_channel::sink::Scaling::Integer,
        follow: false,
    };
    let mut monitor = Monitor::start(sink.clone(), None, Display::None);
    let FromMonitor::Failed { message, hint } = monitor.next() else {
        panic!("no refusal");
    };
    assert_eq!(
        message,
        "no display: neither WAYLAND_DISPLAY nor DISPLAY is set"
    );
    assert_eq!(
        hint.as_deref(),
        Some("--screenshot FILE.png needs no display")
    );
    assert_eq!(monitor.child.wait().expect("succeeds").code(), Some(1));
    let mut monitor = Monitor::start(sink, None, Display::X11(":9999"));
    let FromMonitor::Failed { message, .. } = monitor.next() else {
        panic!("no refusal");
    };
    assert!(message.starts_with("no display: "), "{message}");
}
