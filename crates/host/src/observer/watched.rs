//! One VM under watch: what is known of it, what is searched for, and what is told when that
//! changes. Looks only where it may; what a broker tells of a dark one is heard, not asked for.

use std::time::{Duration, Instant};

use vmshm_link::directory;
use vmshm_ram::{BlockOffset, Protection, RamBlock, RunState, Vmm, find_among, guest_os};

use super::{Event, Happening};
use crate::beacon_search::{BeaconSearch, Known};
use crate::look::{self, Look};
use crate::machines::by_broker::{Told, is_dark};
use crate::machines::{AgentState, AgentView, MachineView};
use crate::sighting::{self, Candidate, Directory, Sighting, Target, Where};

/// All pages are searched a little at a time, and of one VM at a time, so that a large
/// one takes no more of the processor than a small one.
const SLICE_EVERY: Duration = Duration::from_millis(450);
/// A heartbeat that has not moved for so long is called silent.
const SILENCE: Duration = Duration::from_millis(1500);
/// How long a search waits for a heartbeat.
const PULSE_WAIT: Duration = Duration::from_millis(1500);
/// How often it is asked whether a VM's mappings are others than they were.
const BLOCKS_EVERY: Duration = Duration::from_secs(1);
/// How often they are compared in any case.
const COMPARE_EVERY: Duration = Duration::from_secs(60);
/// Searches take at most one part in so many of the time, all VMs together.
const SHARE: u32 = 300;
/// The shortest pause between two looks at the likely places.
const LIKELY_EVERY: Duration = Duration::from_secs(1);
/// The shortest pause between two looks at all pages.
const PAGES_EVERY: Duration = Duration::from_secs(10);
/// When the kernel of a guest without an agent is looked for, after it appeared; four
/// times as long after that again, and so on.
const KERNEL_AFTER: Duration = Duration::from_secs(5);
/// How long each of those takes at most.
const KERNEL_BUDGET: Duration = Duration::from_millis(300);

/// A search, and how long it has taken of the processor.
pub(super) type UnderWay = (BeaconSearch, Duration);

/// One VM under watch.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) view: MachineView,
    /// Where its agent may be looked for.
    place: Where,
    target: Option<Target>,
    beacon: Option<Candidate>,
    directory: Option<Directory>,
    last_moved: Instant,
    /// The guest's boot id when an agent last told it.
    boot_id: Option<[u8; 16]>,
    paused: bool,
    /// The search of the likely places, while the agent is missed.
    pub(super) likely: Option<UnderWay>,
    /// The search of all pages. It may take minutes, and the other goes on beside it.
    pub(super) pages: Option<UnderWay>,
    /// Where beacons lay that made the last search say what it said.
    deciding: Vec<BlockOffset>,
    next_likely: Instant,
    next_pages: Instant,
    next_slice: Instant,
    next_blocks: Instant,
    compare_blocks_at: Instant,
    /// How many pages the VMM had mapped when its blocks were compared.
    pub(super) mapped_pages: Option<u64>,
    next_kernel: Option<(Instant, Duration)>,
}

impl Watched {
    pub(super) fn new(look: Look, place: Where, now: Instant) -> Self {
        let agent = look.view.agent.as_ref();
        let mut watched = Self {
            boot_id: agent.and_then(|agent| agent.boot_id),
            target: look.target,
            beacon: None,
            directory: None,
            last_moved: now,
            paused: false,
            likely: None,
            pages: None,
            deciding: Vec::new(),
            next_likely: now,
            next_pages: now + PAGES_EVERY,
            next_slice: now,
            next_blocks: now + BLOCKS_EVERY,
            compare_blocks_at: now + COMPARE_EVERY,
            mapped_pages: look.view.vmm.mapped_pages(),
            next_kernel: (place == Where::Scan && look.view.guest_os.is_none())
                .then_some((now + KERNEL_AFTER, KERNEL_AFTER)),
            view: look.view,
            place,
        };
        watched.paused = watched.run_state() == RunState::Stopped;
        watched.take_beacon(look.beacon, now);
        watched
    }

