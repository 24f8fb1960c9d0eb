//! The agent's part: memory, and messages.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::MemfdFlags;
use vmshm_channel::source::{FromSource, Kind, PixelMemory, Screen, ToSource};
use vmshm_channel::{Channel, Size};
use vmshm_link::frames::FRAMES_SIZE;
use vmshm_screens::SourceError;
use vmshm_shm::{Mapping, Protection};

/// Far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);

pub const fn size(width: u32, height: u32, refresh_millihertz: u32) -> Size {
    Size {
        width,
        height,
        refresh_millihertz,
    }
}

struct Memory {
    region: u64,
    size: u64,
    file: OwnedFd,
}

/// An agent with one source.
pub struct Agent {
    name: String,
    channel: Channel,
    source: Option<JoinHandle<Result<(), SourceError>>>,
    frames: Option<OwnedFd>,
    /// All pixels regions of this screen that were given and not replaced.
    pixels: Vec<Memory>,
    /// How many regions were made.
    pub regions: u64,
    pub screen: Screen,
    pub refuse_memory: Option<String>,
    /// How often memory was refused.
    pub refused: u64,
    pub notes: Vec<String>,
    last_request: u64,
}

fn start_source() -> (Channel, JoinHandle<Result<(), SourceError>>, Screen) {
    let (ours, theirs) = UnixStream::pair().expect("succeeds");
    let mut channel = Channel::new(ours).expect("succeeds");
    let source =
        std::thread::spawn(move || vmshm_screens::serve(Channel::new(theirs).expect("succeeds")));
    let start = ToSource::Start {
        kind: Kind::TestCard,
        input: true,
    };
    channel.send(&start, None).expect("succeeds");
    let (first, _) = channel.next::<FromSource>(PATIENCE).expect("an answer");
    let FromSource::Screens { screens, can_add } = first else {
        panic!("{first:?}");
    };
    assert!(!can_add);
    let [screen] = screens.as_slice() else {
        panic!("{screens:?}");
    };
    (channel, source, screen.clone())
}

impl Agent {
    /// Memory's files get `name`, so that mappings can be counted.
    pub fn start(name: &str) -> Self {
        let (channel, source, screen) = start_source();
        Self {
            name: format!("card-{name}-"),
            channel,
            source: Some(source),
            frames: None,
            pixels: Vec::new(),
            regions: 0,
            screen,
            refuse_memory: None,
            refused: 0,
            notes: Vec::new(),
            last_request: 0,
        }
    }

    /// Ends the source as its death does, and starts another.
    pub fn restart_source(&mut self) {
        let (channel, source, screen) = start_source();
        self.channel = channel;
        let old = self.source.replace(source).expect("there was one");
        old.join().expect("no panic").expect("a quiet end");
        self.screen = screen;
        self.pixels.clear();
    }

    pub fn end(&mut self) {
        let (other, _) = UnixStream::pair().expect("succeeds");
        self.channel = Channel::new(other).expect("succeeds");
        let source = self.source.take().expect("there is one");
        source.join().expect("no panic").expect("a quiet end");
    }

    pub fn send(&mut self, message: &ToSource) {
        self.channel.send(message, None).expect("succeeds");
    }

    fn memory(&self, size: u64) -> OwnedFd {
        let file = rustix::fs::memfd_create(self.name.as_str(), MemfdFlags::CLOEXEC);
        let file = file.expect("succeeds");
        rustix::fs::ftruncate(&file, size).expect("succeeds");
        file
    }

    pub fn make_frames(&mut self) {
        self.frames = Some(self.memory(FRAMES_SIZE));
    }

    pub fn watch(&mut self) {
        self.make_frames();
        self.watch_again();
    }

    pub fn watch_again(&mut self) {
        let frames = self.frames.as_ref().expect("made");
        let watch = ToSource::Watch {
            screen: self.screen.screen,
            size: FRAMES_SIZE,
        };
        let sent = self.channel.send(&watch, Some(frames.as_fd()));
        sent.expect("succeeds");
    }

