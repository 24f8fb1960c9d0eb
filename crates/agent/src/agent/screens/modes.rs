//! Changing a screen's mode. One change at a time is in a source's hands; of those that come
//! meanwhile only the last one counts, and whoever asked for another is told what there is.

use vmshm_channel::source::ToSource;
use vmshm_link::control::RefusalCode;
use vmshm_link::frames::Mode;

use super::super::creation::Refusal;
use super::super::regions::Holder;
use super::super::requests::{Answered, Outcome, refused};
use super::super::service::Service;
use super::ANSWER;
use super::book::{to_mode, to_size};
use super::plugging::Asker;
use super::requests::{busy, no_screen, no_screen_refusal};
use super::source::SourceId;

#[derive(Debug, Clone, Copy)]
struct Running {
    request: u64,
    asker: Option<Asker>,
    since: u64,
}

/// The change of a screen's mode.
#[derive(Debug, Default)]
pub(super) struct ModeChange {
    running: Option<Running>,
    next: Option<(Asker, Mode)>,
}

impl ModeChange {
    /// Whoever waits for an answer.
    fn take_askers(&mut self) -> Vec<Asker> {
        let running = self.running.as_mut().and_then(|one| one.asker.take());
        let next = self.next.take().map(|(asker, _)| asker);
        running.into_iter().chain(next).collect()
    }
}

impl Service {
    /// A host wants another mode.
    pub(super) fn set_mode(&mut self, holder: Holder, tag: u64, id: u64, mode: Mode) -> Answered {
        let known = self.screens.book.get_mut(&id);
        let Some(screen) = known.filter(|screen| screen.is_shown()) else {
            return no_screen(id);
        };
        if !screen.about.set_mode {
            return refused(
                RefusalCode::Unable,
                format!("the mode of {} cannot be set", screen.about.name),
            );
        }
        let is_there = to_mode(screen.about.mode).is_some_and(|now| {
            (now.width, now.height) == (mode.width, mode.height)
                && [0, now.refresh_millihertz].contains(&mode.refresh_millihertz)
        });
        let runs = screen.mode_change.running.is_some();
        if is_there && !runs {
            return self.describe_screen(id);
        }
        let earlier = screen.mode_change.take_askers();
        screen.mode_change.next = Some(((holder, tag), mode));
        for asker in earlier {
            self.show_to_asker(asker, id);
        }
        if runs {
            return Ok(Ok(Outcome::Waits));
        }
        if self
            .screens
            .source_of(id)
            .is_none_or(|source| source.is_busy())
        {
            if let Some(screen) = self.screens.book.get_mut(&id) {
                screen.mode_change.next = None;
            }
            return busy();
        }
        self.ask_for_mode(id);
        Ok(Ok(Outcome::Waits))
    }

    /// Gives the next change to the source.
    fn ask_for_mode(&mut self, id: u64) {
        let request = self.screens.next_request();
        let now = self.screens.now;
        let Some(screen) = self.screens.book.get_mut(&id) else {
            return;
        };
        let Some((asker, mode)) = screen.mode_change.next.take() else {
            return;
        };
        screen.mode_change.running = Some(Running {
            request,
            asker: Some(asker),
            since: now,
        });
        let (source, number) = (screen.source, screen.number);
        let message = ToSource::SetMode {
            request,
            screen: number,
            mode: to_size(mode),
        };
        self.screens.tell(source, &message);
    }

    /// A source has answered: the mode is set, or not for this reason.
    pub(super) fn mode_answered(
        &mut self,
        source: SourceId,
        request: u64,
        refusal: Option<&str>,
    ) -> bool {
        let is_it = |running: &Running| running.request == request;
        let found = self.screens.book.iter_mut().find(|(_, screen)| {
            screen.source == source && screen.mode_change.running.as_ref().is_some_and(is_it)
        });
        let Some((id, screen)) = found else {
            return false;
        };
        let id = *id;
        let asker = screen.mode_change.running.take().and_then(|one| one.asker);
        match (asker, refusal) {
            (Some(asker), None) => self.show_to_asker(asker, id),
            (Some(asker), Some(message)) => {
                self.refuse_asker(asker, &Refusal::new(RefusalCode::Unable, message));
            }
            (None, _) => {}
        }
        self.ask_for_mode(id);
        true
    }

    /// Changes that have taken too long are given up.
    pub(super) fn expire_modes(&mut self) {
        let now = self.screens.now;
        let late: Vec<u64> = self
            .screens
            .book
            .iter()
            .filter(|(_, screen)| {
                let running = screen.mode_change.running;
                running.is_some_and(|running| now > running.since + ANSWER)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            let screen = self.screens.book.get_mut(&id);
            let running = screen.and_then(|screen| screen.mode_change.running.take());
            if let Some(asker) = running.and_then(|running| running.asker) {
                let message = "the screen has not changed its mode within 10 seconds";
                self.refuse_asker(asker, &Refusal::new(RefusalCode::Unable, message));
            }
            self.ask_for_mode(id);
        }
    }

    /// The screen is gone, whatever mode was wanted.
    pub(super) fn forget_mode_change(&mut self, id: u64) {
        let Some(screen) = self.screens.book.get_mut(&id) else {
            return;
        };
        let askers = screen.mode_change.take_askers();
        screen.mode_change = ModeChange::default();
        for asker in askers {
            self.refuse_asker(asker, &no_screen_refusal(id));
        }
    }

    fn show_to_asker(&mut self, asker: Asker, id: u64) {
        match self.describe_screen(id) {
            Ok(Ok(Outcome::Answer(reply))) => self.answer_asker(asker, &reply),
            _ => self.refuse_asker(asker, &no_screen_refusal(id)),
        }
    }
}