    pub(super) fn event(&self, happening: Happening) -> Event {
        Event {
            happening,
            view: self.view.clone(),
            changed: Vec::new(),
        }
    }

    fn changed(&self, what: &'static str) -> Event {
        Event {
            changed: vec![what],
            ..self.event(Happening::Changed)
        }
    }

    fn run_state(&self) -> RunState {
        match &self.target {
            Some(target) => target.ram.liveness().run_state(),
            // What cannot be reached can still be seen to end.
            None if find_among(vec![self.view.vmm.pid])
                .iter()
                .any(|vmm| vmm.start_time == self.view.vmm.start_time) =>
            {
                RunState::Running
            }
            None => RunState::Gone,
        }
    }

    /// Looks once; whether the VM is still there.
    pub(super) fn look(
        &mut self,
        now: Instant,
        count: u32,
        pages_free: bool,
        events: &mut Vec<Event>,
    ) -> bool {
        let run_state = self.run_state();
        if run_state == RunState::Gone {
            return false;
        }
        let paused = run_state == RunState::Stopped;
        if paused != self.paused {
            self.paused = paused;
            // Its heart could not beat meanwhile.
            self.last_moved = now;
            let happening = if paused {
                Happening::Paused
            } else {
                Happening::Resumed
            };
            events.push(self.event(happening));
        }
        if now >= self.next_blocks {
            self.next_blocks = now + BLOCKS_EVERY;
            let mapped_pages = self.view.vmm.mapped_pages();
            if mapped_pages != self.mapped_pages || now >= self.compare_blocks_at {
                self.mapped_pages = mapped_pages;
                self.compare_blocks_at = now + COMPARE_EVERY;
                if !self.compare_blocks(events) {
                    return false;
                }
            }
        }
        if paused {
            return true;
        }
        self.look_at_beacon(now, events);
        self.look_at_regions(events);
        self.go_on_searching(now, count, pages_free, events);
        self.look_at_kernel(now, events);
        true
    }

    /// Whether a search of all pages is under way.
    pub(super) fn searches_pages(&self) -> bool {
        self.pages
            .as_ref()
            .is_some_and(|(search, _)| search.next_page().is_some())
    }

    /// Whether the process is still a VM; opens it anew where its RAM is another.
    fn compare_blocks(&mut self, events: &mut Vec<Event>) -> bool {
        let before = &self.view.vmm;
        let found = find_among(vec![before.pid]);
        let Some(vmm) = found
            .into_iter()
            .find(|vmm| vmm.start_time == before.start_time && vmm.kind == before.kind)
        else {
            return false;
        };
        if !same_blocks(&vmm, before) {
            self.likely = None;
            self.pages = None;
            self.deciding.clear();
            self.target = look::open(&vmm);
            self.view.vmm = vmm;
            self.view.brokered &= self.is_dark();
            // Its place is counted by blocks, which are others now.
            self.beacon = None;
            self.directory = None;
            self.next_likely = Instant::now();
            self.next_pages = Instant::now();
            events.push(self.changed("blocks"));
        }
        true
    }

    fn look_at_beacon(&mut self, now: Instant, events: &mut Vec<Event>) {
        let (Some(target), Some(candidate)) = (&self.target, &mut self.beacon) else {
            return;
        };
        let Some(signs) = sighting::signs_at(&target.ram, candidate.at, &candidate.beacon) else {
            if target.ram.liveness().is_gone() {
                return;
            }
            // It left, or the guest has started again: the search will tell.
            self.beacon = None;
            self.directory = None;
            self.next_likely = now;
            self.set_agent(None, events);
            return;
        };
        let moved = signs.moved_since(&candidate.signs);
        candidate.signs = signs;
        if moved {
            self.last_moved = now;
            if self.directory.is_none() {
                // It may have been caught in the middle of being written.
                self.directory = Directory::open(target, candidate, Protection::Read).ok();
            }
        }
        let was_silent =
            self.view.agent.as_ref().map(|agent| agent.state) == Some(AgentState::Silent);
        // Who was silent is so until a heartbeat is seen.
        let silent = !moved && (was_silent || now.duration_since(self.last_moved) > SILENCE);
        let state = if silent {
            AgentState::Silent
        } else {
            look::state_of(&signs)
        };
        let mut agent = self.view.agent.clone();
        if let Some(agent) = &mut agent
            && agent.state != AgentState::Nested
        {
            agent.state = state;
        }
        self.set_agent(agent, events);
    }

