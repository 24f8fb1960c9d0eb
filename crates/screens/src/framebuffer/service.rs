//! The talk with the agent about one framebuffer, and when to look at it.
//!
//! Everything happens in one loop, which waits for the agent and for the next look. Nobody
//! watching, it looks at the mode alone, now and then.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, poll};
use rustix::io::Errno;
use vmshm_channel::source::{FromSource, PixelMemory, Screen, ToSource};
use vmshm_channel::{Channel, ChannelError, Size, timespec};
use vmshm_link::frames::SourceState;
use vmshm_link::input::InputEvent;

use super::device::{Device, Driver, Variable};
use super::modes;
use super::pace::{FASTEST, SLOWEST};
use super::picture::{Picture, Unfit};
use super::watch::{Pixels, Watch, WatchError, pinned_bytes, slot_bytes};
use crate::SourceError;
use crate::outlet::{Demand, Outlet, OutletError};
use crate::uinput::Injector;

/// The number of the one screen that there is.
const SCREEN: u64 = 0;
/// How often the mode is looked at while nobody watches: a call, and nothing is read.
const UNWATCHED: Duration = Duration::from_secs(2);
/// Messages of one turn; then it is time to look at the picture.
const MESSAGES: usize = 64;
/// Looks at a guest that pans while it is looked at.
const LOOKS: usize = 3;

/// What is said of a framebuffer.
#[derive(Debug, Clone)]
pub struct About {
    /// Its path.
    pub path: PathBuf,
    /// `fb0`.
    pub name: String,
    /// What drives it: `vfb`.
    pub driver: String,
}

impl About {
    /// Asks the system, and the driver where the system says nothing.
    pub fn of(path: &Path, device: &Device) -> Self {
        let name = path.file_name().unwrap_or_default();
        let link = Path::new("/sys/class/graphics")
            .join(name)
            .join("device/driver");
        let driver = std::fs::read_link(link).ok().and_then(|link| {
            let name = link.file_name()?;
            Some(name.to_string_lossy().into_owned())
        });
        let own_name = || {
            let id = device.fixed().map(|fixed| fixed.id).unwrap_or_default();
            let end = id.iter().position(|byte| *byte == 0).unwrap_or(id.len());
            String::from_utf8_lossy(&id[..end]).into_owned()
        };
        Self {
            path: path.to_owned(),
            name: name.to_string_lossy().into_owned(),
            driver: driver.unwrap_or_else(own_name),
        }
    }
}

/// One framebuffer, being served.
pub struct Service<'a, D: Driver> {
    channel: &'a mut Channel,
    driver: &'a D,
    about: About,
    injector: Option<Injector>,
    variable: Variable,
    picture: Result<Picture, Unfit>,
    takes_sizes: bool,
    /// Why the device's own memory cannot be shown, once that is known.
    no_device_memory: bool,
    watch: Option<Watch<D::Memory>>,
    requests: u64,
    said: Option<Screen>,
    /// A layout that cannot be shown was said so; not again before it changes.
    said_unfit: bool,
    due: Instant,
}

impl<'a, D: Driver> Service<'a, D> {
    /// Looks at the device for the first time, and says that it is there.
    pub fn new(
        channel: &'a mut Channel,
        driver: &'a D,
        about: About,
        injector: Option<Injector>,
    ) -> Result<Self, SourceError> {
        let read = || -> Result<_, Errno> {
            let variable = driver.variable()?;
            let fixed = driver.fixed()?;
            Ok((variable, fixed))
        };
        let (variable, fixed) = read().map_err(|error| gone(&about, error))?;
        let mut service = Self {
            takes_sizes: modes::takes_sizes(driver, &variable, &fixed),
            picture: Picture::new(&variable, &fixed),
            channel,
            driver,
            about,
            injector,
            variable,
            no_device_memory: false,
            watch: None,
            requests: 0,
            said: None,
            said_unfit: false,
            due: Instant::now(),
        };
        service.say_screen()?;
        Ok(service)
    }

