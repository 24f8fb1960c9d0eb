//! What sources say. A source is a process with the rights of a desktop's user, who may make
//! it say anything: it can name only its own screens, and lists no more than a few.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{debug, info, warn};
use vmshm_channel::source::{FromSource, Kind, Screen as About, ToSource};
use vmshm_link::screens::TEST_CARD;

use super::super::service::{Service, ServiceError};
use super::book::{Screen, printable, to_mode, trimmed};
use super::source::{Key, Source, SourceId};
use super::{Findings, SCREENS_PER_SOURCE, Screens, looks};

/// How many messages of all sources are taken before hosts get their turn.
const MESSAGES_PER_TURN: usize = 16;
/// How many of them may be one source's.
const MESSAGES_OF_ONE: usize = 8;
/// The most compositors, and the most of one user, that are looked at.
const MAX_COMPOSITORS: (usize, usize) = (16, 4);
/// How long a process may take to unplug what it has plugged in, in looks.
const FAREWELL: u64 = looks(5);

impl Service {
    /// Takes what was found and what sources say; whether that was anything.
    pub(in super::super) fn poll_screens(&mut self) -> Result<bool, ServiceError> {
        let mut active = false;
        if let Some(findings) = self.screens.discovery.take() {
            self.take_findings(findings)?;
            active = true;
        }
        let mut left = MESSAGES_PER_TURN;
        self.screens.unheard = false;
        for id in self.screens.in_turn() {
            let turns = MESSAGES_OF_ONE.min(left);
            for turn in 0..=turns {
                if turn == turns {
                    self.screens.unheard = true;
                    break;
                }
                let Some(source) = self.screens.sources.get_mut(&id) else {
                    break;
                };
                match source.receive() {
                    Ok(Some(message)) => {
                        active = true;
                        left -= 1;
                        self.hear(id, message)?;
                    }
                    Ok(None) => break,
                    Err(error) => {
                        active = true;
                        self.source_failed(id, &format!("its source process: {error}"))?;
                    }
                }
            }
            if let Some(source) = self.screens.sources.get_mut(&id) {
                source.pass_input_on();
            }
        }
        Ok(active)
    }

    /// A survey has ended.
    fn take_findings(&mut self, findings: Findings) -> Result<(), ServiceError> {
        self.screens.interest.surveyed = true;
        self.screens.others = findings.others;
        let mut users: BTreeMap<u32, usize> = BTreeMap::new();
        let mut is_one_of_few = |uid: u32| {
            let count = users.entry(uid).or_default();
            *count += 1;
            *count <= MAX_COMPOSITORS.1
        };
        let compositors = findings
            .compositors
            .into_iter()
            .filter(|found| is_one_of_few(found.uid))
            .take(MAX_COMPOSITORS.0);
        let compositors = compositors.map(|found| {
            let key = Key::Compositor {
                name: found.name,
                uid: found.uid,
                socket: found.socket.clone(),
            };
            let kind = Kind::Wlroots {
                socket: found.socket,
                environment: found.environment,
            };
            (key, kind, Some((found.uid, found.gid)))
        });
        let devices = findings.framebuffers.into_iter().map(|device| {
            let key = Key::Framebuffer {
                device: device.clone(),
            };
            (key, Kind::Framebuffer { device }, None)
        });
        let found: Vec<_> = compositors.chain(devices).collect();
        // What runs knows best when its desktop ends.
        self.screens.sources.retain(|_, source| {
            source.key == Key::TestCard
                || source.is_running()
                || found.iter().any(|(key, ..)| *key == source.key)
        });
        for (key, kind, user) in found {
            let known = self.screens.sources.iter_mut();
            let id = match known.into_iter().find(|(_, source)| source.key == key) {
                Some((id, source)) => {
                    source.renew(kind, user);
                    *id
                }
                None => {
                    info!(source = %key, "a source of screens is found");
                    self.screens.add_source(Source::new(key, kind, user))
                }
            };
            self.start_source(id)?;
        }
        Ok(())
    }

    fn hear(&mut self, id: SourceId, message: FromSource) -> Result<(), ServiceError> {
        match message {
            FromSource::Screens { screens, can_add } => self.list(id, screens, can_add)?,
            FromSource::NeedPixels {
                screen,
                request,
                memory,
            } => self.need_pixels(id, screen, request, memory)?,
            FromSource::PixelsInUse { screen, region } => {
                self.pixels_in_use(id, screen, region)?;
            }
            FromSource::Added { request, screen } => self.plugged(id, request, screen),
            FromSource::ModeSet { request } => {
                self.mode_answered(id, request, None);
            }
            FromSource::Refused { request, message } => {
                if !self.not_plugged(id, request, &message) {
                    self.mode_answered(id, request, Some(&message));
                }
            }
            FromSource::Note { message } => {
                if let Some(source) = self.screens.sources.get(&id) {
                    warn!(source = %source.key, "{}", printable(&message));
                }
            }
            FromSource::Failed { message, hint } => {
                if let Some(source) = self.screens.sources.get_mut(&id) {
                    let hint = hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
                    source.trouble = Some(printable(&format!("{message}{hint}")));
                }
            }
        }
        Ok(())
    }