    fn look_at_regions(&mut self, events: &mut Vec<Event>) {
        let Some(directory) = &self.directory else {
            return;
        };
        let regions: Vec<_> = directory.regions().filter_map(Result::ok).collect();
        if !same_regions(&regions, &self.view.regions) {
            self.view.regions = regions;
            events.push(self.changed("regions"));
        }
    }

    /// Whether this process may not look into it.
    pub(super) fn is_dark(&self) -> bool {
        is_dark(&self.view)
    }

    /// Takes what a broker tells, where only it can see.
    pub(super) fn hear(&mut self, told: &Told, events: &mut Vec<Event>) {
        if !self.is_dark() {
            return;
        }
        let mut view = self.view.clone();
        told.complete(&mut view);
        let mut changed = Vec::new();
        if view.brokered != self.view.brokered {
            changed.push("access");
        }
        if view.guest_os != self.view.guest_os {
            changed.push("guest_os");
        }
        if !same_regions(&view.regions, &self.view.regions) {
            changed.push("regions");
        }
        let agent = std::mem::replace(&mut view.agent, self.view.agent.clone());
        let regions = view.regions.clone();
        self.view = view;
        self.set_agent(agent, events);
        // An agent that is gone takes its regions with it, unless it is told otherwise.
        self.view.regions = regions;
        if !changed.is_empty() {
            events.push(Event {
                changed,
                ..self.event(Happening::Changed)
            });
        }
    }

    /// Starts searches where they are due, and carries on what has begun.
    fn go_on_searching(
        &mut self,
        now: Instant,
        count: u32,
        pages_free: bool,
        events: &mut Vec<Event>,
    ) {
        let silent = self.view.agent.as_ref().map(|agent| agent.state) == Some(AgentState::Silent);
        let lacks = self.beacon.is_none() || silent;
        if self.likely.is_none() && lacks && now >= self.next_likely {
            self.likely = self.start(false);
            let took = self
                .likely
                .as_ref()
                .map_or(Duration::ZERO, |(_, took)| *took);
            self.next_likely = now + LIKELY_EVERY.max(took * SHARE * count);
        }
        if let Some((sighting, _)) = self.step(false) {
            self.settle(&sighting, now, events);
        }
        if self.searches_pages() && now < self.next_slice {
            return;
        }
        self.next_slice = now + SLICE_EVERY;
        let due = self.place == Where::Scan && pages_free && now >= self.next_pages;
        if self.pages.is_none() && due {
            // Set anew when it is known how long it took.
            self.next_pages = now + PAGES_EVERY;
            self.pages = self.start(true);
        }
        if let Some((sighting, took)) = self.step(true) {
            self.next_pages = self.next_pages.max(now + took * SHARE * count);
            // What it saw at its start may be long past.
            if matches!(sighting, Sighting::Nested) || self.beacon.is_none() || silent {
                self.settle(&sighting, now, events);
            }
        }
    }

    fn start(&self, all_pages: bool) -> Option<UnderWay> {
        let own = self.beacon.iter().map(|candidate| candidate.at);
        let known = Known {
            places: own.chain(self.deciding.iter().copied()).collect(),
            pages_from: all_pages.then(BlockOffset::default),
            likely_only: !all_pages,
            is_patient: true,
        };
        let started = Instant::now();
        let target = self.target.as_ref()?;
        let place = self.place.resolved_for(&target.vmm)?;
        let search = BeaconSearch::resume(target, place, &known).ok()?;
        Some((search, started.elapsed()))
    }