    /// Serves until the agent closes the channel or the device is gone.
    pub fn run(mut self) -> Result<(), SourceError> {
        let mut more = false;
        loop {
            let now = Instant::now();
            let mut wait = self.due.saturating_duration_since(now);
            if let Some(due) = self.injector.as_ref().and_then(Injector::due) {
                wait = wait.min(due.saturating_duration_since(now));
            }
            if more {
                wait = Duration::ZERO;
            }
            let mut ready = [PollFd::new(&*self.channel, self.channel.interest())];
            match poll(&mut ready, Some(&timespec(wait))) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(ChannelError::from(error).into()),
            }
            self.channel.flush()?;
            more = true;
            for _ in 0..MESSAGES {
                let Some((message, descriptor)) = self.channel.receive()? else {
                    more = false;
                    break;
                };
                self.take(message, descriptor)?;
            }
            self.inject(|injector| injector.turn(Instant::now()))?;
            if Instant::now() >= self.due {
                self.look()?;
            }
        }
    }

    fn take(&mut self, message: ToSource, file: Option<OwnedFd>) -> Result<(), SourceError> {
        let malformed = |what: &str| ChannelError::Malformed(what.to_owned());
        match message {
            ToSource::Start { .. } => return Err(malformed("a second Start").into()),
            ToSource::Watch {
                screen: SCREEN,
                size,
            } => {
                let file = file.ok_or_else(|| malformed("frames without a descriptor"))?;
                self.begin_watch(&file, size)?;
            }
            ToSource::Pixels {
                screen: SCREEN,
                request,
                region,
                size,
            } => self.take_pixels(request, region, size, file)?,
            ToSource::NoPixels {
                screen: SCREEN,
                request,
                message,
            } => self.do_without_pixels(request, &message)?,
            ToSource::Readers {
                screen: SCREEN,
                readers,
            } => {
                if let Some(watch) = &mut self.watch {
                    watch.outlet.set_readers(&readers);
                    watch.pace.hurry();
                    self.due = Instant::now();
                }
                self.inject(|injector| injector.keep_readers(&readers))?;
            }
            ToSource::Unwatch { screen: SCREEN } => {
                self.watch = None;
                self.inject(|injector| injector.keep_readers(&[]))?;
            }
            ToSource::Add { request, .. } => {
                let message = "a framebuffer device has no outputs to plug in".to_owned();
                self.say(&FromSource::Refused { request, message })?;
            }
            ToSource::SetMode {
                request,
                screen,
                mode,
            } => self.set_mode(request, screen, mode)?,
            ToSource::Input {
                screen: SCREEN,
                reader,
                events,
            } => {
                let events = events.into_iter().filter_map(InputEvent::from_words);
                let events: Vec<InputEvent> = events.collect();
                self.inject(|injector| injector.take(reader, &events, Instant::now()))?;
                if let Some(watch) = &mut self.watch {
                    // What the guest shows in answer should not wait for a slow look.
                    watch.pace.hurry();
                    self.due = self.due.min(Instant::now() + FASTEST);
                }
            }
            // Key codes mean what the guest's own keymap says; screens that are not ours.
            ToSource::Keymap { .. }
            | ToSource::Remove { .. }
            | ToSource::Watch { .. }
            | ToSource::Pixels { .. }
            | ToSource::NoPixels { .. }
            | ToSource::Readers { .. }
            | ToSource::Unwatch { .. }
            | ToSource::Input { .. } => {}
        }
        Ok(())
    }

    fn begin_watch(&mut self, file: &OwnedFd, size: u64) -> Result<(), SourceError> {
        let outlet = match Outlet::open(file, size) {
            Ok(outlet) => outlet,
            Err(error) => return self.lose(&error.into()),
        };
        // Before a picture fits, nothing is read: a page stands for the memory.
        let mapped = self.picture.as_ref().map_or(4096, |picture| picture.memory);
        let memory = self.map(mapped)?;
        self.watch = Some(Watch::new(outlet, memory, mapped));
        self.said_unfit = false;
        self.due = Instant::now();
        self.ask_for_pixels()
    }

    /// Asks for memory for pictures, if there is need.
    fn ask_for_pixels(&mut self) -> Result<(), SourceError> {
        let Some(watch) = &mut self.watch else {
            return Ok(());
        };
        let picture = match &self.picture {
            Ok(picture) => *picture,
            Err(unfit) => {
                let (width, height) = (self.variable.xres, self.variable.yres);
                let help = if self.takes_sizes {
                    format!("; setting a mode makes them so: `--mode {width}x{height}`")
                } else {
                    String::new()
                };
                let message = format!("{} cannot be shown: {unfit}{help}", self.about.name);
                let _ = watch.outlet.set_state(SourceState::Starting);
                if std::mem::replace(&mut self.said_unfit, true) {
                    return Ok(());
                }
                return self.say(&FromSource::Note { message });
            }
        };
        self.said_unfit = false;
        if watch.mapped() != picture.memory {
            let memory = self.map(picture.memory)?;
            if let Some(watch) = &mut self.watch {
                watch.remap(memory, picture.memory);
            }
        }
        let Some(watch) = &mut self.watch else {
            return Ok(());
        };
        if watch.has_room(&picture) || watch.requested.is_some() {
            return Ok(());
        }
        self.requests += 1;
        let request = self.requests;
        watch.requested = Some(request);
        let memory = if self.no_device_memory {
            PixelMemory::Pinned {
                size: pinned_bytes(&picture),
            }
        } else {
            PixelMemory::Device {
                device: self.about.path.to_string_lossy().into_owned(),
                size: picture.memory,
            }
        };
        self.say(&FromSource::NeedPixels {
            screen: SCREEN,
            request,
            memory,
        })
    }

    fn take_pixels(
        &mut self,
        request: u64,
        region: u64,
        size: u64,
        file: Option<OwnedFd>,
    ) -> Result<(), SourceError> {
        let Some(watch) = &mut self.watch else {
            return Ok(());
        };
        if watch.requested != Some(request) {
            return Ok(());
        }
        watch.requested = None;
        let taken = match (file, &self.picture) {
            // The mode has changed meanwhile to one that cannot be shown.
            (_, Err(_)) => return Ok(()),
            (None, Ok(picture)) => {
                watch.pixels = Pixels::Device(picture.memory);
                let needed = picture.memory;
                watch.outlet.take_device_pixels(region, size);
                if size < needed {
                    Err(OutletError::TooSmall { size, needed })
                } else {
                    Ok(())
                }
            }
            (Some(file), Ok(picture)) => {
                let slot = slot_bytes(picture);
                watch.pixels = Pixels::Pinned(slot);
                watch.outlet.take_pixels(region, size, file, slot)
            }
        };
        watch.forget();
        self.due = Instant::now();
        taken.map_err(|error| self.failed(&error.into()))?;
        self.say(&FromSource::PixelsInUse {
            screen: SCREEN,
            region,
        })?;
        // The mode may have changed since they were asked for.
        self.ask_for_pixels()
    }

    fn do_without_pixels(&mut self, request: u64, why: &str) -> Result<(), SourceError> {
        let Some(watch) = &mut self.watch else {
            return Ok(());
        };
        if watch.requested != Some(request) {
            return Ok(());
        }
        watch.requested = None;
        let name = &self.about.name;
        if std::mem::replace(&mut self.no_device_memory, true) {
            // Asked again when the mode changes or the screen is watched anew.
            let message = format!("no memory for pictures of {name}: {why}");
            return self.say(&FromSource::Note { message });
        }
        let message =
            format!("{name} is shown by copying, since its memory cannot be shared: {why}");
        self.say(&FromSource::Note { message })?;
        self.ask_for_pixels()
    }

    fn set_mode(&mut self, request: u64, screen: u64, mode: Size) -> Result<(), SourceError> {
        let set = if screen == SCREEN {
            modes::set(self.driver, mode)
        } else {
            Err("there is no such screen".to_owned())
        };
        self.refresh()?;
        self.due = Instant::now();
        self.say(&match set {
            Ok(()) => FromSource::ModeSet { request },
            Err(message) => FromSource::Refused { request, message },
        })
    }

    /// Looks at what the driver says; a changed mode is announced.
    fn refresh(&mut self) -> Result<(), SourceError> {
        let driver = self.driver;
        let variable = driver
            .variable()
            .map_err(|error| gone(&self.about, error))?;
        if variable == self.variable {
            return Ok(());
        }
        let fixed = driver.fixed().map_err(|error| gone(&self.about, error))?;
        let picture = Picture::new(&variable, &fixed);
        let panned = match (&picture, &self.picture) {
            (Ok(now), Ok(before)) => now.is_panned(before),
            _ => false,
        };
        self.variable = variable;
        self.picture = picture;
        if panned {
            return Ok(());
        }
        self.takes_sizes = modes::takes_sizes(driver, &variable, &fixed);
        if let Some(watch) = &mut self.watch {
            watch.forget();
            // What was asked for is of no use; its answer will be ignored.
            if watch.requested.take().is_some() {
                watch.pixels = Pixels::Nowhere;
            }
        }
        self.said_unfit = false;
        self.say_screen()?;
        self.ask_for_pixels()
    }

    /// One look, if somebody wants a frame.
    fn look(&mut self) -> Result<(), SourceError> {
        let started = Instant::now();
        let Some(watch) = &mut self.watch else {
            self.due = started + UNWATCHED;
            return self.refresh();
        };
        let demand = watch.outlet.demand();
        let nobody = watch.outlet.readers().next().is_none();
        let demand = match demand {
            Ok(demand) => demand,
            Err(error) => return self.lose(&error.into()),
        };
        let fresh = match demand {
            Demand::Nobody => {
                self.due = started + if nobody { UNWATCHED } else { SLOWEST };
                return Ok(());
            }
            Demand::NotYet => return self.look_at_pan(started),
            Demand::Wanted { fresh, .. } => fresh,
        };
        self.refresh()?;
        let mut steady = false;
        for _ in 0..LOOKS {
            let Some((watch, picture)) = self.visible() else {
                self.due = started + SLOWEST;
                return Ok(());
            };
            let looked = watch.look(&picture);
            if let Err(error) = looked {
                return self.lose(&error);
            }
            if !picture.room_for_two {
                steady = true;
                break;
            }
            self.refresh()?;
            steady = self.picture.as_ref() == Ok(&picture);
            if steady {
                break;
            }
        }
        let Some((watch, picture)) = self.visible() else {
            self.due = started + SLOWEST;
            return Ok(());
        };
        let announced = watch.announce(&picture, started, steady, fresh);
        let interval = watch.pace.interval();
        if let Err(error) = announced {
            return self.lose(&error);
        }
        self.due = (started + interval).max(Instant::now() + Duration::from_millis(1));
        self.say_screen()
    }

    /// The watched picture, if it can be shown now.
    fn visible(&mut self) -> Option<(&mut Watch<D::Memory>, Picture)> {
        let picture = *self.picture.as_ref().ok()?;
        let watch = self.watch.as_mut()?;
        watch.has_room(&picture).then_some((watch, picture))
    }

    /// Readers are still copying: only where the picture lies is looked at.
    fn look_at_pan(&mut self, started: Instant) -> Result<(), SourceError> {
        let panning = |watch: &Watch<_>| watch.panning.is_panning();
        if self.watch.as_ref().is_some_and(panning) {
            self.refresh()?;
            if let Some((watch, picture)) = self.visible() {
                let noted = watch.note_pan(&picture);
                if let Err(error) = noted {
                    return self.lose(&error);
                }
            }
        }
        if let Some(watch) = &mut self.watch {
            self.due = started + watch.patience();
        }
        Ok(())
    }

    /// Does something with the input devices. When they fail, the screen takes no input any
    /// more.
    fn inject(
        &mut self,
        act: impl FnOnce(&mut Injector) -> std::io::Result<()>,
    ) -> Result<(), SourceError> {
        let Some(injector) = &mut self.injector else {
            return Ok(());
        };
        let Err(error) = act(injector) else {
            return Ok(());
        };
        self.injector = None;
        let message = format!("no input for {}: {error}", self.about.name);
        self.say(&FromSource::Note { message })?;
        self.say_screen()
    }

    /// Says what there is, if that has changed.
    fn say_screen(&mut self) -> Result<(), SourceError> {
        let may_tear = self
            .watch
            .as_ref()
            .is_none_or(|watch| watch.panning.may_tear());
        let same = |said: &Screen| {
            said.may_tear == may_tear
                && said.input == self.injector.is_some()
                && said.set_mode == self.takes_sizes
                && said.mode == modes::current(&self.variable)
        };
        if self.said.as_ref().is_some_and(same) {
            return Ok(());
        }
        let fixed = self
            .driver
            .fixed()
            .map_err(|error| gone(&self.about, error))?;
        let screen = Screen {
            screen: SCREEN,
            name: self.about.name.clone(),
            source: format!("framebuffer {}", self.about.driver),
            mode: modes::current(&self.variable),
            modes: modes::offered(&self.variable, &fixed, self.takes_sizes),
            any_size: self.takes_sizes,
            scale_thousandths: 1000,
            input: self.injector.is_some(),
            set_mode: self.takes_sizes,
            added: false,
            may_tear,
        };
        self.said = Some(screen.clone());
        self.say(&FromSource::Screens {
            screens: vec![screen],
            can_add: false,
        })
    }

    fn say(&mut self, message: &FromSource) -> Result<(), SourceError> {
        Ok(self.channel.send(message, None)?)
    }

    fn map(&self, size: u64) -> Result<D::Memory, SourceError> {
        self.driver.map(size).map_err(|error| SourceError::Failed {
            message: format!(
                "the memory of {} cannot be mapped: {error}",
                self.about.path.display()
            ),
            hint: None,
        })
    }

    /// Frames cannot go on: nobody watches, or the source ends.
    fn lose(&mut self, error: &WatchError) -> Result<(), SourceError> {
        match error {
            WatchError::Outlet(outlet) if outlet.is_taken_back() => {
                self.watch = None;
                Ok(())
            }
            _ => Err(self.failed(error)),
        }
    }

    fn failed(&self, error: &WatchError) -> SourceError {
        SourceError::Failed {
            message: format!("{} cannot be shown: {error}", self.about.path.display()),
            hint: None,
        }
    }
}

/// The device does not answer any more.
fn gone(about: &About, error: Errno) -> SourceError {
    let path = about.path.display();
    SourceError::Failed {
        message: if error == Errno::NODEV {
            format!("{path} is gone")
        } else {
            format!("{path} does not answer: {error}")
        },
        hint: None,
    }
}
