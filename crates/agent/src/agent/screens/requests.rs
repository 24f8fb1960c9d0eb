//! What hosts ask about screens. Every number is the host's choice: it may name only screens
//! that are there, and use only those that its session watches.

use vmshm_channel::source::Kind;
use vmshm_link::control::{RefusalCode, Reply};
use vmshm_link::screens::{ScreenRequest, TEST_CARD};

use super::super::creation::Refusal;
use super::super::regions::Holder;
use super::super::requests::{Answered, Outcome, answered, refused};
use super::super::service::{Service, ServiceError};
use super::book::Screen;
use super::source::{Key, Source, SourceId};
use super::{ANSWER, INTEREST, Screens, looks};

/// How long a question for the list of screens may wait for whoever knows it, in looks:
/// less than hosts wait.
const LIST: u64 = looks(4);

impl Service {
    /// Answers a request about screens, or remembers that it waits.
    pub(in super::super) fn screen_request(
        &mut self,
        holder: Holder,
        tag: u64,
        request: &ScreenRequest,
    ) -> Answered {
        if !self.screens.offer.screens {
            if matches!(request, ScreenRequest::Input { .. }) {
                return Ok(Ok(Outcome::Silence));
            }
            return refused(
                RefusalCode::Forbidden,
                "this guest does not offer screens (vmshm-agent run --no-screens)",
            );
        }
        self.ask_for_screens();
        match request {
            ScreenRequest::Describe { number: TEST_CARD } => self.describe_test_card(),
            ScreenRequest::Describe { number } => self.describe_listed(*number),
            ScreenRequest::Add { mode } => self.add_screen(holder, tag, *mode),
            ScreenRequest::Watch { screen } => self.watch(holder, tag, *screen),
            ScreenRequest::Pixels { region } => self.hold_pixels(holder, *region),
            ScreenRequest::SetMode { screen, mode } => self.set_mode(holder, tag, *screen, *mode),
            ScreenRequest::Modes { screen, first } => match self.screens.book.get(screen) {
                Some(screen) if screen.is_shown() => {
                    answered(Reply::Modes(screen.to_modes(*first)))
                }
                _ => no_screen(*screen),
            },
            ScreenRequest::Input { screen, events } => {
                self.take_input(holder, *screen, events.as_slice());
                Ok(Ok(Outcome::Silence))
            }
            ScreenRequest::Keymap {
                screen,
                total,
                offset,
                part,
            } => self.take_keymap(holder, *screen, (*total, *offset), part.as_bytes()),
            ScreenRequest::Leave { screen } => self.leave_screen(holder, *screen),
        }
    }

    /// A host cares about screens: from now on desktops are looked for.
    fn ask_for_screens(&mut self) {
        let screens = &mut self.screens;
        if !screens.is_interesting() {
            screens.interest.since = screens.now;
            screens.interest.surveyed = false;
            screens.interest.settled = false;
            screens.next_survey = screens.now + super::SURVEY;
            screens.discovery.ask();
        }
        screens.interest.asked = Some(screens.now);
    }

    fn describe_listed(&mut self, number: u64) -> Answered {
        if !self.screens.knows_list(LIST) {
            return Ok(Ok(Outcome::Later));
        }
        let listed = self.screens.listed();
        let place = usize::try_from(number).unwrap_or(usize::MAX);
        match listed.get(place) {
            Some(id) => self.describe_screen(*id),
            None => refused(
                RefusalCode::NotFound,
                format!("this guest has {} screens", listed.len()),
            ),
        }
    }

    /// A screen as the answer to who asked for it.
    pub(super) fn describe_screen(&self, id: u64) -> Answered {
        let total = self.screens.listed().len();
        let input = self.screens.offer.input;
        let screen = self.screens.book.get(&id).filter(|one| one.is_shown());
        match screen.and_then(|screen| screen.to_reply(id, total, input)) {
            Some(reply) => answered(Reply::Screen(reply)),
            None => no_screen(id),
        }
    }

    fn describe_test_card(&mut self) -> Answered {
        let known = self.screens.book.get(&TEST_CARD);
        if known.is_some_and(Screen::is_shown) {
            return self.describe_screen(TEST_CARD);
        }
        let id = self.screens.test_card();
        self.start_source(id)?;
        let Some(source) = self.screens.sources.get(&id) else {
            return no_screen(TEST_CARD);
        };
        if source.is_starting() {
            return Ok(Ok(Outcome::Later));
        }
        let trouble = source.trouble.as_deref().unwrap_or("it is not there");
        refused(
            RefusalCode::Unable,
            format!("the test card cannot be shown: {trouble}"),
        )
    }

