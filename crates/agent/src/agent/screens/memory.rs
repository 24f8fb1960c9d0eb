//! The memory of screens: a frames region for each that is watched, made and proved like
//! other regions, and pixels regions for its source, which hosts only read.
//!
//! A session may write to the frames region as long as it holds it, whether it watches or
//! not: the pages go when the last one has let go.

use std::os::fd::AsFd;

use vmshm_channel::source::{Kind, PixelMemory, ToSource};
use vmshm_link::control::{EndCause, RefusalCode};
use vmshm_link::directory::RegionKind;
use vmshm_link::frames::{FRAMES_SIZE, FrameWriter, SourceState};
use vmshm_shm::Protection;

use tracing::{debug, warn};

use super::super::creation::{Origin, Refusal};
use super::super::regions::{Holder, Region};
use super::super::requests::{Answered, Outcome, answered, refused};
use super::super::service::{Service, ServiceError};
use super::book::{Pixels, Screen};
use super::requests::no_screen;
use super::source::SourceId;
use crate::window::Window;

/// A memory that is made for a screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScreenMemory {
    /// Its frames, for the first who watches it.
    Frames {
        /// The screen.
        screen: u64,
        /// Who watches.
        holder: Holder,
        /// By this request.
        tag: u64,
    },
    /// Room for pictures.
    Pixels {
        /// The screen.
        screen: u64,
        /// Number of the attempt.
        attempt: u64,
        /// What its source called it.
        request: u64,
        /// The device's own memory.
        device: bool,
    },
}

impl ScreenMemory {
    /// Whether it is there to be used at once: hosts write nothing there.
    pub(crate) const fn needs_no_proof(self) -> bool {
        matches!(self, Self::Pixels { .. })
    }

    /// Who holds it from the beginning.
    pub(crate) const fn holder(self) -> Option<Holder> {
        match self {
            Self::Frames { holder, .. } => Some(holder),
            Self::Pixels { .. } => None,
        }
    }
}

impl Service {
    /// A session wants a screen's frames.
    pub(super) fn watch(&mut self, holder: Holder, tag: u64, id: u64) -> Answered {
        let Some(screen) = self.screens.book.get(&id).filter(|one| !one.leaving) else {
            return no_screen(id);
        };
        if self.hugetlb {
            return refused(
                RefusalCode::CannotPin,
                "this guest pins by huge pages alone, which screens cannot use (allow io_uring or AF_XDP)",
            );
        }
        if screen.making_frames {
            return Ok(Ok(Outcome::Later));
        }
        let frames = screen.frames.and_then(|frames| self.regions.get(frames));
        if let Some(region) = frames.filter(|region| region.description.listed) {
            // The pattern that another host looks at must not vanish under a second one.
            let mut others = region.description.holders.iter();
            if !region.description.ready && others.any(|other| *other != holder) {
                return Ok(Ok(Outcome::Later));
            }
            let reply = Self::describe(region);
            let region = region.id;
            if let Some(region) = self.regions.get_mut(region) {
                region.description.holders.insert(holder);
            }
            if let Some(screen) = self.screens.book.get_mut(&id) {
                screen.watchers.insert(holder);
            }
            self.settle_screens()?;
            return answered(reply);
        }
        if !screen.there {
            return no_screen(id);
        }
        let name = format!("screen-{id}");
        if self.is_being_made(&name) || self.regions.find(&name).is_some() {
            let message = format!("another region of this guest is called `{name}`");
            return refused(RefusalCode::Exists, message);
        }
        let memory = ScreenMemory::Frames {
            screen: id,
            holder,
            tag,
        };
        let origin = Origin::Screen(memory);
        let created = self.create(&name, RegionKind::Frames, FRAMES_SIZE, origin)?;
        if created.is_ok()
            && let Some(screen) = self.screens.book.get_mut(&id)
        {
            screen.frames = None;
            screen.making_frames = true;
        }
        Ok(created.map(|()| Outcome::Waits))
    }

    /// A session wants pictures that a frame names.
    pub(super) fn hold_pixels(&mut self, holder: Holder, region: u64) -> Answered {
        let is_its = |screen: &Screen| {
            screen.watchers.contains(&holder)
                && screen.pixels.iter().any(|pixels| pixels.region == region)
        };
        let known = self.screens.book.values().any(is_its);
        match self.regions.get_mut(region).filter(|_| known) {
            Some(region) => {
                region.description.holders.insert(holder);
                let reply = Self::describe(region);
                answered(reply)
            }
            None => refused(
                RefusalCode::NotFound,
                format!("region {region} has no pictures of a screen that this session watches"),
            ),
        }
    }

