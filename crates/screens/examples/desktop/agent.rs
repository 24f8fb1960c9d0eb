//! The agent's side of a source process, and a reader of one screen's frames.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, poll};
use vmshm_channel::source::{FromSource, Kind, PixelMemory, Screen, ToSource};
use vmshm_channel::{Channel, Size, timespec};
use vmshm_link::frames::{FRAMES_SIZE, Frame, FrameReader, ReaderState, Wants};
use vmshm_link::input::InputEvent;
use vmshm_shm::{Mapping, Protection, SharedMemory};

pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Agent {
    pub child: Child,
    channel: Channel,
    pub screens: Vec<Screen>,
    pub can_add: bool,
    pub notes: Vec<String>,
    answers: HashMap<u64, Result<u64, String>>,
    pub failed: Option<String>,
    next: u64,
    frames: BTreeMap<u64, OwnedFd>,
    pixels: BTreeMap<u64, Mapping>,
    in_use: BTreeMap<u64, u64>,
    readers: BTreeMap<u64, Vec<usize>>,
    pub needed: u64,
}

fn memfd(size: u64) -> OwnedFd {
    let fd = rustix::fs::memfd_create("region", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, size).unwrap();
    fd
}

pub fn size(width: u32, height: u32) -> Size {
    Size {
        width,
        height,
        refresh_millihertz: 0,
    }
}

impl Agent {
    pub fn start(socket: &str, environment: &[(String, String)], input: bool) -> Self {
        let (own, theirs) = UnixStream::pair().unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .arg("source")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        let mut channel = Channel::new(own).unwrap();
        let kind = Kind::Wlroots {
            socket: socket.to_owned(),
            environment: environment.to_vec(),
        };
        channel
            .send(&ToSource::Start { kind, input }, None)
            .unwrap();
        Self {
            child,
            channel,
            screens: Vec::new(),
            can_add: false,
            notes: Vec::new(),
            answers: HashMap::new(),
            failed: None,
            next: 0,
            frames: BTreeMap::new(),
            pixels: BTreeMap::new(),
            in_use: BTreeMap::new(),
            readers: BTreeMap::new(),
            needed: 0,
        }
    }

    pub fn send(&mut self, message: &ToSource) {
        self.channel.send(message, None).unwrap();
    }

    /// Takes what the source says, for so long at most.
    pub fn pump(&mut self, wait: Duration) {
        self.channel.flush().unwrap();
        let mut fds = [PollFd::new(&self.channel, self.channel.interest())];
        let _ = poll(&mut fds, Some(&timespec(wait)));
        loop {
            match self.channel.receive::<FromSource>() {
                Ok(Some((message, _))) => self.hear(message),
                Ok(None) => break,
                Err(_) => {
                    self.failed.get_or_insert("closed".to_owned());
                    std::thread::sleep(wait);
                    break;
                }
            }
        }
    }

