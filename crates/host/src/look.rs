//! One look at VMs: who runs in them, what they announce. Nothing is written to them,
//! and no VM has to wait for another.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use vmshm_link::beacon::{KeeperState, Signs};
use vmshm_ram::{Access, BlockOffset, Method, Protection, RunState, Vmm, guest_os};

use crate::beacon_search::{BeaconSearch, Known};
use crate::last_seen::{self, LastSeen, SeenBeacon, SeenVm};
use crate::machines::{AgentState, AgentView, MachineView};
use crate::sighting::{self, Candidate, Directory, Sighting, Target, Where};

/// How long pulses are waited for: the slowest beats four times a second.
const PULSE_WAIT: Duration = Duration::from_millis(900);
/// How long pages are searched where none of the likely places has a beacon.
const PAGES_WAIT: Duration = Duration::from_secs(1);
/// How long the guest's kernel is searched for where no agent tells.
const BANNER_BUDGET: Duration = Duration::from_millis(1500);
/// A search of all pages for guests inside the guest counts for so many milliseconds.
const COVERED_FOR: u64 = 10_000;
/// One that found no beacon at all counts for so many: an agent whose beacon is not at
/// one of the likely places, where each look finds it, is rare.
const BARE_FOR: u64 = 30_000;
/// Most of the time is spent waiting, so more at once than there are processors.
const AT_ONCE: usize = 16;

/// Looks at these VMs, all at the same time; in their order. Agents are looked for only
/// where `place` says; without scanning, a guest whose agent is not seen is not searched
/// for its operating system either.
pub(crate) fn look_at(vmms: Vec<Vmm>, place: Where) -> Vec<Look> {
    let last = LastSeen::load();
    let jobs: Vec<Mutex<Option<Vmm>>> = vmms.into_iter().map(|vmm| Mutex::new(Some(vmm))).collect();
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, Look)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.len().min(AT_ONCE) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(index) else { break };
                    let vmm = job.lock().unwrap_or_else(PoisonError::into_inner).take();
                    let Some(vmm) = vmm else { continue };
                    let look = match place {
                        Where::Scan => Look::by_scanning(vmm, &last),
                        place => Look::there_only(vmm, place),
                    };
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    results.push((index, look));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    let seen = results.iter().filter_map(|(_, look)| look.seen.clone());
    last.with(seen.collect()).store();
    results.into_iter().map(|(_, look)| look).collect()
}

/// What one look at a VM gave.
pub(crate) struct Look {
    /// What users are shown.
    pub(crate) view: MachineView,
    /// The opened memory; nothing where it cannot be reached.
    pub(crate) target: Option<Target>,
    /// The guest's beacon, alive or silent.
    pub(crate) beacon: Option<Candidate>,
    seen: Option<SeenVm>,
}

impl Look {
    /// A VM of which nothing more was looked at.
    pub(crate) const fn bare(vmm: Vmm, target: Option<Target>) -> Self {
        Self {
            view: MachineView::bare(vmm),
            target,
            beacon: None,
            seen: None,
        }
    }

    /// Looks at one address, given or learned, and nowhere else.
    fn there_only(vmm: Vmm, place: Where) -> Self {
        let place = place.resolved_for(&vmm).unwrap_or(Where::Learned);
        let Some(target) = open(&vmm) else {
            return Self::bare(vmm, None);
        };
        let sighting = match BeaconSearch::start(&target, place) {
            Ok(mut search) => wait(&mut search, &target),
            Err(error) => {
                tracing::debug!(pid = vmm.pid, %error, "the VM's memory cannot be read");
                Sighting::Nothing
            }
        };
        Self::of_sighting(vmm, target, &sighting)
    }

