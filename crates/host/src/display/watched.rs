//! A screen that is being watched: its session, its frames, and the way on which they get
//! to the monitor. Where the monitor can map the guest's pages it gets them; else they are
//! relayed. Nothing here waits longer than it is told.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use vmshm_channel::Channel;
use vmshm_channel::sink::{Run, ToMonitor};
use vmshm_link::LinkError;
use vmshm_link::control::{Reply, Request};
use vmshm_link::directory::{self, RegionEntry};
use vmshm_link::frames::{FrameReader, SourceState, Wants};
use vmshm_link::screens::ScreenRequest;
use vmshm_ram::{Method, Protection};

use super::asking::{Asking, Screen};
use super::error::DisplayError;
use super::opening::{self, Wanted, Way};
use super::relay::{self, Relay, RelayCounts, RelayError, Step};
use crate::ending::SessionEnd;
use crate::region::{Region, unexpected};
use crate::session::{RequestError, Session};
use crate::source::Place;

/// The most runs that a monitor is asked to map; a process may have some 65000 mappings.
const MOST_RUNS: usize = 16_000;
/// The most pixels regions that are held at a time.
const MOST_HELD: usize = 4;
/// How often the source's state is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Why a watch is over.
#[derive(Debug)]
pub(super) enum Lost {
    /// With its session.
    Session(SessionEnd),
    /// The session goes on.
    Screen(DisplayError),
}

impl From<SessionEnd> for Lost {
    fn from(end: SessionEnd) -> Self {
        Self::Session(end)
    }
}

/// A pixels region that this session holds.
#[derive(Debug)]
struct Held {
    region: u64,
    place: Place,
}

/// A screen that is watched.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) screen: Screen,
    frames: Region,
    reader: usize,
    way: Way,
    held: Vec<Held>,
    patience: Duration,
    /// Whether one picture is wanted.
    picture: bool,
    looked: Instant,
    /// Where the frames' region was in the guest's table.
    entry: usize,
    /// Whether a broker has said that the frames' region is over.
    is_told_over: bool,
    /// Last: what it holds is let go of before it ends.
    pub(super) session: Box<Session>,
}

impl Watched {
    /// Chooses the screen and holds its frames.
    ///
    /// # Errors
    /// The session, unless it has ended, and why.
    pub(super) fn open(
        mut session: Box<Session>,
        wanted: &Wanted,
        stop: &AtomicBool,
    ) -> Result<Self, (Option<Box<Session>>, DisplayError)> {
        let mut opened = None;
        let result = opening::choose(&mut session, wanted, stop).and_then(|screen| {
            let frames = opening::hold(&mut session, screen.id, wanted, stop);
            if frames.is_err() {
                let screen = screen.id;
                let leave = Request::Screen(ScreenRequest::Leave { screen });
                let _ = ask_and_forget(&mut session, &leave);
            }
            opened = Some(frames?);
            Ok(screen)
        });
        match (result, opened) {
            (Ok(screen), Some(opened)) => Ok(Self {
                session,
                screen,
                frames: opened.frames,
                reader: opened.reader,
                way: opened.way,
                held: Vec::new(),
                patience: wanted.patience,
                picture: wanted.picture,
                looked: Instant::now(),
                entry: 0,
                is_told_over: false,
            }),
            (Ok(_), None) => Err((Some(session), DisplayError::Request(unexpected().into()))),
            (Err(error), _) => {
                let kept = (!error.ends_session()).then_some(session);
                Err((kept, error))
            }
        }
    }

    /// How the monitor reaches the frames.
    pub(super) fn method(&self) -> Method {
        match self.way {
            Way::Mapped(_) => self.frames.memory.method(),
            Way::Relayed(_) => Method::Copy,
        }
    }

    /// What the relay has done.
    pub(super) fn relay_counts(&self) -> RelayCounts {
        match &self.way {
            Way::Mapped(_) => RelayCounts::default(),
            Way::Relayed(relay) => relay.counts(),
        }
    }

    /// How long there is nothing to be done.
    pub(super) fn pause(&self) -> Duration {
        match &self.way {
            Way::Mapped(_) => LOOK_EVERY / 2,
            Way::Relayed(relay) => relay.pause(),
        }
    }

