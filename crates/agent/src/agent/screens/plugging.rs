//! Plugging screens in and out. What a session has plugged in goes with it; what went with
//! its compositor is plugged in again, for whoever still watches it.

use vmshm_channel::source::ToSource;
use vmshm_link::control::{RefusalCode, Reply};
use vmshm_link::frames::Mode;

use super::super::creation::Refusal;
use super::super::regions::Holder;
use super::super::requests::{Answered, Outcome, refused};
use super::super::service::Service;
use super::book::to_size;
use super::requests::{TO_ADD, busy};
use super::source::{Key, Source, SourceId};
use super::{ANSWER, MAX_ADDED, Screens};

/// A request of a host that is not answered yet.
pub(super) type Asker = (Holder, u64);

/// A screen that a source was asked to plug in.
#[derive(Debug)]
pub(super) struct Plug {
    source: SourceId,
    request: u64,
    /// Who waits for it, if somebody still does.
    asker: Option<Asker>,
    /// The screen that it shall be once more.
    back_for: Option<u64>,
    since: u64,
}

impl Service {
    /// A host wants another screen.
    pub(super) fn add_screen(&mut self, holder: Holder, tag: u64, mode: Mode) -> Answered {
        if !self.screens.knows_list(TO_ADD) {
            return Ok(Ok(Outcome::Later));
        }
        if self.screens.count_added() >= MAX_ADDED {
            return refused(
                RefusalCode::Unable,
                format!("this guest has {MAX_ADDED} added screens already"),
            );
        }
        let ids = self.screens.in_order();
        let can_add = |id: &SourceId| self.screens.sources.get(id).is_some_and(|one| one.can_add);
        let Some(id) = ids.into_iter().find(can_add) else {
            return refused(RefusalCode::Unable, self.screens.why_none_is_added());
        };
        if self.screens.sources.get(&id).is_some_and(Source::is_busy) {
            return busy();
        }
        self.screens.plug(id, mode, Some((holder, tag)), None);
        Ok(Ok(Outcome::Waits))
    }

    /// A source has plugged a screen in.
    pub(super) fn plugged(&mut self, source: SourceId, request: u64, number: u64) {
        let Some(plug) = self.screens.take_plug(source, request) else {
            // Nobody asked: it is the source's own affair.
            return;
        };
        let Some(id) = self.screens.find(source, number) else {
            if let Some(asker) = plug.asker {
                let message = "the new screen vanished at once";
                self.refuse_asker(asker, &Refusal::new(RefusalCode::Unable, message));
            }
            self.screens
                .tell(source, &ToSource::Remove { screen: number });
            return;
        };
        if let Some(asker) = plug.asker.filter(|asker| self.is_waiting(*asker)) {
            if let Some(screen) = self.screens.book.get_mut(&id) {
                screen.added_by = Some(asker.0);
            }
            match self.describe_screen(id) {
                Ok(Ok(Outcome::Answer(reply))) => self.answer_asker(asker, &reply),
                Ok(Err(refusal)) => self.refuse_asker(asker, &refusal),
                _ => {}
            }
            return;
        }
        if let Some(old) = plug.back_for
            && (old == id || self.screens.put_back(old, id))
        {
            return;
        }
        self.unplug(id);
    }

    /// A source has not plugged a screen in.
    pub(super) fn not_plugged(&mut self, source: SourceId, request: u64, message: &str) -> bool {
        let Some(plug) = self.screens.take_plug(source, request) else {
            return false;
        };
        if let Some(asker) = plug.asker {
            self.refuse_asker(asker, &Refusal::new(RefusalCode::Unable, message));
        }
        true
    }

    /// A source is gone: it will not answer any more.
    pub(super) fn forget_plugs(&mut self, source: SourceId) {
        let (over, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.screens.plugs)
            .into_iter()
            .partition(|plug| plug.source == source);
        self.screens.plugs = rest;
        let refusal = Refusal::new(RefusalCode::Unable, "the desktop has just ended");
        for asker in over.into_iter().filter_map(|plug| plug.asker) {
            self.refuse_asker(asker, &refusal);
        }
    }

    /// Those who have waited for too long are told; a screen that comes yet is unplugged.
    pub(super) fn expire_plugs(&mut self) {
        let now = self.screens.now;
        let late = self.screens.plugs.iter_mut();
        let askers: Vec<Asker> = late
            .filter(|plug| now > plug.since + ANSWER)
            .filter_map(|plug| plug.asker.take())
            .collect();
        let message = "the desktop has not added a screen within 10 seconds";
        let refusal = Refusal::new(RefusalCode::Unable, message);
        for asker in askers {
            self.refuse_asker(asker, &refusal);
        }
    }

