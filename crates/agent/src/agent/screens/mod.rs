//! Screens of the guest, as hosts ask for them: which there are, who watches them, and the
//! processes that deliver them.
//!
//! The agent draws nothing and knows no compositor. *Source processes* do (see
//! `vmshm_channel::source`), with the rights of the desktop's user; the agent starts them,
//! gives them pinned memory and passes on what hosts want. Neither a host nor a source is
//! ever waited for: every answer that is owed has a limit, counted in looks like the silence
//! of hosts, and every queue has an end.
//!
//! `discovery` finds desktops and devices, in a thread of its own and only while somebody
//! cares; `source` is one process and `start` its beginning; `book` knows screens and touches
//! nothing; `hearing` takes what sources say, `requests` what hosts ask; `plugging`, `modes`,
//! `memory`, `input` and `keymaps` each do one thing of these; `upkeep` brings everybody up to
//! date.

mod book;
mod discovery;
#[cfg(test)]
mod fault_tests;
mod hearing;
mod input;
mod keymaps;
mod memory;
mod modes;
mod plugging;
mod requests;
mod source;
#[cfg(test)]
mod stage;
mod start;
#[cfg(test)]
mod tests;
mod upkeep;

use std::collections::BTreeMap;
use std::io;
use std::process::Child;

use rustix::event::{PollFd, PollFlags};

use book::Screen;
use discovery::Discovery;
use keymaps::Keymaps;
use plugging::Plug;
use source::{Key, Source, SourceId};

pub(crate) use discovery::Findings;
pub(crate) use memory::ScreenMemory;
pub(crate) use start::{Processes, Starter};

use super::local_protocol::{ScreensInfo, SourceInfo};
use super::sessions::LOOKS_PER_SECOND;

/// The most screens of one source that are looked at.
const SCREENS_PER_SOURCE: usize = 64;
/// The most screens that hosts have plugged in, or are plugging in.
const MAX_ADDED: usize = 16;
/// Interest lasts so many looks after the last question.
const INTEREST: u64 = looks(10);
/// Time between two surveys while somebody is interested, in looks.
const SURVEY: u64 = looks(2);
/// How long a source may owe an answer, in looks.
const ANSWER: u64 = looks(10);

/// Seconds in looks.
const fn looks(seconds: u64) -> u64 {
    seconds * LOOKS_PER_SECOND as u64
}

/// What the guest offers to hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offer {
    /// Screens at all.
    pub screens: bool,
    /// Taking input at them.
    pub input: bool,
}

impl Offer {
    /// Everything.
    #[cfg(test)]
    pub(crate) const ALL: Self = Self {
        screens: true,
        input: true,
    };
    /// Nothing.
    pub(crate) const NONE: Self = Self {
        screens: false,
        input: false,
    };
}

/// How far the list of screens is known since somebody began to ask.
#[derive(Debug, Clone, Copy, Default)]
struct Interest {
    /// The look at which a host asked last.
    asked: Option<u64>,
    /// The look at which the present interest began.
    since: u64,
    /// Whether a survey has ended since then.
    surveyed: bool,
    /// Whether all that was found then has answered, or was given up.
    settled: bool,
}

/// Everything about screens.
#[derive(Debug)]
pub(crate) struct Screens {
    offer: Offer,
    starter: Box<dyn Starter>,
    discovery: Discovery,
    sources: BTreeMap<SourceId, Source>,
    book: BTreeMap<u64, Screen>,
    /// Screens that sources are plugging in.
    plugs: Vec<Plug>,
    keymaps: Keymaps,
    /// Processes that shall have ended at that look.
    leaving: Vec<(Child, u64)>,
    /// Desktops that cannot be shown, in words.
    others: Vec<String>,
    interest: Interest,
    next_survey: u64,
    last_source: SourceId,
    /// The source that is heard first in the next turn.
    first_heard: SourceId,
    /// A source may have said more than there was time for.
    unheard: bool,
    last_request: u64,
    last_screen: u64,
    /// Looks since the agent began.
    now: u64,
    /// A host has given input since this was asked.
    took_input: bool,
}