    fn by_scanning(vmm: Vmm, last: &LastSeen) -> Self {
        let before = last.of(vmm.pid, vmm.start_time);
        let Some(target) = open(&vmm) else {
            return Self::bare(vmm, None);
        };
        let now = last_seen::now();
        let known = known(&target, before, now);
        let (sighting, seen) = match BeaconSearch::resume(&target, Where::Scan, &known) {
            Ok(mut search) => {
                let vouched: Vec<SeenBeacon> = before
                    .iter()
                    .flat_map(|vm| &vm.beacons)
                    .filter_map(|beacon| vouch(&mut search, &target, beacon))
                    .collect();
                let sighting = wait(&mut search, &target);
                let mut seen = remember(&search, &target, before, known.pages_from.is_some());
                seen.beacons = seen_beacons(&mut search, &target, now, &vouched);
                (sighting, Some(seen))
            }
            Err(error) => {
                tracing::debug!(pid = vmm.pid, %error, "the VM's memory cannot be searched");
                (Sighting::Nothing, None)
            }
        };
        let mut look = Self::of_sighting(vmm, target, &sighting);
        look.seen = seen;
        if let (None, Some(target)) = (&look.view.guest_os, &look.target) {
            look.view.guest_os =
                guest_os(&look.view.vmm, &target.ram, BANNER_BUDGET).map(|found| found.to_string());
        }
        look
    }

    /// What a sighting means for users.
    pub(crate) fn of_sighting(vmm: Vmm, target: Target, sighting: &Sighting) -> Self {
        let mut view = MachineView::bare(vmm);
        let (candidate, state) = match sighting {
            Sighting::Living(candidate) => (Some(*candidate), state_of(&candidate.signs)),
            Sighting::Silent(candidate) => (Some(*candidate), AgentState::Silent),
            Sighting::Nested => (None, AgentState::Nested),
            Sighting::Incompatible(_) => (None, AgentState::Incompatible),
            Sighting::Nothing => {
                return Self::bare(view.vmm, Some(target));
            }
        };
        let mut agent = AgentView {
            version: None,
            state,
            boot_id: candidate.map(|candidate| candidate.beacon.boot_id),
        };
        if let Some(candidate) = &candidate {
            match Directory::open(&target, candidate, Protection::Read) {
                Ok(directory) => {
                    let header = &directory.header;
                    agent.version = Some(header.agent_version.as_str().to_owned());
                    view.guest_os = Some(format!("Linux {}", header.kernel_release.as_str()));
                    view.regions = directory.regions().filter_map(Result::ok).collect();
                }
                Err(error) if error.shows_nesting() => {
                    agent.state = AgentState::Nested;
                    agent.boot_id = None;
                }
                Err(error) => tracing::debug!(%error, "the directory cannot be read"),
            }
        }
        view.agent = Some(agent);
        Self {
            view,
            target: Some(target),
            beacon: candidate,
            seen: None,
        }
    }
}

/// What the keeper says of an agent whose heartbeat moves.
pub(crate) fn state_of(signs: &Signs) -> AgentState {
    if signs.state == KeeperState::AgentDead {
        AgentState::Dead
    } else {
        AgentState::Seen
    }
}

/// Opens what can be reached of a VM's memory.
pub(crate) fn open(vmm: &Vmm) -> Option<Target> {
    if vmm.access() == Access::None {
        return None;
    }
    Target::open(vmm, Method::Auto)
        .inspect_err(|error| tracing::debug!(pid = vmm.pid, %error, "cannot be opened"))
        .ok()
}

/// Steps until it is certain, or waiting would tell nothing new.
fn wait(search: &mut BeaconSearch, target: &Target) -> Sighting {
    loop {
        match search.step(target) {
            Ok(Some(sighting)) => return sighting,
            Ok(None) => {}
            Err(_) => return search.conclude(target),
        }
        let elapsed = search.watched_for();
        let over = elapsed >= PAGES_WAIT
            || (elapsed >= PULSE_WAIT && !search.is_searching(target))
            || target.ram.liveness().run_state() != RunState::Running;
        if over {
            return search.conclude(target);
        }
        search.pause();
    }
}