    /// A source has told its screens.
    fn list(
        &mut self,
        id: SourceId,
        screens: Vec<About>,
        can_add: bool,
    ) -> Result<(), ServiceError> {
        let Some(source) = self.screens.sources.get_mut(&id) else {
            return Ok(());
        };
        let is_first = !source.is_ready();
        source.set_ready();
        source.can_add = can_add && source.key != Key::TestCard;
        let key = source.key.clone();
        let mut numbers = BTreeSet::new();
        let mut listed = Vec::new();
        let possible = screens
            .into_iter()
            .filter(|one| to_mode(one.mode).is_some());
        for about in possible.take(SCREENS_PER_SOURCE).map(trimmed) {
            if numbers.insert(about.screen)
                && let Some(screen) = self.enter(id, &key, about)
            {
                listed.push(screen);
            }
        }
        debug!(source = %key, ?listed, can_add, "a source lists its screens");
        let before = match self.screens.sources.get_mut(&id) {
            Some(source) => std::mem::replace(&mut source.listed, listed.clone()),
            None => Vec::new(),
        };
        for gone in before.into_iter().filter(|old| !listed.contains(old)) {
            self.screen_gone(gone, false);
        }
        if is_first {
            self.plug_again(id);
        }
        self.settle_screens()
    }

    /// Finds the screen's place in the book, or gives it one.
    fn enter(&mut self, source: SourceId, key: &Key, about: About) -> Option<u64> {
        let screens = &mut self.screens;
        if let Some(known) = screens.find(source, about.screen) {
            screens.book.get_mut(&known)?.describe(about);
            return Some(known);
        }
        let mut lost = screens.book.iter_mut().filter(|(_, screen)| !screen.there);
        if let Some((id, screen)) = lost.find(|(_, screen)| screen.is_same(key, &about)) {
            screen.return_to(source, about);
            return Some(*id);
        }
        let id = if *key == Key::TestCard {
            // It has one screen, of one number.
            if screens.book.contains_key(&TEST_CARD) {
                return None;
            }
            TEST_CARD
        } else {
            screens.last_screen += 1;
            if screens.last_screen == TEST_CARD {
                screens.last_screen += 1;
            }
            screens.last_screen
        };
        screens
            .book
            .insert(id, Screen::new(source, key.clone(), about));
        Some(id)
    }

    /// A screen is not listed any more.
    fn screen_gone(&mut self, id: u64, with_source: bool) {
        self.forget_mode_change(id);
        let Some(screen) = self.screens.book.get_mut(&id) else {
            return;
        };
        screen.there = false;
        screen.leaving = false;
        screen.lost_with_source = with_source;
        screen.told = None;
        screen.wanted_pixels = None;
        // Memory that is being made was for the source that is gone.
        if let Some(attempt) = &mut screen.making_pixels {
            *attempt = 0;
        }
        self.mark_gone(id);
    }

    /// A source's process has ended, or has to.
    pub(super) fn source_failed(&mut self, id: SourceId, reason: &str) -> Result<(), ServiceError> {
        let now = self.screens.now;
        let Some(source) = self.screens.sources.get_mut(&id) else {
            return Ok(());
        };
        let child = source.fail(reason, now);
        self.source_ended(id, child)
    }

    /// Nobody needs a source any more.
    pub(super) fn stop_source(&mut self, id: SourceId) -> Result<(), ServiceError> {
        let Some(source) = self.screens.sources.get_mut(&id) else {
            return Ok(());
        };
        let child = source.stop();
        self.source_ended(id, child)
    }

    fn source_ended(
        &mut self,
        id: SourceId,
        child: Option<std::process::Child>,
    ) -> Result<(), ServiceError> {
        let until = self.screens.now + FAREWELL;
        self.screens
            .leaving
            .extend(child.map(|child| (child, until)));
        self.forget_plugs(id);
        let listed = match self.screens.sources.get_mut(&id) {
            Some(source) => std::mem::take(&mut source.listed),
            None => Vec::new(),
        };
        for screen in listed {
            self.screen_gone(screen, true);
        }
        self.settle_screens()
    }

    /// Gives the keymap of a session to the screen's source.
    pub(super) fn pass_keymap_on(&mut self, holder: super::super::regions::Holder, id: u64) {
        let Some(text) = self.screens.keymaps.get(holder, id) else {
            return;
        };
        let Some(number) = self.screens.book.get(&id).map(|screen| screen.number) else {
            return;
        };
        let message = ToSource::Keymap {
            screen: number,
            reader: holder.slot,
            text: text.to_owned(),
        };
        if let Some(source) = self.screens.source_of(id) {
            // What was typed before means what the keymap before says.
            source.pass_input_on();
            source.send(&message);
        }
    }
}

impl Screens {
    /// Sources in an order that begins with another one each time.
    fn in_turn(&mut self) -> Vec<SourceId> {
        let first = self.first_heard;
        let later = self.sources.range(first..).map(|(id, _)| *id);
        let ids: Vec<SourceId> = later
            .chain(self.sources.range(..first).map(|(id, _)| *id))
            .collect();
        self.first_heard = ids.first().map_or(0, |id| id + 1);
        ids
    }
}

impl Source {
    /// Sends the input that waits, if the process has read what came before.
    pub(super) fn pass_input_on(&mut self) {
        while self.backlog() == 0
            && let Some(message) = self.input.pop()
        {
            self.send(&message);
        }
    }
}