    /// Carries a search on; what came of it and how long it took, if it is over.
    fn step(&mut self, all_pages: bool) -> Option<(Sighting, Duration)> {
        let target = self.target.as_ref()?;
        let under_way = if all_pages {
            &mut self.pages
        } else {
            &mut self.likely
        };
        let (search, took) = under_way.as_mut()?;
        let started = Instant::now();
        let sighting = match search.step(target) {
            Ok(Some(sighting)) => sighting,
            Ok(None) if search.watched_for() < PULSE_WAIT || search.next_page().is_some() => {
                *took += started.elapsed();
                return None;
            }
            _ => search.conclude(target),
        };
        let took = *took + started.elapsed();
        self.deciding = match sighting {
            Sighting::Nested | Sighting::Incompatible(_) => search.findings().deciding_places(),
            _ => Vec::new(),
        };
        *under_way = None;
        Some((sighting, took))
    }

    /// What a search that is over means.
    fn settle(&mut self, sighting: &Sighting, now: Instant, events: &mut Vec<Event>) {
        // Nothing new where the beacon that is watched was found again.
        if let (Sighting::Living(found) | Sighting::Silent(found), Some(known)) =
            (sighting, &self.beacon)
            && found.at == known.at
            && found.beacon == known.beacon
            && self.view.agent.as_ref().map(|agent| agent.state) != Some(AgentState::Nested)
        {
            return;
        }
        let Some(target) = self.target.take() else {
            return;
        };
        if let Sighting::Living(found) = sighting
            && sighting::signs_at(&target.ram, found.at, &found.beacon).is_none()
        {
            // It has left since it was seen to live.
            self.target = Some(target);
            return;
        }
        let look = Look::of_sighting(self.view.vmm.clone(), target, sighting);
        self.target = look.target;
        let regions_before = std::mem::take(&mut self.view.regions);
        self.view.regions = look.view.regions;
        let system = look.view.guest_os;
        if system.is_some() {
            self.view.guest_os = system;
            self.next_kernel = None;
        }
        self.take_beacon(look.beacon, now);
        let told = self.set_agent(look.view.agent, events);
        if !told && regions_before.len() != self.view.regions.len() {
            events.push(self.changed("regions"));
        }
    }

    fn take_beacon(&mut self, beacon: Option<Candidate>, now: Instant) {
        self.last_moved = now;
        self.directory = match (&self.target, &beacon) {
            (Some(target), Some(candidate)) => {
                Directory::open(target, candidate, Protection::Read).ok()
            }
            _ => None,
        };
        self.beacon = beacon;
    }

    /// Tells of the agent if it is another than before; whether it did.
    fn set_agent(&mut self, agent: Option<AgentView>, events: &mut Vec<Event>) -> bool {
        if agent == self.view.agent {
            return false;
        }
        let boot_id = agent.as_ref().and_then(|agent| agent.boot_id);
        if agent.is_none() {
            self.view.regions.clear();
        }
        self.view.agent = agent;
        let rebooted = boot_id.is_some() && self.boot_id.is_some() && boot_id != self.boot_id;
        self.boot_id = boot_id.or(self.boot_id);
        let happening = if rebooted {
            Happening::Rebooted
        } else {
            Happening::Agent
        };
        events.push(self.event(happening));
        true
    }

    fn look_at_kernel(&mut self, now: Instant, events: &mut Vec<Event>) {
        let (Some((when, pause)), Some(target)) = (self.next_kernel, &self.target) else {
            return;
        };
        if now < when {
            return;
        }
        self.next_kernel = Some((now + pause * 4, pause * 4));
        let system = guest_os(&self.view.vmm, &target.ram, KERNEL_BUDGET);
        if let Some(system) = system {
            self.next_kernel = None;
            self.view.guest_os = Some(system.to_string());
            events.push(self.changed("guest_os"));
        }
    }
}

fn same_regions(one: &[directory::RegionEntry], other: &[directory::RegionEntry]) -> bool {
    let key = |region: &directory::RegionEntry| (region.name, region.kind.name(), region.size);
    one.iter().map(key).eq(other.iter().map(key))
}

fn same_blocks(one: &Vmm, other: &Vmm) -> bool {
    let key = |block: &RamBlock| (block.start, block.length, block.file);
    one.blocks.iter().map(key).eq(other.blocks.iter().map(key))
        && one.ram_bytes == other.ram_bytes
        && one.access() == other.access()
}