impl Screens {
    /// Nothing is known yet.
    ///
    /// # Errors
    /// When the system has no descriptors left.
    pub(crate) fn new(
        offer: Offer,
        starter: impl Starter + 'static,
        survey: impl FnMut() -> Findings + Send + 'static,
    ) -> io::Result<Self> {
        Ok(Self {
            offer,
            starter: Box::new(starter),
            discovery: Discovery::new(Box::new(survey))?,
            sources: BTreeMap::new(),
            book: BTreeMap::new(),
            plugs: Vec::new(),
            keymaps: Keymaps::default(),
            leaving: Vec::new(),
            others: Vec::new(),
            interest: Interest::default(),
            next_survey: 0,
            last_source: 0,
            first_heard: 0,
            unheard: false,
            last_request: 0,
            last_screen: 0,
            now: 0,
            took_input: false,
        })
    }

    /// As the agent offers them.
    ///
    /// # Errors
    /// As [`Screens::new`].
    pub(crate) fn of_this_guest(offer: Offer) -> io::Result<Self> {
        Self::new(offer, Processes, discovery::survey)
    }

    /// Numbers of screens are not used again by the next agent of the same keeper.
    pub(super) fn number_from(&mut self, generation: u64) {
        self.last_screen = generation.saturating_sub(1) << 40;
    }

    /// Adds what to wait for; without sources where they keep the agent awake.
    pub(super) fn add_to_poll<'a>(&'a self, fds: &mut Vec<PollFd<'a>>, heeds_sources: bool) {
        fds.push(PollFd::new(&self.discovery, PollFlags::IN));
        let running = self.sources.values().filter(|_| heeds_sources);
        fds.extend(
            running
                .filter_map(Source::channel)
                .map(|channel| PollFd::new(channel, channel.interest())),
        );
    }

    /// Whether sources may have said what no descriptor tells of.
    pub(super) const fn is_unheard(&self) -> bool {
        self.unheard
    }

    /// Whether a host has given input since the last call.
    pub(super) fn took_input(&mut self) -> bool {
        std::mem::take(&mut self.took_input)
    }

    /// For `status`.
    pub(super) fn info(&self) -> ScreensInfo {
        let name = |id: &u64| self.book.get(id).map(|screen| screen.about.name.clone());
        let sources = self.sources.values().map(|source| SourceInfo {
            title: source.key.to_string(),
            pid: source.pid(),
            screens: source.listed.iter().filter_map(name).collect(),
            trouble: source.trouble.clone(),
        });
        ScreensInfo {
            offered: self.offer.screens,
            input: self.offer.input,
            watched: self
                .book
                .values()
                .filter(|screen| !screen.watchers.is_empty())
                .count(),
            sources: sources.collect(),
        }
    }

    /// Sources in the order of their screens.
    fn in_order(&self) -> Vec<SourceId> {
        let mut ids: Vec<SourceId> = self.sources.keys().copied().collect();
        ids.sort_by_key(|id| (self.sources.get(id).map(|source| source.key.rank()), *id));
        ids
    }

    /// The screens that are listed, in their order.
    fn listed(&self) -> Vec<u64> {
        let ids = self.in_order();
        let sources = ids.iter().filter_map(|id| self.sources.get(id));
        sources
            .filter(|source| source.key != Key::TestCard)
            .flat_map(|source| source.listed.iter().copied())
            .filter(|id| self.book.get(id).is_some_and(Screen::is_shown))
            .collect()
    }

    /// The source of a screen that is there.
    fn source_of(&mut self, screen: u64) -> Option<&mut Source> {
        let screen = self.book.get(&screen).filter(|screen| screen.there)?;
        self.sources.get_mut(&screen.source)
    }

    fn next_request(&mut self) -> u64 {
        self.last_request += 1;
        self.last_request
    }

    fn is_watched(&self) -> bool {
        self.book
            .values()
            .any(|screen| !screen.watchers.is_empty() || screen.added_by.is_some())
    }
}