    /// A source wants memory for pictures.
    pub(super) fn need_pixels(
        &mut self,
        source: SourceId,
        number: u64,
        request: u64,
        memory: PixelMemory,
    ) -> Result<(), ServiceError> {
        let id = self.screens.find(source, number);
        let Some(screen) = id.and_then(|id| self.screens.book.get_mut(&id)) else {
            let message = "there is no such screen";
            self.refuse_pixels(source, number, request, message);
            return Ok(());
        };
        if screen.told.is_none() {
            self.refuse_pixels(source, number, request, "nobody watches it");
            return Ok(());
        }
        if screen.making_pixels.is_some() {
            let earlier = screen.wanted_pixels.replace((request, memory));
            if let Some((earlier, _)) = earlier {
                self.refuse_pixels(source, number, earlier, "a later request came");
            }
            return Ok(());
        }
        // What came before, and was never used, never will be.
        let (used, unused): (Vec<_>, Vec<_>) =
            screen.pixels.iter().copied().partition(|one| one.used);
        screen.pixels = used;
        self.end_pixels(&unused);
        if let Some(id) = id {
            self.make_pixels(id, request, memory)?;
        }
        self.settle()
    }

    fn make_pixels(
        &mut self,
        id: u64,
        request: u64,
        memory: PixelMemory,
    ) -> Result<(), ServiceError> {
        let attempt = self.screens.next_request();
        let Some(screen) = self.screens.book.get_mut(&id) else {
            return Ok(());
        };
        let (source, number) = (screen.source, screen.number);
        let (size, device) = match memory {
            PixelMemory::Pinned { size } => (size, None),
            PixelMemory::Device { device, size } => (size, Some(device)),
        };
        // A desktop's user has no business with devices.
        let kind = self.screens.sources.get(&source).map(|source| &source.kind);
        let is_own =
            |path: &String| matches!(kind, Some(Kind::Framebuffer { device }) if device == path);
        if device.as_ref().is_some_and(|path| !is_own(path)) {
            self.refuse_pixels(source, number, request, "that is not this source's device");
            return Ok(());
        }
        screen.pixels_count += 1;
        let name = format!("screen-{id}-pixels-{}", screen.pixels_count);
        let origin = Origin::Screen(ScreenMemory::Pixels {
            screen: id,
            attempt,
            request,
            device: device.is_some(),
        });
        if self.is_being_made(&name) || self.regions.find(&name).is_some() {
            let message = format!("another region of this guest is called `{name}`");
            self.refuse_pixels(source, number, request, &message);
            return Ok(());
        }
        match self.create_pixels(&name, size, device, origin)? {
            Ok(()) => {
                if let Some(screen) = self.screens.book.get_mut(&id) {
                    screen.making_pixels = Some(attempt);
                }
            }
            Err(refusal) => self.refuse_pixels(source, number, request, &refusal.message),
        }
        Ok(())
    }

    fn refuse_pixels(&mut self, source: SourceId, number: u64, request: u64, message: &str) {
        debug!(source, screen = number, message, "no memory for pictures");
        let message = ToSource::NoPixels {
            screen: number,
            request,
            message: message.to_owned(),
        };
        self.screens.tell(source, &message);
    }

    /// Whether a memory that is there now is still wanted. If not, what is wanted instead is
    /// asked for.
    pub(in super::super) fn wants_screen_memory(
        &mut self,
        memory: ScreenMemory,
    ) -> Result<bool, ServiceError> {
        match memory {
            ScreenMemory::Frames {
                screen,
                holder,
                tag,
            } => {
                let waits = self.is_waiting((holder, tag));
                let Some(screen) = self.screens.book.get_mut(&screen) else {
                    return Ok(false);
                };
                screen.making_frames = false;
                Ok(waits)
            }
            ScreenMemory::Pixels {
                screen: id,
                attempt,
                ..
            } => {
                let Some(screen) = self.screens.book.get_mut(&id) else {
                    return Ok(false);
                };
                let is_current = screen.making_pixels.take() == Some(attempt);
                let told = screen.told.is_some();
                match screen.wanted_pixels.take() {
                    Some((request, memory)) if told => {
                        self.make_pixels(id, request, memory)?;
                        Ok(false)
                    }
                    _ => Ok(is_current && told),
                }
            }
        }
    }

    /// The memory is there, in the book of regions.
    pub(in super::super) fn take_screen_memory(&mut self, memory: ScreenMemory, region: u64) {
        match memory {
            ScreenMemory::Frames {
                screen,
                holder,
                tag,
            } => {
                if let Some(screen) = self.screens.book.get_mut(&screen) {
                    screen.frames = Some(region);
                    screen.watchers.insert(holder);
                }
                if let Some(reply) = self.regions.get(region).map(Self::describe) {
                    self.answer_asker((holder, tag), &reply);
                }
            }
            ScreenMemory::Pixels {
                screen: id,
                request,
                device,
                ..
            } => {
                let size = self.regions.get(region).map_or(0, |region| region.size);
                let Some(screen) = self.screens.book.get_mut(&id) else {
                    return;
                };
                screen.pixels.push(Pixels {
                    region,
                    used: false,
                });
                let number = screen.number;
                let message = ToSource::Pixels {
                    screen: number,
                    request,
                    region,
                    size,
                };
                let file = self.files.get(&region).filter(|_| !device);
                if let Some(source) = self.screens.source_of(id) {
                    source.send_with(&message, file.map(AsFd::as_fd));
                }
            }
        }
    }

