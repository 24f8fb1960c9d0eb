//! Watches the VMs of this host and tells what happens to them: VMs and agents that
//! come and go, guests that start again, regions and RAM that change, VMs that pause.
//!
//! It only reads, and as little as it can: a process is judged once, a known beacon is
//! read where it lies, and RAM is searched again only where no living beacon is known,
//! more rarely the longer that takes. Where scanning is not allowed, agents are looked for
//! at the one place that is given or learned, and no guest's kernel is searched for. VMs that
//! this process may not look into are seen by a broker's eyes, if it is to ask one.

mod eyes;
mod watched;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use vmshm_ram::{Census, FindError, find_all, find_among};

use crate::look::{self, Look};
use crate::machines::{MachineView, by_broker};
use crate::sighting::Where;

use eyes::Eyes;
use watched::Watched;

/// How often [`Observer::look`] is meant to be called.
pub const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often while a heartbeat is waited for.
pub const SEARCH_EVERY: Duration = Duration::from_millis(100);
/// How often processes are counted.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// A VM is there, for the first time.
    Appeared,
    /// Its RAM, its regions or its system are others than before.
    Changed,
    /// Its guest has started again.
    Rebooted,
    /// Its agent came, went, or is in another state.
    Agent,
    /// Its process is stopped: the guest makes no progress.
    Paused,
    /// It runs again.
    Resumed,
    /// Its process has ended.
    Disappeared,
}

impl Happening {
    /// The word that scripts see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Appeared => "appeared",
            Self::Changed => "changed",
            Self::Rebooted => "rebooted",
            Self::Agent => "agent",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Disappeared => "disappeared",
        }
    }
}

/// Something that happened, with what is known of the VM since.
#[derive(Debug, Clone)]
pub struct Event {
    /// What.
    pub happening: Happening,
    /// The VM, as it is now.
    pub view: MachineView,
    /// Which fields changed, for [`Happening::Changed`].
    pub changed: Vec<&'static str>,
}

/// The watch over all VMs.
#[derive(Debug)]
pub struct Observer {
    place: Where,
    census: Census,
    watched: BTreeMap<u32, Watched>,
    next_count: Option<Instant>,
    eyes: Option<Eyes>,
}

impl Observer {
    /// A watch that looks for agents only where `place` says.
    #[must_use]
    pub fn new(place: Where) -> Self {
        Self {
            place,
            census: Census::default(),
            watched: BTreeMap::new(),
            next_count: None,
            eyes: None,
        }
    }

    /// The same, where VMs that this process may not look into are seen by a broker's eyes: by
    /// the one that is named, else by the usual one while it runs.
    #[must_use]
    pub fn with_broker(self, broker: Option<PathBuf>) -> Self {
        Self {
            eyes: Some(Eyes::of(broker)),
            ..self
        }
    }

    /// Looks once. The first look tells of every VM that is there.
    ///
    /// # Errors
    /// [`FindError`] when processes cannot be listed.
    pub fn look(&mut self) -> Result<Vec<Event>, FindError> {
        let now = Instant::now();
        let mut events = Vec::new();
        let begun = self.next_count.is_some();
        let mut due = Vec::new();
        if self.next_count.is_none_or(|next| now >= next) {
            self.next_count = Some(now + COUNT_EVERY);
            due = self
                .census
                .count(now)
                .map_err(|error| FindError::Processes(error.to_string()))?;
        }
        if begun {
            for pid in &due {
                if let Some(watched) = self.watched.get_mut(pid) {
                    // It may have become another program.
                    watched.mapped_pages = None;
                }
            }
            self.watch_known(now, &mut events);
            self.watch_by_broker(now, &mut events);
            self.judge(due, now, &mut events);
        } else {
            let mut looks = look::look_at(find_all()?, self.place);
            if let Some(eyes) = &self.eyes {
                let views = looks.iter_mut().map(|look| &mut look.view);
                by_broker::complete_all(views, eyes.broker());
            }
            for look in looks {
                let watched = Watched::new(look, self.place, now);
                events.push(watched.event(Happening::Appeared));
                self.watched.insert(watched.view.vmm.pid, watched);
            }
        }
        Ok(events)
    }

    /// When it makes sense to look again.
    #[must_use]
    pub fn pause(&self) -> Duration {
        let waits =
            |one: &Watched| one.likely.is_some() || (one.pages.is_some() && !one.searches_pages());
        if self.watched.values().any(waits) {
            SEARCH_EVERY
        } else {
            LOOK_EVERY
        }
    }

    fn watch_known(&mut self, now: Instant, events: &mut Vec<Event>) {
        let count = u32::try_from(self.watched.len()).unwrap_or(u32::MAX);
        let mut pages_free = !self.watched.values().any(Watched::searches_pages);
        self.watched.retain(|_, watched| {
            let stays = watched.look(now, count, pages_free, events);
            pages_free &= !watched.searches_pages();
            if !stays {
                events.push(watched.event(Happening::Disappeared));
            }
            stays
        });
    }

    /// What a broker tells of the VMs that are known and dark.
    fn watch_by_broker(&mut self, now: Instant, events: &mut Vec<Event>) {
        let Some(eyes) = &mut self.eyes else { return };
        if !self.watched.values().any(Watched::is_dark) {
            return;
        }
        if let Some(told) = eyes.look(now) {
            for watched in self.watched.values_mut() {
                watched.hear(&told, events);
            }
        }
    }

    /// Judges processes that may be VMs now.
    fn judge(&mut self, mut pids: Vec<u32>, now: Instant, events: &mut Vec<Event>) {
        pids.retain(|pid| !self.watched.contains_key(pid));
        if pids.is_empty() || find_among(pids.clone()).is_empty() {
            return;
        }
        // Together with those that are known, a VMM's copies of itself are told from it.
        pids.extend(self.watched.keys());
        pids.sort_unstable();
        for vmm in find_among(pids) {
            if self.watched.contains_key(&vmm.pid) {
                continue;
            }
            let target = look::open(&vmm);
            let watched = Watched::new(Look::bare(vmm, target), self.place, now);
            events.push(watched.event(Happening::Appeared));
            if let Some(eyes) = &mut self.eyes
                && watched.is_dark()
            {
                eyes.hurry(now);
            }
            self.watched.insert(watched.view.vmm.pid, watched);
        }
    }
}
