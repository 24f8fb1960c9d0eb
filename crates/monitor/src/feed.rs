//! The thread that listens to `vmshm display`, looks for frames, and says that it lives.
//!
//! Nothing here waits for the guest: a wait ends at the next look that is due.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use vmshm_channel::sink::{Condition, FromMonitor, Run, Stats, ToMonitor};
use vmshm_channel::{Channel, ChannelError, Handed, Size};
use vmshm_link::frames::SourceState;
use vmshm_shm::Protection;

use crate::canvas::{Shown, lock};
use crate::figures::{Figures, nanos};
use crate::frames_memory::map;
use crate::intake::{Intake, Taken, Terms, Turn};
use crate::os;
use crate::pacing::Pacing;
use crate::post::Post;

/// Between two signs of life.
const BEAT: Duration = Duration::from_millis(200);
/// Between looks while a writer is still at the frame.
const WRITING: Duration = Duration::from_micros(100);
/// How often figures are gathered when nobody said how often.
const FIGURES: Duration = Duration::from_secs(1);
/// The longest wait, with or without frames to look at.
const LONGEST: Duration = Duration::from_millis(100);

/// What is told to whoever shows the picture.
#[derive(Debug)]
pub enum News {
    /// A frame is in the canvas.
    Picture(Box<Taken>),
    /// What is shown.
    Screen {
        /// Its name.
        name: String,
        /// Its mode.
        mode: Size,
        /// Whether input is taken; if not, why.
        input: Result<(), String>,
    },
    /// How the guest is.
    Condition(Condition),
    /// The screen is there, or has gone.
    Source {
        /// Whether it has gone.
        is_gone: bool,
    },
    /// What has happened lately.
    Stats(Box<Stats>),
    /// The end: wanted by `vmshm display`, or it is gone.
    End,
}

/// Who shows the picture.
pub trait Show {
    /// Is told; false: enough, no more news are wanted.
    fn tell(&mut self, news: News) -> bool;
}

/// All that the thread works with.
#[derive(Debug)]
pub struct Feed {
    /// Only received from.
    pub incoming: Channel,
    /// The way back.
    pub post: Post,
    /// The picture.
    pub shown: Arc<Mutex<Shown>>,
    /// Counts and durations.
    pub figures: Arc<Mutex<Figures>>,
    /// How often the other side wants them; nothing: never.
    pub stats_every: Option<Duration>,
    /// Which frames will do.
    pub terms: Terms,
}

impl Feed {
    /// Listens, looks and tells until the end.
    pub fn run(self, show: &mut impl Show) {
        os::sharpen_timers();
        let now = Instant::now();
        let mut running = Running {
            intake: Intake::new(self.terms),
            pacing: Pacing::default(),
            is_gone: false,
            next_beat: now,
            next_figures: now + self.stats_every.unwrap_or(FIGURES),
            feed: self,
        };
        while running.turn(show) {}
    }
}

#[derive(Debug)]
struct Running {
    feed: Feed,
    intake: Intake,
    pacing: Pacing,
    is_gone: bool,
    next_beat: Instant,
    next_figures: Instant,
}

impl Running {
    /// One turn; false at the end.
    fn turn(&mut self, show: &mut impl Show) -> bool {
        let sleep = match self.look(show) {
            Some(sleep) => sleep,
            None => return false,
        };
        let now = Instant::now();
        if now >= self.next_figures && !self.report(now, show) {
            return false;
        }
        let Ok(has_more) = self.feed.post.flush() else {
            return self.end(show);
        };
        let limit = self
            .next_figures
            .saturating_duration_since(now)
            .min(LONGEST);
        // A wait that fails shows when something is received.
        if let Ok(false) = self.feed.incoming.wait(has_more, sleep.min(limit)) {
            return true;
        }
        loop {
            match self.feed.incoming.receive::<ToMonitor>() {
                Ok(Some((message, descriptor))) => {
                    if !self.take(message, descriptor, show) {
                        return false;
                    }
                }
                Ok(None) => return true,
                Err(error) => {
                    if !matches!(error, ChannelError::Closed) {
                        self.feed.post.send(&FromMonitor::Failed {
                            message: error.to_string(),
                            hint: None,
                        });
                    }
                    return self.end(show);
                }
            }
        }
    }

    fn end(&self, show: &mut impl Show) -> bool {
        show.tell(News::End);
        false
    }