    /// The memory cannot be had.
    pub(in super::super) fn refuse_screen_memory(
        &mut self,
        memory: ScreenMemory,
        refusal: &Refusal,
    ) -> Result<(), ServiceError> {
        match memory {
            ScreenMemory::Frames {
                screen,
                holder,
                tag,
            } => {
                if let Some(screen) = self.screens.book.get_mut(&screen) {
                    screen.making_frames = false;
                }
                self.refuse_asker((holder, tag), refusal);
            }
            ScreenMemory::Pixels {
                screen, request, ..
            } => {
                if self.wants_screen_memory(memory)?
                    && let Some(screen) = self.screens.book.get(&screen)
                {
                    let (source, number) = (screen.source, screen.number);
                    self.refuse_pixels(source, number, request, &refusal.message);
                }
            }
        }
        Ok(())
    }

    /// A source draws into a region now, and has forgotten the others.
    pub(super) fn pixels_in_use(
        &mut self,
        source: SourceId,
        number: u64,
        region: u64,
    ) -> Result<(), ServiceError> {
        let id = self.screens.find(source, number);
        let Some(screen) = id.and_then(|id| self.screens.book.get_mut(&id)) else {
            return Ok(());
        };
        let (mut used, unused): (Vec<Pixels>, Vec<Pixels>) =
            screen.pixels.iter().partition(|one| one.region == region);
        if used.is_empty() {
            return Ok(());
        }
        used.iter_mut().for_each(|one| one.used = true);
        screen.pixels = used;
        self.end_pixels(&unused);
        self.settle()
    }

    fn end_pixels(&mut self, pixels: &[Pixels]) {
        for one in pixels {
            let message = "the screen has other memory now";
            self.end_region(one.region, EndCause::Removed, message);
        }
    }

    /// A session closes a region: if it is a screen's frames, it watches no longer.
    pub(in super::super) fn stop_watching(&mut self, holder: Holder, region: u64) {
        let mut screens = self.screens.book.values_mut();
        if let Some(screen) = screens.find(|screen| screen.frames == Some(region)) {
            screen.watchers.remove(&holder);
        }
    }

    /// Nobody watches a screen any more: its memory goes once nobody holds it.
    pub(super) fn end_screen_memory(&mut self, id: u64) {
        let Some(screen) = self.screens.book.get_mut(&id) else {
            return;
        };
        let frames = screen.frames.take();
        let pixels = std::mem::take(&mut screen.pixels);
        screen.wanted_pixels = None;
        if let Some(frames) = frames {
            self.end_region(frames, EndCause::Removed, "nobody watched the screen");
        }
        self.end_pixels(&pixels);
    }

    /// Tells those who watch a screen that it is gone, in its source's place.
    pub(super) fn mark_gone(&self, id: u64) {
        let screen = self.screens.book.get(&id);
        if let Some(frames) = screen.and_then(|screen| screen.frames) {
            self.set_frames_state(frames, SourceState::Gone);
        }
    }

    /// A host has proved the pages: if they are a screen's frames, lays them out, so that no
    /// reader has to wait for the source, and gives them to it.
    pub(in super::super) fn frames_proved(&mut self, region: u64) -> Result<(), ServiceError> {
        let kind = self.regions.get(region).map(Region::kind);
        if kind != Some(RegionKind::Frames) {
            return Ok(());
        }
        self.set_frames_state(region, SourceState::Starting);
        self.settle_screens()
    }

    /// Only where no source writes.
    fn set_frames_state(&self, region: u64, state: SourceState) {
        let region = self.regions.get(region);
        let Some(region) = region.filter(|region| region.description.ready) else {
            return;
        };
        let Some(file) = self.files.get(&region.id) else {
            return;
        };
        // The source may have left anything there.
        let said = Window::open(file, 0, FRAMES_SIZE, Protection::ReadWrite)
            .map_err(|error| error.to_string())
            .and_then(|memory| {
                let writer = FrameWriter::resume(memory).map_err(|error| error.to_string())?;
                let said = writer.set_state(state);
                said.map_err(|error| error.to_string())
            });
        if let Err(error) = said {
            warn!(region = region.id, error, "a screen's state is not told");
        }
    }
}
