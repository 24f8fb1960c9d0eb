//! Bringing everybody up to date: who watches what, which sources must run, and what has
//! taken too long.

use std::os::fd::AsFd;

use tracing::debug;
use vmshm_channel::source::ToSource;
use vmshm_link::frames::FRAMES_SIZE;
use vmshm_link::slot::SlotState;

use super::super::regions::Holder;
use super::super::service::{Service, ServiceError};
use super::super::sessions::Session;
use super::source::{Key, SourceId};
use super::{SURVEY, Screens};

/// A host that was not heard for so many seconds loses what it has plugged in.
const UNPLUG_SECONDS: u32 = 10;

/// What a session is for screens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It is served, and heard.
    Live,
    /// It was not heard for a while, and may come back.
    Silent,
    /// So long that what it plugged in goes.
    Lost,
    /// It is over, or is not served any more.
    Over,
}

impl Service {
    /// Sources learn who watches, and memory that nobody watches goes. It costs nothing
    /// where there are no screens.
    pub(in super::super) fn settle_screens(&mut self) -> Result<(), ServiceError> {
        let ids: Vec<u64> = self.screens.book.keys().copied().collect();
        let mut ended = false;
        for id in ids {
            ended |= self.settle_screen(id)?;
        }
        if ended {
            self.settle()?;
        }
        Ok(())
    }

    /// Whether memory has ended.
    fn settle_screen(&mut self, id: u64) -> Result<bool, ServiceError> {
        let Some(screen) = self.screens.book.get_mut(&id) else {
            return Ok(false);
        };
        let sessions = &self.sessions;
        let standing = |holder: &Holder| stand(sessions, *holder);
        screen
            .watchers
            .retain(|holder| standing(holder) != Standing::Over);
        let adder = screen.added_by.as_ref().map(standing);
        let readers: Vec<usize> = screen
            .watchers
            .iter()
            .filter(|holder| standing(holder) == Standing::Live)
            .map(|holder| holder.slot)
            .collect();
        let frames = screen.frames.and_then(|frames| self.regions.get(frames));
        let frames = frames.filter(|region| region.description.listed);
        let is_ready = frames.is_some_and(|region| region.description.ready);
        let is_lost = frames.is_none();
        if matches!(adder, Some(Standing::Lost | Standing::Over)) {
            self.unplug(id);
        }
        let Some(screen) = self.screens.book.get_mut(&id) else {
            return Ok(false);
        };
        if screen.watchers.is_empty() || is_lost {
            let was_told = screen.told.take().is_some();
            let has_memory = screen.frames.is_some() || !screen.pixels.is_empty();
            let (source, number) = (screen.source, screen.number);
            if was_told && screen.there {
                let message = ToSource::Unwatch { screen: number };
                self.screens.tell(source, &message);
            }
            if has_memory {
                debug!(screen = id, "nobody watches a screen any more");
                self.end_screen_memory(id);
            }
            let needed = |screen: &super::Screen| screen.is_needed();
            if !self.screens.book.get(&id).is_some_and(needed) {
                self.screens.book.remove(&id);
            }
            return Ok(has_memory);
        }
        if screen.there && is_ready && screen.told.as_ref() != Some(&readers) {
            self.tell_readers(id, readers);
        }
        Ok(false)
    }

    /// Tells a screen's source who watches, and gives it the frames if it has not got them.
    fn tell_readers(&mut self, id: u64, readers: Vec<usize>) {
        let Some(screen) = self.screens.book.get_mut(&id) else {
            return;
        };
        let number = screen.number;
        let watchers: Vec<Holder> = screen.watchers.iter().copied().collect();
        let before = screen.told.replace(readers.clone());
        let file = screen.frames.and_then(|frames| self.files.get(&frames));
        let Some(source) = self.screens.sources.get_mut(&screen.source) else {
            return;
        };
        if before.is_none() {
            let message = ToSource::Watch {
                screen: number,
                size: FRAMES_SIZE,
            };
            source.send_with(&message, file.map(AsFd::as_fd));
        }
        // What readers did before belongs before their leaving.
        source.pass_input_on();
        source.send(&ToSource::Readers {
            screen: number,
            readers: readers.clone(),
        });
        let before = before.unwrap_or_default();
        for holder in watchers {
            if readers.contains(&holder.slot) && !before.contains(&holder.slot) {
                self.pass_keymap_on(holder, id);
            }
        }
    }

    /// A look: what has taken too long, what must be started, and whom to look for.
    pub(in super::super) fn look_at_screens(&mut self) -> Result<(), ServiceError> {
        self.screens.now += 1;
        self.screens.reap();
        let now = self.screens.now;
        self.expire_plugs();
        self.expire_modes();
        let sources = self.screens.sources.iter_mut();
        let overdue: Vec<(SourceId, &str)> = sources
            .filter_map(|(id, source)| Some((*id, source.overdue(now)?)))
            .collect();
        for (id, reason) in overdue {
            self.source_failed(id, reason)?;
        }
        if self.screens.is_interesting() {
            if now >= self.screens.next_survey {
                self.screens.next_survey = now + SURVEY;
                self.screens.discovery.ask();
            }
            let idle = |source: &super::Source| !source.is_running();
            let wanted: Vec<SourceId> = self
                .screens
                .sources
                .iter()
                .filter(|(_, source)| idle(source))
                .filter(|(_, source)| {
                    source.key != Key::TestCard || self.screens.is_test_card_watched()
                })
                .map(|(id, _)| *id)
                .collect();
            for id in wanted {
                self.start_source(id)?;
            }
        }
        self.stop_idle_test_card()?;
        let screens = &mut self.screens;
        let sessions = &self.sessions;
        screens
            .keymaps
            .retain(|holder| stand(sessions, *holder) != Standing::Over);
        self.settle_screens()
    }

    /// The test card is nobody's desktop: its process goes with those who look at it.
    fn stop_idle_test_card(&mut self) -> Result<(), ServiceError> {
        if self.screens.is_interesting() {
            return Ok(());
        }
        let running = self.screens.sources.iter();
        let idle = running
            .filter(|(_, source)| source.key == Key::TestCard && source.is_running())
            .map(|(id, _)| *id)
            .next();
        match idle {
            Some(id) => self.stop_source(id),
            None => Ok(()),
        }
    }
}

impl Screens {
    fn is_test_card_watched(&self) -> bool {
        let card = self.book.get(&vmshm_link::screens::TEST_CARD);
        card.is_some_and(|card| !card.watchers.is_empty())
    }

    /// Takes leave of processes that have ended, and ends those that have not in time.
    fn reap(&mut self) {
        let now = self.now;
        self.leaving.retain_mut(|(child, until)| {
            if !matches!(child.try_wait(), Ok(None)) {
                return false;
            }
            if now > *until {
                debug!(pid = child.id(), "a source process does not end by itself");
                let _ = child.kill();
            }
            true
        });
    }
}

fn stand(sessions: &[Session], holder: Holder) -> Standing {
    let session = sessions.get(holder.slot);
    let Some(session) = session.filter(|session| session.holder() == holder) else {
        return Standing::Over;
    };
    if session.state() != SlotState::Proved || session.is_broken() {
        return Standing::Over;
    }
    if session.silent_seconds() >= UNPLUG_SECONDS {
        Standing::Lost
    } else if session.is_silent() {
        Standing::Silent
    } else {
        Standing::Live
    }
}
