//! The service as the agent and a host meet it, with a driver in this process's memory.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use vmshm_channel::source::{FromSource, PixelMemory, Screen, ToSource};
use vmshm_channel::{Channel, Size};
use vmshm_link::frames::{FRAMES_SIZE, Frame, FrameReader, PixelFormat, Rectangle, Wants};
use vmshm_shm::{Fault, LocalMemory, MapError, Mapping, Protection, SharedMemory};

use super::device::{ACTIVATE_TEST, Driver, Fixed, Variable};
use super::picture::tests::vfb;
use super::service::{About, Service};
use crate::SourceError;

const PATIENCE: Duration = Duration::from_secs(60);
const MEMORY: u32 = 64 * 48 * 4 * 4;

/// Memory that counts the bytes read from it.
#[derive(Clone)]
struct Counted {
    memory: Arc<LocalMemory>,
    read: Arc<AtomicU64>,
}

impl SharedMemory for Counted {
    fn size(&self) -> u64 {
        self.memory.size()
    }
    fn load_relaxed(&self, offset: u64) -> Result<u64, Fault> {
        self.memory.load_relaxed(offset)
    }
    fn load_acquire(&self, offset: u64) -> Result<u64, Fault> {
        self.memory.load_acquire(offset)
    }
    fn store_relaxed(&self, offset: u64, value: u64) -> Result<(), Fault> {
        self.memory.store_relaxed(offset, value)
    }
    fn store_release(&self, offset: u64, value: u64) -> Result<(), Fault> {
        self.memory.store_release(offset, value)
    }
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.read.fetch_add(into.len() as u64, Ordering::Relaxed);
        self.memory.read(offset, into)
    }
    fn write(&self, offset: u64, from: &[u8]) -> Result<(), Fault> {
        self.memory.write(offset, from)
    }
}

/// A driver like `vfb`.
struct Guest {
    state: Mutex<(Variable, Fixed)>,
    memory: Counted,
    gone: AtomicBool,
}

impl Guest {
    fn new(width: u32, height: u32) -> Self {
        Self {
            state: Mutex::new(vfb(width, height, MEMORY)),
            memory: Counted {
                memory: Arc::new(LocalMemory::new(MEMORY as usize)),
                read: Arc::default(),
            },
            gone: AtomicBool::new(false),
        }
    }

    fn draw(&self, offset: u64, value: u32) {
        let drawn = self.memory.write(offset, &value.to_le_bytes());
        drawn.expect("is inside");
    }

    fn change(&self, change: impl Fn(&mut Variable, &mut Fixed)) {
        let mut state = self.state.lock().expect("nobody panicked");
        let (variable, fixed) = &mut *state;
        change(variable, fixed);
    }

    fn bytes_read(&self) -> u64 {
        self.memory.read.load(Ordering::Relaxed)
    }
}

impl Driver for Guest {
    type Memory = Counted;

    fn variable(&self) -> Result<Variable, Errno> {
        if self.gone.load(Ordering::Relaxed) {
            return Err(Errno::NODEV);
        }
        Ok(self.state.lock().expect("nobody panicked").0)
    }

    fn fixed(&self) -> Result<Fixed, Errno> {
        Ok(self.state.lock().expect("nobody panicked").1)
    }

    fn put(&self, wanted: Variable) -> Result<Variable, Errno> {
        let bytes = u64::from(wanted.xres_virtual) * u64::from(wanted.yres_virtual) * 4;
        if bytes > u64::from(MEMORY) {
            return Err(Errno::NOMEM);
        }
        let (usual, fixed) = vfb(wanted.xres, wanted.yres, MEMORY);
        let made = Variable {
            red: usual.red,
            green: usual.green,
            blue: usual.blue,
            transparency: usual.transparency,
            activate: 0,
            ..wanted
        };
        if wanted.activate != ACTIVATE_TEST {
            *self.state.lock().expect("nobody panicked") = (made, fixed);
        }
        Ok(made)
    }

    fn map(&self, _size: u64) -> Result<Counted, MapError> {
        Ok(self.memory.clone())
    }
}

/// The agent and one host's reader.
struct Play<'a> {
    guest: &'a Guest,
    channel: Channel,
    frames: OwnedFd,
    reader: FrameReader<Mapping>,
    pixels: Option<Mapping>,
    screen: Screen,
}