    /// Screens that went with their compositor are plugged in again where it is back.
    pub(super) fn plug_again(&mut self, source: SourceId) {
        let screens = &mut self.screens;
        let Some(back) = screens.sources.get(&source).filter(|one| one.can_add) else {
            return;
        };
        let lost: Vec<(u64, Mode)> = screens
            .book
            .iter()
            .filter(|(id, screen)| {
                let asked = |plug: &Plug| plug.back_for == Some(**id);
                screen.lost_with_source
                    && screen.added_by.is_some()
                    && screen.key.is_like(&back.key)
                    && !screens.plugs.iter().any(asked)
            })
            .filter_map(|(id, screen)| Some((*id, super::book::to_mode(screen.about.mode)?)))
            .collect();
        for (id, mode) in lost {
            screens.plug(source, mode, None, Some(id));
        }
    }

    /// Unplugs a screen that a host has plugged in.
    pub(super) fn unplug(&mut self, id: u64) {
        let Some(screen) = self.screens.book.get_mut(&id) else {
            return;
        };
        screen.added_by = None;
        if !screen.there {
            return;
        }
        screen.leaving = true;
        let (source, number) = (screen.source, screen.number);
        self.screens
            .tell(source, &ToSource::Remove { screen: number });
    }

    /// Whether this request still waits for its answer.
    pub(super) fn is_waiting(&self, (holder, _): Asker) -> bool {
        let session = self.sessions.get(holder.slot);
        session.is_some_and(|session| session.holder() == holder && session.waits)
    }

    /// Answers a request that has waited.
    pub(super) fn answer_asker(&mut self, asker: Asker, reply: &Reply) {
        let (holder, tag) = asker;
        if !self.is_waiting(asker) {
            return;
        }
        if let Some(session) = self.sessions.get_mut(holder.slot)
            && let Err(error) = session.reply(reply.to_message(tag))
        {
            session.set_broken(error);
        }
    }

    /// Refuses a request that has waited.
    pub(super) fn refuse_asker(&mut self, asker: Asker, refusal: &Refusal) {
        self.answer_asker(asker, &refusal.to_reply());
    }
}

impl Screens {
    /// Asks a source to plug a screen in.
    fn plug(&mut self, source: SourceId, mode: Mode, asker: Option<Asker>, back_for: Option<u64>) {
        let request = self.next_request();
        let mode = to_size(mode);
        self.tell(source, &ToSource::Add { request, mode });
        self.plugs.push(Plug {
            source,
            request,
            asker,
            back_for,
            since: self.now,
        });
    }

    fn take_plug(&mut self, source: SourceId, request: u64) -> Option<Plug> {
        let is_it = |plug: &Plug| (plug.source, plug.request) == (source, request);
        let place = self.plugs.iter().position(is_it)?;
        Some(self.plugs.swap_remove(place))
    }

    /// Screens that are plugged in, or will be.
    fn count_added(&self) -> usize {
        let added = |screen: &&super::Screen| screen.added_by.is_some() || screen.leaving;
        self.plugs.len() + self.book.values().filter(added).count()
    }

    /// Says something to a source.
    pub(super) fn tell(&mut self, source: SourceId, message: &ToSource) -> bool {
        let source = self.sources.get_mut(&source);
        source.is_some_and(|source| source.send(message))
    }

    /// The screen that a source calls so.
    pub(super) fn find(&self, source: SourceId, number: u64) -> Option<u64> {
        let mut there = self.book.iter().filter(|(_, screen)| screen.there);
        there
            .find(|(_, screen)| (screen.source, screen.number) == (source, number))
            .map(|(id, _)| *id)
    }

    /// A screen that was lost is there again, as the new screen `new`.
    fn put_back(&mut self, old: u64, new: u64) -> bool {
        let lost = |screen: &super::Screen| !screen.there && screen.added_by.is_some();
        if !self.book.get(&old).is_some_and(lost) {
            return false;
        }
        // Somebody may have taken the new one for a screen of its own already.
        let unused = |screen: &super::Screen| screen.watchers.is_empty() && !screen.making_frames;
        if !self.book.get(&new).is_some_and(unused) {
            return false;
        }
        let Some(found) = self.book.remove(&new) else {
            return false;
        };
        if let Some(source) = self.sources.get_mut(&found.source) {
            for listed in source.listed.iter_mut().filter(|listed| **listed == new) {
                *listed = old;
            }
        }
        if let Some(screen) = self.book.get_mut(&old) {
            screen.return_to(found.source, found.about);
        }
        true
    }

    /// In words, why no screen can be added.
    fn why_none_is_added(&self) -> String {
        let mut found = self.others.clone();
        for source in self.sources.values() {
            match (&source.key, &source.trouble) {
                (Key::Compositor { .. }, Some(trouble)) => {
                    found.push(format!("{} ({trouble})", source.key));
                }
                (Key::Compositor { name, .. }, None) if source.is_ready() => {
                    found.push(format!("{name}, which adds no outputs"));
                }
                (Key::Compositor { name, .. }, None) => {
                    found.push(format!("{name}, which does not answer"));
                }
                (Key::Framebuffer { device }, _) => found.push(device.clone()),
                (Key::TestCard, _) => {}
            }
        }
        let found = if found.is_empty() {
            "no desktop".to_owned()
        } else {
            found.join(", ")
        };
        format!("adding a monitor needs a wlroots compositor; found: {found}")
    }
}