    /// Hands the frames to the monitor.
    pub(super) fn send_frames(&self, channel: &mut Channel) -> Result<(), DisplayError> {
        if let Way::Relayed(relay) = &self.way {
            let (file, runs) = relay.frames();
            let reader = relay::READER;
            let frames = ToMonitor::Frames { runs, reader };
            return Ok(channel.send(&frames, Some(file))?);
        }
        let source = self.session.source();
        let Some(found) = source.runs_of(&self.frames, Protection::ReadWrite) else {
            return Err(DisplayError::Request(RequestError::Pages(
                "they cannot be mapped by another process".to_owned(),
            )));
        };
        let frames = ToMonitor::Frames {
            runs: as_runs(&found.runs),
            reader: self.reader,
        };
        Ok(channel.send(&frames, Some(found.file()))?)
    }

    /// Hands a pixels region to the monitor, or says that it cannot be had.
    pub(super) fn send_pixels(
        &mut self,
        region: u64,
        channel: &mut Channel,
    ) -> Result<Result<(), Lost>, DisplayError> {
        let no = ToMonitor::NoPixels { region };
        if let Way::Relayed(relay) = &self.way {
            let pixels = relay.pixels(region).map_err(|error| DisplayError::System {
                doing: "passing pictures on",
                error,
            })?;
            match pixels {
                Some((file, runs)) => {
                    let pixels = ToMonitor::Pixels { region, runs };
                    channel.send(&pixels, Some(vmshm_channel::borrowed(&file)))?;
                }
                None => channel.send(&no, None)?,
            }
            return Ok(Ok(()));
        }
        match self.hold_pixels(region) {
            Ok(true) => {}
            Ok(false) => {
                channel.send(&no, None)?;
                return Ok(Ok(()));
            }
            Err(lost) => return Ok(Err(lost)),
        }
        let held = self.held.iter().find(|held| held.region == region);
        let source = self.session.source();
        let found = held.and_then(|held| source.file_runs(&held.place, Protection::Read));
        match found {
            Some(found) if found.runs.len() <= MOST_RUNS => {
                let runs = as_runs(&found.runs);
                let pixels = ToMonitor::Pixels { region, runs };
                channel.send(&pixels, Some(found.file()))?;
                Ok(Ok(()))
            }
            // Frames could be mapped, but pictures cannot.
            _ => match self.turn_to_relay() {
                Ok(()) => self.send_frames(channel).map(Ok),
                Err(error) => Ok(Err(self.lost(error))),
            },
        }
    }

    /// The monitor does not map this region any more.
    pub(super) fn drop_pixels(&mut self, region: u64) -> Result<(), SessionEnd> {
        let before = self.held.len();
        self.held.retain(|held| held.region != region);
        if self.held.len() == before {
            return Ok(());
        }
        ask_and_forget(&mut self.session, &Request::Close { region })
    }

    /// Holds a pixels region of the guest; no where it refuses.
    fn hold_pixels(&mut self, region: u64) -> Result<bool, Lost> {
        if self.held.iter().any(|held| held.region == region) {
            return Ok(true);
        }
        if self.held.len() >= MOST_HELD {
            let oldest = self.held.remove(0).region;
            ask_and_forget(&mut self.session, &Request::Close { region: oldest })?;
        }
        let source = self.session.source();
        let stop = AtomicBool::new(false);
        let mut asking = Asking {
            session: &mut self.session,
            patience: self.patience,
            stop: &stop,
        };
        let result = (|| {
            let request = Request::Screen(ScreenRequest::Pixels { region });
            let Reply::Region(granted) = asking.request(&request)? else {
                return Err(unexpected().into());
            };
            let ask = &mut |request: &Request| asking.request(request);
            let place = source.locate(&granted, self.patience, ask)?;
            Ok((granted.region, place))
        })();
        match result {
            Ok((granted, place)) if granted == region => {
                self.held.push(Held { region, place });
                Ok(true)
            }
            Ok(_) => Err(self.lost(unexpected().into())),
            Err(RequestError::Ended(end)) => Err(Lost::Session(end)),
            Err(error) => {
                tracing::debug!(region, %error, "no pixels");
                Ok(false)
            }
        }
    }

    /// From now on frames are copied: what the monitor has is void.
    fn turn_to_relay(&mut self) -> Result<(), RelayError> {
        let wants = Wants {
            no_pointer: self.picture,
        };
        let reader = FrameReader::new(Arc::clone(&self.frames.memory), self.reader, wants)?;
        self.way = Way::Relayed(Box::new(Relay::new(reader, self.picture)?));
        Ok(())
    }

