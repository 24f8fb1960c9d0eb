//! A guest that writes frames, and the started monitor with the `vmshm display` end of its channel.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use vmshm_channel::sink::{FromMonitor, Run, Sink, ToMonitor};
use vmshm_channel::{Channel, ChannelError, Handed, borrowed};
use vmshm_link::frames::{
    Damage, FRAMES_SIZE, Frame, FrameWriter, PixelFormat, PixelSlots, Place, Rectangle, SourceState,
};
use vmshm_shm::{Mapping, PAGE_SIZE, Protection, SharedMemory};

// What the unit tests use.
#[cfg_attr(target_os = "linux", path = "../../../src/os/linux/trial.rs")]
#[cfg_attr(windows, path = "../../../src/os/windows/trial.rs")]
mod memory;
pub use memory::memory_file;
#[cfg(windows)]
pub use memory::reserved_section;

/// Long enough for a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A file for a picture.
pub fn picture_file() -> Handed {
    tempfile::tempfile().expect("succeeds").into()
}

/// A source with two pixel slots.
pub struct Guest {
    pub frames: Handed,
    pub pixels: Handed,
    pub writer: FrameWriter<Mapping>,
    pub memory: Mapping,
    pub slots: PixelSlots,
    pub region: u64,
    pub size: (u32, u32),
    pub slot_bytes: u64,
}

impl Guest {
    pub fn new(region: u64, width: u32, height: u32) -> Self {
        let frames = memory_file(FRAMES_SIZE);
        let mapping =
            Mapping::whole(&frames, FRAMES_SIZE, Protection::ReadWrite).expect("succeeds");
        let writer = FrameWriter::resume(mapping).expect("succeeds");
        writer.set_state(SourceState::Live).expect("succeeds");
        let slot_bytes = (u64::from(width) * u64::from(height) * 4).next_multiple_of(PAGE_SIZE);
        let pixels = memory_file(2 * slot_bytes);
        let memory =
            Mapping::whole(&pixels, 2 * slot_bytes, Protection::ReadWrite).expect("succeeds");
        Self {
            frames,
            pixels,
            writer,
            memory,
            slots: PixelSlots::new(2),
            region,
            size: (width, height),
            slot_bytes,
        }
    }

    /// Draws a whole picture and announces it.
    pub fn publish(&mut self, picture: impl Fn(u32, u32) -> u32, has_pointer: bool) -> u64 {
        let (width, height) = self.size;
        self.publish_part(picture, has_pointer, Rectangle::whole(width, height))
    }

    /// Draws a picture, and says that only a part has changed.
    pub fn publish_part(
        &mut self,
        picture: impl Fn(u32, u32) -> u32,
        has_pointer: bool,
        part: Rectangle,
    ) -> u64 {
        let (width, height) = self.size;
        let slot = self.begin();
        let offset = slot as u64 * self.slot_bytes;
        let mut row_bytes = Vec::new();
        for y in 0..height {
            row_bytes.clear();
            row_bytes.extend((0..width).flat_map(|x| picture(x, y).to_le_bytes()));
            let at = offset + u64::from(y) * u64::from(width) * 4;
            self.memory.write(at, &row_bytes).expect("succeeds");
        }
        self.announce_slot(slot, has_pointer, part)
    }

    fn begin(&mut self) -> usize {
        self.writer.begin(&mut self.slots, 0..4).expect("succeeds")
    }

    /// Announces what happens to be in the next slot.
    #[cfg(target_os = "linux")]
    pub fn announce(&mut self, part: Rectangle) -> u64 {
        let slot = self.begin();
        self.announce_slot(slot, false, part)
    }

    fn announce_slot(&mut self, slot: usize, has_pointer: bool, part: Rectangle) -> u64 {
        let (width, height) = self.size;
        let offset = slot as u64 * self.slot_bytes;
        let mut damage = Damage::none();
        damage.add(part);
        let frame = Frame {
            serial: 0,
            place: Place {
                region: self.region,
                slot,
                offset,
                width,
                height,
                stride: width * 4,
                format: PixelFormat::Xrgb8888,
            },
            damage,
            has_pointer,
            is_live_scanout: false,
            capture_nanos: 1000,
            bytes_touched: 0,
            acknowledged_nanos: 0,
            checksum: 0,
        };
        let published = self.writer.publish(&mut self.slots, &frame, height);
        published.expect("succeeds")
    }

    /// Waits until reader 0 has come.
    pub fn wait_for_reader(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.writer.reader(0).expect("succeeds").opened == 0 {
            assert!(Instant::now() < deadline, "no reader comes");
            std::thread::sleep(Duration::from_millis(1));
        }
        // Its look at the newest frame follows.
        std::thread::sleep(Duration::from_millis(100));
    }