    pub fn until<T>(&mut self, what: &str, mut found: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "no {what}; notes {:?}, failed {:?}",
                self.notes,
                self.failed
            );
            self.pump(Duration::from_millis(5));
        }
    }

    fn hear(&mut self, message: FromSource) {
        match message {
            FromSource::Screens { screens, can_add } => {
                self.screens = screens;
                self.can_add = can_add;
            }
            FromSource::NeedPixels {
                screen,
                request,
                memory,
            } => {
                let PixelMemory::Pinned { size } = memory else {
                    panic!("no device is wanted");
                };
                self.needed += 1;
                self.next += 1;
                let region = self.next;
                let fd = memfd(size);
                let mapping = Mapping::whole(&fd, size, Protection::ReadWrite).unwrap();
                self.pixels.insert(region, mapping);
                let message = ToSource::Pixels {
                    screen,
                    request,
                    region,
                    size,
                };
                self.channel.send(&message, Some(fd.as_fd())).unwrap();
            }
            FromSource::PixelsInUse { screen, region } => {
                if let Some(old) = self.in_use.insert(screen, region) {
                    self.pixels.remove(&old);
                }
            }
            FromSource::Added { request, screen } => drop(self.answers.insert(request, Ok(screen))),
            FromSource::ModeSet { request } => drop(self.answers.insert(request, Ok(0))),
            FromSource::Refused { request, message } => {
                drop(self.answers.insert(request, Err(message)));
            }
            FromSource::Note { message } => self.notes.push(message),
            FromSource::Failed { message, .. } => self.failed = Some(message),
        }
    }

    fn answer(&mut self, request: u64) -> Result<u64, String> {
        self.until("answer", |agent| agent.answers.remove(&request))
    }

    pub fn add(&mut self, mode: Size) -> Result<u64, String> {
        self.next += 1;
        let request = self.next;
        self.send(&ToSource::Add { request, mode });
        self.answer(request)
    }

    pub fn set_mode(&mut self, screen: u64, mode: Size) -> Result<u64, String> {
        self.next += 1;
        let request = self.next;
        self.send(&ToSource::SetMode {
            request,
            screen,
            mode,
        });
        self.answer(request)
    }

    pub fn screen(&self, name: &str) -> Option<&Screen> {
        self.screens.iter().find(|screen| screen.name == name)
    }

    pub fn by_number(&self, number: u64) -> &Screen {
        self.screens
            .iter()
            .find(|one| one.screen == number)
            .unwrap()
    }

    pub fn watch(&mut self, screen: u64) {
        let fd = memfd(FRAMES_SIZE);
        let message = ToSource::Watch {
            screen,
            size: FRAMES_SIZE,
        };
        self.channel.send(&message, Some(fd.as_fd())).unwrap();
        self.frames.insert(screen, fd);
    }

    /// A reader of a watched screen; the source lays its memory out.
    pub fn reader(&mut self, screen: u64, index: usize, wants: Wants) -> Reader {
        let file = self.frames[&screen].try_clone().unwrap();
        let frames = self.until("frames region", |_| {
            let mapping = Mapping::whole(&file, FRAMES_SIZE, Protection::ReadWrite).unwrap();
            FrameReader::new(mapping, index, wants).ok()
        });
        let mut readers = self.readers.get(&screen).cloned().unwrap_or_default();
        readers.push(index);
        self.set_readers(screen, &readers);
        Reader {
            frames,
            damage: Vec::new(),
            torn: 0,
        }
    }

    pub fn set_readers(&mut self, screen: u64, readers: &[usize]) {
        let readers = readers.to_vec();
        self.readers.insert(screen, readers.clone());
        self.send(&ToSource::Readers { screen, readers });
    }

    pub fn input(&mut self, screen: u64, reader: usize, events: &[InputEvent]) {
        let events = events.iter().map(|event| event.to_words()).collect();
        self.send(&ToSource::Input {
            screen,
            reader,
            events,
        });
    }

    pub fn pixels_of(&self, frame: &Frame) -> Option<Vec<u8>> {
        let mapping = self.pixels.get(&frame.place.region)?;
        frame.place.check(mapping.size()).unwrap();
        let mut bytes = vec![0; frame.place.length() as usize];
        mapping.read(frame.place.offset, &mut bytes).unwrap();
        Some(bytes)
    }
}

pub struct Reader {
    pub frames: FrameReader<Mapping>,
    /// Pixels damaged in each frame that was taken.
    pub damage: Vec<u64>,
    /// Frames that were overwritten while they were copied, and taken again.
    pub torn: usize,
}

impl Reader {
    pub fn state(&self) -> ReaderState {
        self.frames.state().unwrap()
    }

    /// Takes the newest frame in, if there is one.
    pub fn take(&mut self, agent: &Agent) -> Option<(Frame, Vec<u8>)> {
        self.frames.beat().unwrap();
        let look = self.frames.look().unwrap()?;
        let pixels = agent.pixels_of(&look.frame)?;
        if !self.frames.is_whole(&look.frame).unwrap() {
            self.torn += 1;
            self.frames.let_go().unwrap();
            return None;
        }
        self.frames.acknowledge(&look.frame).unwrap();
        self.damage.push(look.frame.damage.area());
        Some((look.frame, pixels))
    }

    /// Takes frames in until none comes for so long; the last one.
    pub fn settle(&mut self, agent: &mut Agent, quiet: Duration) -> Option<(Frame, Vec<u8>)> {
        let mut last = None;
        let mut since = Instant::now();
        while since.elapsed() < quiet {
            agent.pump(Duration::from_millis(2));
            if let Some(taken) = self.take(agent) {
                last = Some(taken);
                since = Instant::now();
            }
        }
        last
    }
}