    /// Does what there is to do, and looks whether the screen is still there.
    pub(super) fn turn(&mut self) -> Result<(), Lost> {
        if self.looked.elapsed() >= LOOK_EVERY {
            self.looked = Instant::now();
            self.look()?;
        }
        let Way::Relayed(relay) = &mut self.way else {
            return Ok(());
        };
        match relay.step() {
            Ok(Step::Idle | Step::Relayed) => Ok(()),
            Ok(Step::Needs(region)) => self.give_relay(region),
            Err(error) => Err(self.lost(error)),
        }
    }

    fn look(&mut self) -> Result<(), Lost> {
        let state = match &self.way {
            Way::Mapped(reader) => reader.state().map(|state| state.source),
            Way::Relayed(relay) => match relay.state() {
                Err(RelayError::Link(error)) => Err(error),
                Err(other) => return Err(self.lost(other)),
                Ok(state) => Ok(state),
            },
        };
        let state = state.map_err(|error| self.lost(error.into()))?;
        let is_listed = self.is_listed();
        if state == SourceState::Gone || !is_listed.map_err(|error| self.lost(error.into()))? {
            let name = self.screen.name.clone();
            return Err(Lost::Screen(DisplayError::Gone { name }));
        }
        Ok(())
    }

    /// Whether the guest's table still has the frames region.
    fn is_listed(&mut self) -> Result<bool, LinkError> {
        for (region, _) in self.session.regions_told_over() {
            self.is_told_over |= region == self.frames.id;
        }
        let Some(direct) = self.session.direct() else {
            return Ok(!self.is_told_over);
        };
        let table = &direct.directory().memory;
        let is_ours = |entry: &RegionEntry| entry.id == self.frames.id;
        let there = directory::read_region(table, self.entry)?;
        if let Some(entry) = there.filter(is_ours) {
            return Ok(entry.ended.is_none());
        }
        for index in 0..directory::REGIONS {
            if let Some(entry) = directory::read_region(table, index)?.filter(is_ours) {
                self.entry = index;
                return Ok(entry.ended.is_none());
            }
        }
        Ok(false)
    }

    /// Opens the guest's pixels region for the relay.
    fn give_relay(&mut self, region: u64) -> Result<(), Lost> {
        let view = if self.hold_pixels(region)? {
            let held = self.held.iter().find(|held| held.region == region);
            let source = self.session.source();
            let view = held.map(|held| source.view(&held.place, Protection::Read));
            let view = view.transpose();
            view.inspect_err(|error| tracing::debug!(region, %error, "no pixels"))
                .ok()
                .flatten()
        } else {
            None
        };
        let Way::Relayed(relay) = &mut self.way else {
            return Ok(());
        };
        let before = match view {
            Some(view) => relay.take_guest_pixels(region, view),
            None => match relay.refuse_guest_pixels(region) {
                Ok(()) => Some(region),
                Err(error) => return Err(self.lost(error)),
            },
        };
        if let Some(before) = before {
            self.drop_pixels(before)?;
        }
        Ok(())
    }

    /// What an error of the memory or of what stands there means.
    fn lost(&mut self, error: RelayError) -> Lost {
        match error {
            RelayError::Link(error @ LinkError::Violation { .. }) => {
                Lost::Screen(DisplayError::BadFrames(error.to_string()))
            }
            RelayError::Link(error) => Lost::Session(self.session.why_it_ended(error)),
            RelayError::System(error) => Lost::Screen(DisplayError::System {
                doing: "making memory for pictures",
                error,
            }),
        }
    }

    /// Lets the screen go: what was added is unplugged. The session stays.
    pub(super) fn leave(mut self, patience: Duration) -> Box<Session> {
        let screen = self.screen.id;
        let leave = Request::Screen(ScreenRequest::Leave { screen });
        if let Err(error) = self.session.request(&leave, patience) {
            tracing::debug!(%error, "the screen could not be left");
        }
        for held in std::mem::take(&mut self.held) {
            let close = Request::Close {
                region: held.region,
            };
            let _ = ask_and_forget(&mut self.session, &close);
        }
        self.session
    }
}

/// Asks for something whose answer nobody waits for. Where there is no room for it now it
/// is not asked: the session's end does the same.
fn ask_and_forget(session: &mut Session, request: &Request) -> Result<(), SessionEnd> {
    if let Some(question) = session.ask(request)? {
        session.give_up(question);
    }
    Ok(())
}

fn as_runs(runs: &[(u64, u64)]) -> Vec<Run> {
    let runs = runs.iter();
    runs.map(|&(offset, length)| Run { offset, length })
        .collect()
}