    /// Watches a screen no longer, and unplugs it if this session plugged it in. The session
    /// holds the memory until it closes it: it may still write there.
    fn leave_screen(&mut self, holder: Holder, id: u64) -> Answered {
        self.screens.keymaps.forget(holder, id);
        let Some(screen) = self.screens.book.get_mut(&id) else {
            return answered(Reply::Done);
        };
        screen.watchers.remove(&holder);
        if screen.added_by == Some(holder) {
            self.unplug(id);
        }
        self.settle_screens()?;
        answered(Reply::Done)
    }

    fn take_input(&mut self, holder: Holder, id: u64, events: &[vmshm_link::input::InputEvent]) {
        if !self.screens.offer.input || !self.screens.watches(holder, id) {
            return;
        }
        let Some(number) = self.screens.book.get(&id).map(|screen| screen.number) else {
            return;
        };
        self.screens.took_input = true;
        if let Some(source) = self.screens.source_of(id) {
            source.input.push(number, holder.slot, events);
            source.pass_input_on();
        }
    }

    fn take_keymap(&mut self, holder: Holder, id: u64, place: (u64, u64), part: &[u8]) -> Answered {
        if !self.screens.offer.input {
            return refused(
                RefusalCode::Forbidden,
                "this guest takes no input (vmshm-agent run --no-input)",
            );
        }
        if !self.screens.watches(holder, id) {
            return no_screen(id);
        }
        if self
            .screens
            .source_of(id)
            .is_some_and(|source| source.is_busy())
        {
            return busy();
        }
        match self.screens.keymaps.take(holder, id, place, part) {
            Ok(whole) => {
                if whole {
                    self.pass_keymap_on(holder, id);
                }
                answered(Reply::Done)
            }
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// Starts a source's process if it has none and it is time to.
    pub(super) fn start_source(&mut self, id: SourceId) -> Result<(), ServiceError> {
        let Screens {
            sources,
            starter,
            offer,
            now,
            ..
        } = &mut self.screens;
        if let Some(source) = sources.get_mut(&id) {
            source.start(&mut **starter, offer.input, *now);
        }
        Ok(())
    }
}

impl Screens {
    /// Whether somebody watches, or has asked a short while ago.
    pub(super) fn is_interesting(&self) -> bool {
        let asked = self.interest.asked;
        asked.is_some_and(|asked| self.now <= asked + INTEREST) || self.is_watched()
    }

    /// Whether the list of screens is known, or has been waited for so long.
    pub(super) fn knows_list(&mut self, patience: u64) -> bool {
        let since = self.interest.since;
        if !self.interest.settled {
            let starting = self.sources.values().any(Source::is_starting);
            self.interest.settled = self.interest.surveyed && !starting;
        }
        self.interest.settled || self.now > since + patience
    }

    /// The source of the test card.
    fn test_card(&mut self) -> SourceId {
        let known = self
            .sources
            .iter()
            .find(|(_, source)| source.key == Key::TestCard);
        match known {
            Some((id, _)) => *id,
            None => self.add_source(Source::new(Key::TestCard, Kind::TestCard, None)),
        }
    }

    pub(super) fn add_source(&mut self, source: Source) -> SourceId {
        self.last_source += 1;
        self.sources.insert(self.last_source, source);
        self.last_source
    }

    /// Whether a session watches a screen.
    pub(super) fn watches(&self, holder: Holder, id: u64) -> bool {
        let screen = self.book.get(&id);
        screen.is_some_and(|screen| screen.watchers.contains(&holder))
    }
}

/// Patience of who wants to add a screen: a slow guest may take long to find its desktop.
pub(super) const TO_ADD: u64 = ANSWER;

/// There is no such screen.
pub(super) fn no_screen(id: u64) -> Answered {
    Ok(Err(no_screen_refusal(id)))
}

/// There is no such screen.
pub(super) fn no_screen_refusal(id: u64) -> Refusal {
    Refusal::new(
        RefusalCode::NotFound,
        format!("this guest has no screen {id}, or has it no more"),
    )
}

/// Its source has too much to do already.
pub(super) fn busy() -> Answered {
    refused(
        RefusalCode::Busy,
        "the process that delivers this screen has not read what it was told before",
    )
}