    /// Waits until reader 0 has taken this frame in.
    pub fn wait_for(&self, serial: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.writer.reader(0).expect("succeeds").acknowledged != serial {
            assert!(Instant::now() < deadline, "frame {serial} is not taken in");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Where the monitor may open its window.
#[derive(Clone, Copy)]
#[cfg_attr(windows, allow(dead_code, reason = "there is one display"))]
pub enum Display<'a> {
    None,
    X11(&'a str),
    /// The runtime directory with the socket `wayland-1`.
    Wayland(&'a std::path::Path),
}

/// A started monitor.
pub struct Monitor {
    pub child: Child,
    pub channel: Channel,
}

impl Monitor {
    pub fn start(sink: Sink, descriptor: Option<&Handed>, display: Display<'_>) -> Self {
        Self::start_counting(sink, descriptor, display, 0)
    }

    /// With statistics every so many milliseconds.
    pub fn start_counting(
        sink: Sink,
        descriptor: Option<&Handed>,
        display: Display<'_>,
        stats_every_millis: u64,
    ) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmshm-monitor"));
        command
            .env_remove("WAYLAND_DISPLAY")
            .env_remove("WAYLAND_SOCKET")
            .env_remove("DISPLAY");
        match display {
            Display::None => {}
            Display::X11(name) => {
                command.env("DISPLAY", name);
            }
            Display::Wayland(directory) => {
                command
                    .env("XDG_RUNTIME_DIR", directory)
                    .env("WAYLAND_DISPLAY", "wayland-1");
            }
        }
        let (child, mut channel) = vmshm_channel::start(&mut command).expect("starts");
        let start = ToMonitor::Start {
            sink,
            vm: "a-vm".to_owned(),
            stats_every_millis,
            stats_overlay: false,
        };
        channel
            .send(&start, descriptor.map(borrowed))
            .expect("succeeds");
        Self { child, channel }
    }

    pub fn next(&mut self) -> FromMonitor {
        let message = self.channel.next(PATIENCE);
        message.expect("a message comes").0
    }

    /// Reads the readiness, and shows what was said of it.
    pub fn ready(&mut self) -> Option<String> {
        match self.next() {
            FromMonitor::Ready {
                confinement,
                keymap,
            } => {
                eprintln!("confinement: {confinement}");
                keymap
            }
            other => panic!("{other:?} instead of readiness"),
        }
    }

    pub fn give_frames(&mut self, guest: &Guest) {
        let frames = ToMonitor::Frames {
            runs: vec![Run {
                offset: 0,
                length: FRAMES_SIZE,
            }],
            reader: 0,
        };
        self.channel
            .send(&frames, Some(borrowed(&guest.frames)))
            .expect("succeeds");
    }

    pub fn give_pixels(&mut self, guest: &Guest) {
        let pixels = ToMonitor::Pixels {
            region: guest.region,
            runs: vec![Run {
                offset: 0,
                length: guest.memory.size(),
            }],
        };
        self.channel
            .send(&pixels, Some(borrowed(&guest.pixels)))
            .expect("succeeds");
    }

    #[cfg(target_os = "linux")]
    pub fn give_screen(&mut self, guest: &Guest) {
        let screen = ToMonitor::Screen {
            name: "HEADLESS-1".to_owned(),
            mode: vmshm_channel::Size {
                width: guest.size.0,
                height: guest.size.1,
                refresh_millihertz: 60_000,
            },
            input: Ok(()),
        };
        self.channel.send(&screen, None).expect("succeeds");
    }

    /// Gives frames, and pixels when they are wanted.
    pub fn attach(&mut self, guest: &Guest) {
        self.give_frames(guest);
        let wanted = FromMonitor::WantPixels {
            region: guest.region,
        };
        while self.next() != wanted {}
        self.give_pixels(guest);
    }

    /// Ends it; it must agree.
    pub fn end(mut self) {
        self.channel.send(&ToMonitor::End, None).expect("succeeds");
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.channel.next::<FromMonitor>(PATIENCE) {
                Ok(_) => {}
                Err(ChannelError::Closed) => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(self.child.wait().expect("succeeds").success());
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A picture in which every pixel tells its place.
pub fn pattern(x: u32, y: u32) -> u32 {
    (x * 7 + y * 3) & 0xff | ((x ^ y) & 0xff) << 8 | ((y * 5) & 0xff) << 16 | 0xaa00_0000
}