    /// Looks for a frame; how long to sleep then, or nothing at the end.
    fn look(&mut self, show: &mut impl Show) -> Option<Duration> {
        if !self.intake.is_attached() {
            return Some(LONGEST);
        }
        let now = Instant::now();
        if now >= self.next_beat {
            self.next_beat = now + BEAT;
            if let Err(error) = self.beat(show)? {
                self.give_up(&error);
                return Some(LONGEST);
            }
        }
        let turn = match self.intake.turn(&self.feed.shown, now) {
            Ok(turn) => turn,
            Err(error) => {
                self.give_up(&error.to_string());
                return Some(LONGEST);
            }
        };
        let mut sleep = None;
        match turn {
            Turn::Idle => {}
            Turn::Busy => sleep = Some(WRITING),
            Turn::Wants(region) => self.feed.post.send(&FromMonitor::WantPixels { region }),
            Turn::Taken(taken) => {
                self.pacing.came(now);
                self.count(&taken);
                if !show.tell(News::Picture(taken)) {
                    return None;
                }
            }
        }
        for region in self.intake.dropped.drain(..) {
            self.feed.post.send(&FromMonitor::DroppedPixels { region });
        }
        Some(sleep.unwrap_or_else(|| self.pacing.sleep(Instant::now())))
    }

    /// Says that we live, and looks whether the source does. The outer one is nothing at the end.
    fn beat(&mut self, show: &mut impl Show) -> Option<Result<(), String>> {
        let state = self.intake.beat().and_then(|()| self.intake.state());
        match state {
            Err(error) => Some(Err(error.to_string())),
            Ok(state) => {
                let is_gone = state.is_some_and(|state| state.source == SourceState::Gone);
                if is_gone != self.is_gone {
                    self.is_gone = is_gone;
                    show.tell(News::Source { is_gone }).then_some(())?;
                }
                Some(Ok(()))
            }
        }
    }

    fn count(&mut self, taken: &Taken) {
        let mut figures = lock(&self.feed.figures);
        figures.counts.frames += 1;
        figures.counts.skipped = figures.counts.skipped.saturating_add(taken.skipped);
        figures.counts.damage_bytes += taken.damage_bytes;
        let source = &mut figures.counts.source_bytes;
        *source = source.saturating_add(taken.frame.bytes_touched);
        figures.capture.add(taken.frame.capture_nanos);
        figures.copy.add(nanos(taken.took));
        if taken.frame.acknowledged_nanos != 0 {
            figures.acknowledged.add(taken.frame.acknowledged_nanos);
        }
    }

    fn report(&mut self, now: Instant, show: &mut impl Show) -> bool {
        self.next_figures = now + self.feed.stats_every.unwrap_or(FIGURES);
        let stats = {
            let mut figures = lock(&self.feed.figures);
            figures.counts.copied_bytes = std::mem::take(&mut self.intake.copied_bytes);
            figures.counts.retaken = std::mem::take(&mut self.intake.retaken);
            figures.report(now)
        };
        if self.feed.stats_every.is_some() {
            self.feed.post.send(&FromMonitor::Stats(stats.clone()));
        }
        show.tell(News::Stats(Box::new(stats)))
    }

    /// The guest's memory is of no use; `vmshm display` may attach anew.
    fn give_up(&mut self, message: &str) {
        self.intake.detach();
        self.feed.post.send(&FromMonitor::BadGuest {
            message: message.to_owned(),
        });
    }

    fn take(
        &mut self,
        message: ToMonitor,
        descriptor: Option<Handed>,
        show: &mut impl Show,
    ) -> bool {
        match message {
            // Only the first message is one.
            ToMonitor::Start { .. } => true,
            ToMonitor::Screen { name, mode, input } => {
                show.tell(News::Screen { name, mode, input })
            }
            ToMonitor::Frames { runs, reader } => {
                if let Err(message) = self.take_frames(descriptor, &runs, reader) {
                    self.give_up(&message);
                }
                true
            }
            ToMonitor::Pixels { region, runs } => {
                if let Err(message) = self.take_pixels(descriptor, &runs, region) {
                    self.give_up(&message);
                }
                true
            }
            // It is asked for again later if frames still name it.
            ToMonitor::NoPixels { .. } => true,
            ToMonitor::Condition(condition) => show.tell(News::Condition(condition)),
            ToMonitor::End => self.end(show),
        }
    }

    fn take_frames(
        &mut self,
        descriptor: Option<Handed>,
        runs: &[Run],
        reader: usize,
    ) -> Result<(), String> {
        let memory = map_received(descriptor, runs, Protection::ReadWrite)?;
        self.next_beat = Instant::now();
        let taken = self.intake.take_frames(memory, reader);
        taken.map_err(|error| error.to_string())
    }

    fn take_pixels(
        &mut self,
        descriptor: Option<Handed>,
        runs: &[Run],
        region: u64,
    ) -> Result<(), String> {
        if self.intake.wanted() != Some(region) {
            // Frames name another by now.
            self.feed.post.send(&FromMonitor::DroppedPixels { region });
            return Ok(());
        }
        let memory = map_received(descriptor, runs, Protection::Read)?;
        self.intake.take_pixels(region, memory);
        Ok(())
    }
}

fn map_received(
    descriptor: Option<Handed>,
    runs: &[Run],
    protection: Protection,
) -> Result<vmshm_shm::Mapping, String> {
    let file = descriptor.ok_or("no descriptor came with the memory")?;
    map(&file, runs, protection).map_err(|error| format!("cannot map the frames: {error}"))
}