    pub fn readers(&mut self, readers: &[usize]) {
        let readers = readers.to_vec();
        let screen = self.screen.screen;
        self.send(&ToSource::Readers { screen, readers });
    }

    pub fn unwatch(&mut self) {
        let screen = self.screen.screen;
        self.send(&ToSource::Unwatch { screen });
        self.pixels.clear();
    }

    pub fn map_frames(&self) -> Mapping {
        let frames = self.frames.as_ref().expect("made");
        Mapping::whole(frames, FRAMES_SIZE, Protection::ReadWrite).expect("succeeds")
    }

    /// A region's memory, for reading, unless the source has replaced it.
    pub fn map_pixels(&self, region: u64) -> Option<Mapping> {
        let memory = self.pixels.iter().find(|one| one.region == region)?;
        Some(Mapping::whole(&memory.file, memory.size, Protection::Read).expect("succeeds"))
    }

    /// Bytes of the newest pixels region.
    pub fn pixels_size(&self) -> u64 {
        self.pixels.last().map_or(0, |memory| memory.size)
    }

    /// Mappings of this agent's memory in this process, on both sides.
    pub fn mappings(&self) -> usize {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("readable");
        maps.lines()
            .filter(|line| line.contains(&self.name))
            .count()
    }

    /// Sets a mode and waits until it is set or refused.
    pub fn set_mode(&mut self, mode: Size) -> Result<(), String> {
        self.last_request += 1;
        let asked = self.last_request;
        let screen = self.screen.screen;
        self.send(&ToSource::SetMode {
            request: asked,
            screen,
            mode,
        });
        match self.next() {
            FromSource::ModeSet { request } => {
                assert_eq!(request, asked);
                Ok(())
            }
            FromSource::Refused { request, message } => {
                assert_eq!(request, asked);
                Err(message)
            }
            other => panic!("{other:?}"),
        }
    }

    /// The next message that is no business of `serve`'s.
    pub fn next(&mut self) -> FromSource {
        loop {
            let (message, _) = self.channel.next(PATIENCE).expect("an answer");
            if let Some(other) = self.serve(message) {
                return other;
            }
        }
    }

    /// Waits for a message, and does what an agent does.
    pub fn serve_one(&mut self) {
        let (message, _) = self.channel.next(PATIENCE).expect("an answer");
        let rest = self.serve(message);
        assert!(rest.is_none(), "{rest:?}");
    }

    /// Does what an agent does for messages that are there already.
    pub fn serve_pending(&mut self) {
        while let Some((message, _)) = self.channel.receive().expect("lives") {
            let rest = self.serve(message);
            assert!(rest.is_none(), "{rest:?}");
        }
    }

    fn serve(&mut self, message: FromSource) -> Option<FromSource> {
        match message {
            FromSource::Screens { mut screens, .. } => self.screen = screens.remove(0),
            FromSource::NeedPixels {
                screen,
                request,
                memory,
            } => self.give(screen, request, &memory),
            FromSource::PixelsInUse { region, .. } => {
                self.pixels.retain(|memory| memory.region == region);
                assert_eq!(self.pixels.len(), 1, "memory that was never given");
            }
            FromSource::Note { message } => self.notes.push(message),
            other => return Some(other),
        }
        None
    }

    fn give(&mut self, screen: u64, request: u64, memory: &PixelMemory) {
        let PixelMemory::Pinned { size } = *memory else {
            panic!("{memory:?}");
        };
        assert!(size.is_multiple_of(4096), "no whole pages");
        if let Some(message) = self.refuse_memory.clone() {
            self.refused += 1;
            self.send(&ToSource::NoPixels {
                screen,
                request,
                message,
            });
            return;
        }
        self.regions += 1;
        let region = 100 + self.regions;
        let file = self.memory(size);
        let pixels = ToSource::Pixels {
            screen,
            request,
            region,
            size,
        };
        let sent = self.channel.send(&pixels, Some(file.as_fd()));
        sent.expect("succeeds");
        self.pixels.push(Memory { region, size, file });
    }
}