fn memory(size: u64) -> OwnedFd {
    let file = memfd_create("play", MemfdFlags::CLOEXEC).expect("succeeds");
    ftruncate(&file, size).expect("succeeds");
    file
}

/// Runs `play` against a service for `guest`.
fn play(guest: &Guest, play: impl FnOnce(&mut Play<'_>)) -> Result<(), SourceError> {
    let (ours, theirs) = UnixStream::pair().expect("succeeds");
    std::thread::scope(|scope| {
        let service = scope.spawn(move || {
            let mut channel = Channel::new(theirs).expect("succeeds");
            let about = About {
                path: "/dev/fb7".into(),
                name: "fb7".to_owned(),
                driver: "vfb".to_owned(),
            };
            Service::new(&mut channel, guest, about, None)?.run()
        });
        let mut channel = Channel::new(ours).expect("succeeds");
        let (first, _) = channel.next(PATIENCE).expect("a first message");
        let FromSource::Screens { screens, .. } = first else {
            panic!("a first message that is not Screens: {first:?}");
        };
        let frames = memory(FRAMES_SIZE);
        let map = || Mapping::whole(&frames, FRAMES_SIZE, Protection::ReadWrite);
        // The region is laid out before anybody reads it.
        vmshm_link::frames::FrameWriter::resume(map().expect("succeeds")).expect("succeeds");
        let reader = FrameReader::new(map().expect("succeeds"), 3, Wants::default());
        play(&mut Play {
            guest,
            channel,
            reader: reader.expect("succeeds"),
            frames,
            pixels: None,
            screen: screens.into_iter().next().expect("one screen"),
        });
        service.join().expect("does not panic")
    })
}

impl Play<'_> {
    fn tell(&mut self, message: &ToSource) {
        self.channel.send(message, None).expect("is taken");
    }

    fn hear(&mut self) -> FromSource {
        loop {
            let (message, _) = self.channel.next(PATIENCE).expect("a message");
            if let FromSource::Screens { screens, .. } = message {
                self.screen = screens.into_iter().next().expect("one screen");
                continue;
            }
            return message;
        }
    }

    fn watch(&mut self) {
        let message = ToSource::Watch {
            screen: self.screen.screen,
            size: FRAMES_SIZE,
        };
        let sent = self.channel.send(&message, Some(self.frames.as_fd()));
        sent.expect("is taken");
    }

    /// Answers the next request for the device's memory as an agent does.
    fn give_device(&mut self) {
        let FromSource::NeedPixels {
            request,
            memory: PixelMemory::Device { device, size },
            ..
        } = self.hear()
        else {
            panic!("the device's memory was not asked for");
        };
        assert_eq!((device.as_str(), size), ("/dev/fb7", u64::from(MEMORY)));
        self.tell(&ToSource::Pixels {
            screen: 0,
            request,
            region: 41,
            size,
        });
        let in_use = FromSource::PixelsInUse {
            screen: 0,
            region: 41,
        };
        assert_eq!(self.hear(), in_use);
        self.come();
    }

    fn come(&mut self) {
        self.tell(&ToSource::Readers {
            screen: 0,
            readers: vec![3],
        });
    }

    /// The next frame that `is` it; what comes before is taken in.
    fn frame(&mut self, is: impl Fn(&Frame) -> bool) -> Frame {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            self.reader.beat().expect("succeeds");
            if let Some(look) = self.reader.look().expect("a proper frame") {
                if is(&look.frame) {
                    return look.frame;
                }
                self.reader.acknowledge(&look.frame).expect("succeeds");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("no such frame");
    }

    fn next_frame(&mut self) -> Frame {
        self.frame(|_| true)
    }

    fn take_in(&mut self, frame: &Frame) {
        self.reader.acknowledge(frame).expect("succeeds");
    }

    /// Beats for so long without taking anything in.
    fn dawdle(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.reader.beat().expect("succeeds");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn set_mode(&mut self, width: u32, height: u32) -> FromSource {
        let mode = Size {
            width,
            height,
            refresh_millihertz: 0,
        };
        self.tell(&ToSource::SetMode {
            request: 9,
            screen: 0,
            mode,
        });
        self.hear()
    }
}

fn covers(frame: &Frame, x: u32, y: u32) -> bool {
    let pixel = Rectangle {
        x,
        y,
        width: 1,
        height: 1,
    };
    let rectangles = frame.damage.rectangles();
    rectangles
        .iter()
        .any(|one| !one.intersection(&pixel).is_empty())
}

#[test]
fn the_device_itself_is_shown() {
    let guest = Guest::new(64, 48);
    let played = play(&guest, |play| {
        assert_eq!(play.screen.source, "framebuffer vfb");
        assert!(play.screen.any_size && play.screen.set_mode && play.screen.may_tear);
        play.watch();
        play.give_device();
        let first = play.next_frame();
        assert_eq!(first.place.region, 41);
        assert_eq!((first.place.offset, first.place.stride), (0, 256));
        assert_eq!(first.place.format, PixelFormat::Xbgr8888);
        assert!(first.is_live_scanout && !first.has_pointer);
        assert!(covers(&first, 63, 47));
        assert_eq!(first.bytes_touched, 64 * 48 * 4);
        play.take_in(&first);
        play.guest.draw(256 * 40 + 12, 1);
        let second = play.frame(|frame| covers(frame, 3, 40));
        play.take_in(&second);
        // What was drawn while it was copied counts again, once.
        let third = play.frame(|frame| covers(frame, 3, 40));
        play.take_in(&third);
    });
    assert!(matches!(played, Err(SourceError::Channel(_))));
}

#[test]
fn nothing_is_read_while_nobody_wants_a_frame() {
    let guest = Guest::new(64, 48);
    let _ = play(&guest, |play| {
        play.watch();
        play.give_device();
        let first = play.next_frame();
        let before = play.guest.bytes_read();
        play.guest.draw(0, 7);
        play.dawdle(Duration::from_millis(200));
        assert_eq!(play.guest.bytes_read(), before);
        assert_eq!(play.next_frame().serial, first.serial);
        play.tell(&ToSource::Readers {
            screen: 0,
            readers: vec![],
        });
        play.take_in(&first);
        play.dawdle(Duration::from_millis(100));
        assert_eq!(play.guest.bytes_read(), before);
        play.come();
        let second = play.next_frame();
        assert!(covers(&second, 0, 0));
    });
}

#[test]
fn where_memory_cannot_be_shared_it_is_copied() {
    let guest = Guest::new(64, 48);
    let _ = play(&guest, |play| {
        play.guest.draw(0, 0x0102_0304);
        play.watch();
        let FromSource::NeedPixels { request, .. } = play.hear() else {
            panic!("no memory was asked for");
        };
        play.tell(&ToSource::NoPixels {
            screen: 0,
            request,
            message: "its pages have no numbers".to_owned(),
        });
        assert!(matches!(play.hear(), FromSource::Note { message } if message.contains("pages")));
        let FromSource::NeedPixels {
            request,
            memory: PixelMemory::Pinned { size },
            ..
        } = play.hear()
        else {
            panic!("no pinned memory was asked for");
        };
        let file = memory(size);
        let map = Mapping::whole(&file, size, Protection::Read);
        let message = ToSource::Pixels {
            screen: 0,
            request,
            region: 42,
            size,
        };
        let sent = play.channel.send(&message, Some(file.as_fd()));
        sent.expect("is taken");
        play.pixels = Some(map.expect("succeeds"));
        assert!(matches!(
            play.hear(),
            FromSource::PixelsInUse { region: 42, .. }
        ));
        play.come();
        for round in 1..8_u32 {
            let frame = play.frame(|frame| round == 1 || covers(frame, round - 1, 0));
            assert!(!frame.is_live_scanout);
            let mut shown = vec![0; 64 * 48 * 4];
            let mut drawn = shown.clone();
            let pixels = play.pixels.as_ref().expect("is mapped");
            pixels
                .read(frame.place.offset, &mut shown)
                .expect("is read");
            play.guest.memory.read(0, &mut drawn).expect("is read");
            assert!(shown == drawn);
            assert!(play.reader.is_whole(&frame).expect("is read"));
            play.guest.draw(u64::from(round) * 4, round);
            play.take_in(&frame);
        }
    });
}

#[test]
fn modes_are_set_by_hosts_and_by_the_guest() {
    let guest = Guest::new(64, 48);
    let _ = play(&guest, |play| {
        play.watch();
        play.give_device();
        let refused = play.set_mode(640, 480);
        let FromSource::Refused { message, .. } = refused else {
            panic!("a mode was set that does not fit: {refused:?}");
        };
        assert!(message.contains("up to 12288 pixels"), "{message}");
        let refused = play.set_mode(u32::MAX, 0);
        assert!(matches!(refused, FromSource::Refused { .. }));
        assert_eq!(play.set_mode(100, 30), FromSource::ModeSet { request: 9 });
        assert_eq!((play.screen.mode.width, play.screen.mode.height), (100, 30));
        let frame = play.frame(|frame| frame.place.width == 100);
        assert_eq!((frame.place.height, frame.place.stride), (30, 400));
        assert!(covers(&frame, 99, 29));
        play.take_in(&frame);
        // The guest sets one by itself.
        play.guest
            .put(vfb(32, 16, MEMORY).0)
            .expect("the driver takes it");
        let frame = play.frame(|frame| frame.place.width == 32);
        assert!(covers(&frame, 31, 15));
        play.take_in(&frame);
    });
}

#[test]
fn a_layout_that_cannot_be_shown_is_named_and_a_mode_helps() {
    let guest = Guest::new(64, 48);
    guest.change(|variable, fixed| {
        variable.bits_per_pixel = 8;
        fixed.visual = 3;
        fixed.line_length = 64;
    });
    let _ = play(&guest, |play| {
        play.watch();
        let note = play.hear();
        let FromSource::Note { message } = note else {
            panic!("not said: {note:?}");
        };
        assert!(message.contains("8 bits each"), "{message}");
        assert!(message.contains("--mode 64x48"), "{message}");
        play.tell(&ToSource::SetMode {
            request: 9,
            screen: 0,
            mode: play.screen.mode,
        });
        play.give_device_and_mode();
        let frame = play.next_frame();
        assert_eq!(frame.place.stride, 256);
    });
}

impl Play<'_> {
    /// As `give_device`, where `ModeSet` comes in between.
    fn give_device_and_mode(&mut self) {
        let FromSource::NeedPixels { request, .. } = self.hear() else {
            panic!("no memory was asked for");
        };
        assert_eq!(self.hear(), FromSource::ModeSet { request: 9 });
        self.tell(&ToSource::Pixels {
            screen: 0,
            request,
            region: 41,
            size: u64::from(MEMORY),
        });
        assert!(matches!(self.hear(), FromSource::PixelsInUse { .. }));
        self.come();
    }
}

#[test]
fn a_guest_that_pans_keeps_pictures_apart() {
    let guest = Guest::new(64, 48);
    guest.change(|variable, _| variable.yres_virtual = 96);
    let _ = play(&guest, |play| {
        play.watch();
        play.give_device();
        let mut frame = play.next_frame();
        play.take_in(&frame);
        for turn in 1..20_u32 {
            let row = 48 * (turn % 2);
            play.guest.draw(u64::from(row) * 256, turn + 1000);
            play.guest.change(|variable, _| variable.yoffset = row);
            let before = frame;
            frame = play.frame(|frame| covers(frame, 0, 0) && !frame.is_live_scanout);
            assert_eq!(frame.place.slot, usize::from(row != 0));
            assert_eq!(frame.place.offset, u64::from(row) * 256);
            // Whoever still copies the one before knows that the guest draws there now.
            assert!(before.is_live_scanout || !play.reader.is_whole(&before).expect("is read"));
            assert!(play.reader.is_whole(&frame).expect("is read"));
            play.take_in(&frame);
        }
        let deadline = Instant::now() + PATIENCE;
        while play.screen.may_tear && Instant::now() < deadline {
            if let Ok(Some((FromSource::Screens { screens, .. }, _))) = play.channel.receive() {
                play.screen = screens.into_iter().next().expect("one screen");
            }
            play.dawdle(Duration::from_millis(5));
        }
        assert!(!play.screen.may_tear);
    });
}

#[test]
fn a_device_that_goes_is_said_to_be_gone() {
    let guest = Guest::new(64, 48);
    let played = play(&guest, |play| {
        play.watch();
        play.give_device();
        // Nothing is looked at again before somebody has taken in what there is.
        let first = play.next_frame();
        play.guest.gone.store(true, Ordering::Relaxed);
        play.take_in(&first);
        let deadline = Instant::now() + PATIENCE;
        while play.channel.receive::<FromSource>().is_ok() && Instant::now() < deadline {
            play.dawdle(Duration::from_millis(5));
        }
    });
    let Err(SourceError::Failed { message, .. }) = played else {
        panic!("went on without a device: {played:?}");
    };
    assert_eq!(message, "/dev/fb7 is gone");
}