/// What the last look at a VM found. It saves a search for guests inside the guest, and
/// nothing is taken for alive by it.
pub(crate) fn last_known(target: &Target) -> Known {
    let last = LastSeen::load();
    let before = last.of(target.vmm.pid, target.vmm.start_time);
    Known {
        // Who asks for an agent waits for it, wherever its beacon lies.
        likely_only: false,
        ..known(target, before, last_seen::now())
    }
}

fn known(target: &Target, before: Option<&SeenVm>, now: u64) -> Known {
    let is_bare = before.is_some_and(|vm| vm.beacons.is_empty());
    let valid_for = if is_bare { BARE_FOR } else { COVERED_FOR };
    let covered = before.is_some_and(|vm| {
        let age = now.checked_sub(vm.covered_at);
        vm.covered_at > 0 && age.is_some_and(|age| age < valid_for)
    });
    Known {
        places: before
            .iter()
            .flat_map(|vm| &vm.beacons)
            .filter_map(|beacon| place_of(target, beacon.address))
            .collect(),
        pages_from: (!covered).then(|| {
            before
                .and_then(|vm| place_of(target, vm.next))
                .unwrap_or_default()
        }),
        likely_only: covered && is_bare,
        is_patient: false,
    }
}

/// Takes a beacon that was seen before for alive, if its pulses show that it is.
fn vouch(search: &mut BeaconSearch, target: &Target, beacon: &SeenBeacon) -> Option<SeenBeacon> {
    let at = place_of(target, beacon.address)?;
    let mut proof = None;
    search
        .findings()
        .vouch(&target.ram, at, beacon.epoch, &mut |signs| {
            proof = beacon.proves_life(signs, last_seen::now());
            proof.is_some()
        });
    proof
}

/// What is to be remembered of the beacons that live. Those that are not vouched for
/// have been seen to beat since the search began, at `started`.
fn seen_beacons(
    search: &mut BeaconSearch,
    target: &Target,
    started: u64,
    vouched: &[SeenBeacon],
) -> Vec<SeenBeacon> {
    let living: Vec<Candidate> = search.findings().living().copied().collect();
    let seen = living.iter().filter_map(|candidate| {
        let address = address_of(target, candidate.at)?;
        let known = vouched.iter().find(|beacon| beacon.address == address);
        if let Some(known) = known {
            return Some(*known);
        }
        let read_at = last_seen::now();
        let signs = sighting::signs_at(&target.ram, candidate.at, &candidate.beacon)?;
        Some(SeenBeacon {
            address,
            epoch: candidate.beacon.epoch,
            keeper_pulse: signs.keeper_pulse,
            agent_pulse: signs.agent_pulse,
            beat_at: started,
            read_at,
        })
    });
    seen.collect()
}

fn remember(
    search: &BeaconSearch,
    target: &Target,
    before: Option<&SeenVm>,
    searched_pages: bool,
) -> SeenVm {
    let covered_at = match (search.next_page(), searched_pages) {
        (None, true) => last_seen::now(),
        (None, false) => before.map_or(0, |vm| vm.covered_at),
        (Some(_), _) => 0,
    };
    SeenVm {
        pid: target.vmm.pid,
        start_time: target.vmm.start_time,
        covered_at,
        next: search
            .next_page()
            .and_then(|at| address_of(target, at))
            .unwrap_or(0),
        beacons: Vec::new(),
    }
}

/// The VMM-virtual address of a place; unlike it, it means the same for another command.
fn address_of(target: &Target, at: BlockOffset) -> Option<u64> {
    let block = target.ram.block(at.block)?;
    block.start.0.checked_add(at.offset)
}

fn place_of(target: &Target, address: u64) -> Option<BlockOffset> {
    target.ram.blocks().enumerate().find_map(|(block, one)| {
        let offset = address.checked_sub(one.start.0)?;
        (offset < one.length).then_some(BlockOffset { block, offset })
    })
}
