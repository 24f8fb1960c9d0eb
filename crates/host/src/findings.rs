//! The pages that carry the brand in one VM's RAM, and what their heartbeats make of
//! them: the guest's own beacon, the beacon of a guest inside the guest, or copies.
//!
//! A guest may hold any number of pages that are nearly right. So each costs little
//! until its heartbeat moves: only then is a page read as a whole and its checksum
//! taken. What is kept of a page is short, and the number kept is bounded, with pages
//! where the machine's rule puts them before all others. Nothing is written.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use vmshm_link::beacon::{
    AGENT_PULSE, Beacon, BeaconError, KEEPER_PULSE, PAGE_BYTES, Signs, brand,
};
use vmshm_link::fields::word_at;
use vmshm_link::{GuestPhysical, LinkError, Version};
use vmshm_ram::{BlockOffset, GuestRam, RamError, RamRead};

use crate::sighting::{Candidate, Sighting, Target};

/// The front of a beacon: everything but the directory's extents.
const HEAD: usize = 0x100;
/// How many fronts are read with one call.
const HEADS_AT_ONCE: usize = 256;
/// The most pages that are kept in mind, of those that may be the guest's own and of
/// the others each.
const MOST: usize = 1 << 16;
/// The most living beacons that are kept of the guest's own and of others each: one of
/// another guest is enough to tell that there is one.
const MOST_LIVING: usize = 64;
/// How many whole pages are read between two looks at the heartbeats.
const CHECKS_AT_ONCE: usize = 64;
/// How long the beacon of another guest gets to show life after it was found: the
/// slowest pulse has a period of a quarter of a second, and a guest inside a guest may
/// be slow.
const GRACE: Duration = Duration::from_millis(500);

/// What is known of a page's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// The machine's rule puts the page's stated address right here.
    Right,
    /// No rule says anything of it.
    Open,
    /// The rule says that this place has another address: what states this one belongs
    /// to another guest, or is a copy.
    Wrong,
}

/// What is remembered of a branded page.
#[derive(Debug, Clone, Copy)]
struct Trace {
    at: BlockOffset,
    own: u64,
    boot_id: [u8; 16],
    epoch: u64,
    keeper_pulse: u64,
    agent_pulse: u64,
    fit: Fit,
    /// Whether the page as a whole is a beacon; nothing while that was not looked at.
    is_beacon: Option<bool>,
    lives: bool,
}

/// Everything in a VM's RAM that carries the brand.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    traces: Vec<Trace>,
    strays: usize,
    known: HashSet<BlockOffset>,
    pending: Vec<BlockOffset>,
    /// Branded pages that state another version of the protocol.
    foreign: Vec<BlockOffset>,
    living: Vec<(Candidate, Fit)>,
    left_out: u64,
    said_left_out: bool,
    /// When the last page was added.
    grown_at: Option<Instant>,
}

/// What the front of a page says.
fn trace_of(target: &Target, at: BlockOffset, head: &[u8]) -> Trace {
    let mut boot_id = [0; 16];
    if let Some(bytes) = head.get(0x20..0x30) {
        boot_id.copy_from_slice(bytes);
    }
    let own = word_at(head, 0x18);
    Trace {
        at,
        own,
        boot_id,
        epoch: word_at(head, 0x38),
        keeper_pulse: pulse(head, KEEPER_PULSE),
        agent_pulse: pulse(head, AGENT_PULSE),
        fit: target.fit(GuestPhysical(own), at),
        is_beacon: None,
        lives: false,
    }
}

#[allow(clippy::cast_possible_truncation, reason = "constants below a page")]
fn pulse(head: &[u8], offset: u64) -> u64 {
    word_at(head, offset as usize)
}

/// The page at `at` as a beacon.
fn page_at(ram: &GuestRam, at: BlockOffset) -> Option<Result<(Beacon, Signs), BeaconError>> {
    let mut page = [0; PAGE_BYTES];
    ram.read_at(at, &mut page).ok()?;
    Some(match Beacon::from_page(&page) {
        Ok(beacon) => Signs::from_page(&page)
            .map(|signs| (beacon, signs))
            .map_err(|_| BeaconError::Field("state")),
        Err(error) => Err(error),
    })
}

/// Calls `each` with the fronts of the pages at `places` that can be read.
fn read_heads(
    ram: &GuestRam,
    places: &[BlockOffset],
    each: &mut dyn FnMut(usize, &[u8]),
) -> Result<(), RamError> {
    let mut bytes = vec![0_u8; HEAD * HEADS_AT_ONCE.min(places.len())];
    for (batch, chunk) in places.chunks(HEADS_AT_ONCE).enumerate() {
        let mut reads: Vec<RamRead<'_>> = bytes
            .chunks_exact_mut(HEAD)
            .zip(chunk)
            .map(|(into, &at)| RamRead { at, into })
            .collect();
        let mut unread = [false; HEADS_AT_ONCE];
        ram.read_many(&mut reads, &mut |index, _| {
            if let Some(flag) = unread.get_mut(index) {
                *flag = true;
            }
        })?;
        let heads = bytes.chunks_exact(HEAD).zip(unread).take(chunk.len());
        for (index, (head, unread)) in heads.enumerate() {
            if !unread {
                each(batch * HEADS_AT_ONCE + index, head);
            }
        }
    }
    Ok(())
}

impl Findings {
    /// Takes note of a branded page.
    pub(crate) fn add(&mut self, target: &Target, at: BlockOffset) -> Result<(), RamError> {
        if self.known.len() < 4 * MOST && self.known.insert(at) {
            self.pending.push(at);
        }
        if self.pending.len() >= HEADS_AT_ONCE {
            self.settle(target)?;
        }
        Ok(())
    }

    /// Reads the fronts of the pages that were added.
    pub(crate) fn settle(&mut self, target: &Target) -> Result<(), RamError> {
        let pending = std::mem::take(&mut self.pending);
        let mut taken = Vec::new();
        let mut foreign = Vec::new();
        read_heads(&target.ram, &pending, &mut |index, head| {
            let Some(&at) = pending.get(index) else {
                return;
            };
            if head.get(..16) != Some(brand().as_slice()) {
                return;
            }
            let version = Version::from_word(word_at(head, 0x10));
            if Version::accept(version).is_err() {
                foreign.push(at);
            } else {
                taken.push(trace_of(target, at, head));
            }
        })?;
        for trace in taken {
            let is_stray = trace.fit == Fit::Wrong;
            let kept = if is_stray {
                self.strays
            } else {
                self.traces.len() - self.strays
            };
            if kept >= MOST {
                self.left_out += 1;
                continue;
            }
            self.strays += usize::from(is_stray);
            self.traces.push(trace);
            self.grown_at = Some(Instant::now());
        }
        self.foreign.extend(foreign);
        self.foreign.truncate(MOST);
        if self.left_out > 0 && !std::mem::replace(&mut self.said_left_out, true) {
            tracing::warn!(
                pages = self.left_out,
                "too many pages carry the brand; some are not watched"
            );
        }
        Ok(())
    }

    /// Whether nothing carries the brand.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.traces.is_empty() && self.foreign.is_empty()
    }

    /// How many branded pages are kept in mind.
    #[must_use]
    pub fn len(&self) -> usize {
        self.traces.len() + self.foreign.len()
    }

    /// Whether a page that may be the guest's own is a beacon as a whole.
    pub(crate) fn has_own_beacon(&mut self, ram: &GuestRam) -> bool {
        self.traces
            .iter_mut()
            .any(|trace| trace.fit != Fit::Wrong && is_beacon(ram, trace))
    }

    /// Whether no heartbeat can come from any of the pages.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.traces
            .iter()
            .all(|trace| trace.is_beacon == Some(false))
    }

    /// Reads the heartbeats once, and the whole page of each that moved. Copies of a
    /// beacon that is known to be at its own place are not looked at.
    pub(crate) fn poll(&mut self, target: &Target) -> Result<(), RamError> {
        let ram = &target.ram;
        let known: HashSet<[u8; 16]> = self
            .traces
            .iter()
            .filter(|trace| trace.fit == Fit::Right && trace.is_beacon == Some(true))
            .map(|trace| trace.boot_id)
            .collect();
        let alive: HashSet<[u8; 16]> = self
            .living
            .iter()
            .filter(|(_, fit)| *fit == Fit::Right)
            .map(|(candidate, _)| candidate.beacon.boot_id)
            .collect();
        let is_watched = |trace: &Trace| {
            let is_copy = trace.fit == Fit::Wrong && known.contains(&trace.boot_id);
            let settled = trace.lives || trace.is_beacon == Some(false);
            !is_copy && !settled && !alive.contains(&trace.boot_id)
        };
        let watched: Vec<(usize, BlockOffset)> = self
            .traces
            .iter()
            .enumerate()
            .filter(|(_, trace)| is_watched(trace))
            .map(|(index, trace)| (index, trace.at))
            .collect();
        let places: Vec<BlockOffset> = watched.iter().map(|(_, at)| *at).collect();
        let traces = &mut self.traces;
        let mut moved = Vec::new();
        read_heads(ram, &places, &mut |number, head| {
            let Some(&(index, at)) = watched.get(number) else {
                return;
            };
            let Some(trace) = traces.get_mut(index) else {
                return;
            };
            let now = trace_of(target, at, head);
            if head.get(..16) != Some(brand().as_slice()) {
                trace.is_beacon = Some(false);
            } else if (now.own, now.epoch, now.boot_id) != (trace.own, trace.epoch, trace.boot_id) {
                // Another one has come to this place: its heart is yet to be seen to beat.
                *trace = Trace {
                    fit: trace.fit,
                    ..now
                };
                if now.fit != trace.fit {
                    trace.is_beacon = Some(false);
                }
            } else if now.keeper_pulse > trace.keeper_pulse || now.agent_pulse > trace.agent_pulse {
                moved.push(index);
            }
        })?;
        for index in moved {
            self.judge_moved(ram, index);
        }
        Ok(())
    }

    /// A page whose heartbeat moved: is it a beacon, and the one first seen?
    fn judge_moved(&mut self, ram: &GuestRam, index: usize) {
        let Some(trace) = self.traces.get_mut(index) else {
            return;
        };
        let Some(page) = page_at(ram, trace.at) else {
            return;
        };
        match page {
            Ok((beacon, signs)) if beacon.own.0 == trace.own && beacon.epoch == trace.epoch => {
                trace.is_beacon = Some(true);
                trace.lives = true;
                let candidate = Candidate {
                    at: trace.at,
                    beacon,
                    signs,
                };
                let fit = trace.fit;
                self.keep_living(candidate, fit);
            }
            // It has just become another one: the next look tells.
            Ok(_) => {}
            Err(_) => trace.is_beacon = Some(false),
        }
    }

    /// Takes the page at `at` for alive if it is the beacon of `epoch` and `vouched`
    /// agrees to its signs.
    pub(crate) fn vouch(
        &mut self,
        ram: &GuestRam,
        at: BlockOffset,
        epoch: u64,
        vouched: &mut dyn FnMut(&Signs) -> bool,
    ) {
        let found = self
            .traces
            .iter_mut()
            .find(|trace| trace.at == at && trace.epoch == epoch && !trace.lives);
        let Some(trace) = found else { return };
        if let Some(Ok((beacon, signs))) = page_at(ram, at)
            && beacon.own.0 == trace.own
            && beacon.epoch == epoch
            && vouched(&signs)
        {
            trace.is_beacon = Some(true);
            trace.lives = true;
            let candidate = Candidate { at, beacon, signs };
            let fit = trace.fit;
            self.keep_living(candidate, fit);
        }
    }

    fn keep_living(&mut self, candidate: Candidate, fit: Fit) {
        let is_stray = |fit: Fit| fit == Fit::Wrong;
        let alike = self
            .living
            .iter()
            .filter(|(_, other)| is_stray(*other) == is_stray(fit));
        if alike.count() < MOST_LIVING {
            self.living.push((candidate, fit));
        }
    }

    /// Where beacons lie that decided what was found: a later look at the likely places
    /// alone must not miss them.
    pub(crate) fn deciding_places(&self) -> Vec<BlockOffset> {
        let living = self.living.iter().map(|(candidate, _)| candidate.at);
        living
            .chain(self.foreign.iter().copied().take(MOST_LIVING))
            .collect()
    }

    /// The beacons that showed life, the guest's own first.
    pub(crate) fn living(&self) -> impl Iterator<Item = &Candidate> {
        let own = self.living.iter().filter(|(_, fit)| *fit != Fit::Wrong);
        let strays = self.living.iter().filter(|(_, fit)| *fit == Fit::Wrong);
        own.chain(strays).map(|(candidate, _)| candidate)
    }

    /// What the heartbeats seen so far make of the guest; nothing while more of them may
    /// change that, unless it is the `last` word.
    pub(crate) fn verdict(&mut self, ram: &GuestRam, last: bool) -> Option<Sighting> {
        let own: Vec<&(Candidate, Fit)> = self
            .living
            .iter()
            .filter(|(_, fit)| *fit != Fit::Wrong)
            .collect();
        let first = own
            .iter()
            .find(|(_, fit)| *fit == Fit::Right)
            .or(own.first())
            .map(|(candidate, fit)| (*candidate, *fit));
        let Some((first, fit)) = first else {
            return self.inner_lives(ram).then_some(Sighting::Nested);
        };
        let other_guest = self
            .living
            .iter()
            .any(|(other, _)| other.beacon.boot_id != first.beacon.boot_id);
        // Where no rule tells which of two is at its place, neither is trusted.
        if other_guest || (fit == Fit::Open && own.len() > 1) {
            return Some(Sighting::Nested);
        }
        let grace = self.grown_at.is_some_and(|at| at.elapsed() < GRACE);
        if grace && !last && self.another_may_live(ram, &first, fit) {
            return None;
        }
        Some(Sighting::Living(first))
    }

    /// Whether a guest inside the guest shows life: a copy of the guest's own beacon in
    /// another place, which anybody in the guest may make, is none.
    fn inner_lives(&mut self, ram: &GuestRam) -> bool {
        let strays: HashSet<[u8; 16]> = self
            .living
            .iter()
            .map(|(candidate, _)| candidate.beacon.boot_id)
            .collect();
        strays.into_iter().any(|boot_id| {
            !self.traces.iter_mut().any(|trace| {
                trace.fit != Fit::Wrong && trace.boot_id == boot_id && is_beacon(ram, trace)
            })
        })
    }

    /// Whether there is another guest's beacon that has not shown life yet. Copies of
    /// this guest's are told by their boot id, and not waited for.
    fn another_may_live(&mut self, ram: &GuestRam, first: &Candidate, fit: Fit) -> bool {
        let mut checks = 0;
        self.traces.iter_mut().any(|trace| {
            let other = fit == Fit::Open || trace.boot_id != first.beacon.boot_id;
            if !other || trace.lives || trace.is_beacon == Some(false) {
                return false;
            }
            if trace.is_beacon.is_none() {
                checks += 1;
                // What cannot be checked now counts until it was.
                return checks > CHECKS_AT_ONCE || is_beacon(ram, trace);
            }
            true
        })
    }

    /// The first page that may be the guest's own and is a beacon as a whole.
    fn first_beacon(&mut self, ram: &GuestRam) -> Option<Candidate> {
        let mut rest: Vec<&mut Trace> = self
            .traces
            .iter_mut()
            .filter(|trace| trace.fit != Fit::Wrong)
            .collect();
        // Where a rule puts a page, it is more likely to be right.
        rest.sort_by_key(|trace| trace.fit != Fit::Right);
        rest.into_iter().find_map(|trace| {
            if !is_beacon(ram, trace) {
                return None;
            }
            let (beacon, signs) = page_at(ram, trace.at)?.ok()?;
            Some(Candidate {
                at: trace.at,
                beacon,
                signs,
            })
        })
    }

    /// All pages that are beacons as a whole, living or not, and wherever they lie.
    pub(crate) fn candidates(&mut self, ram: &GuestRam) -> Vec<Candidate> {
        let mut found = Vec::new();
        for trace in &mut self.traces {
            if is_beacon(ram, trace)
                && let Some(Ok((beacon, signs))) = page_at(ram, trace.at)
            {
                let at = trace.at;
                found.push(Candidate { at, beacon, signs });
            }
        }
        found
    }

    /// What is left to say when no time is left to wait.
    pub(crate) fn conclude(&mut self, ram: &GuestRam) -> Sighting {
        if let Some(verdict) = self.verdict(ram, true) {
            return verdict;
        }
        if let Some(candidate) = self.first_beacon(ram) {
            return Sighting::Silent(candidate);
        }
        match self.incompatible(ram) {
            Some(error) => Sighting::Incompatible(error),
            None => Sighting::Nothing,
        }
    }

    fn incompatible(&self, ram: &GuestRam) -> Option<LinkError> {
        self.foreign.iter().find_map(|&at| match page_at(ram, at)? {
            Err(BeaconError::Incompatible(error)) => Some(error),
            _ => None,
        })
    }
}

/// Whether a page as a whole is the beacon that its front promised; looked at once.
fn is_beacon(ram: &GuestRam, trace: &mut Trace) -> bool {
    *trace.is_beacon.get_or_insert_with(|| {
        matches!(page_at(ram, trace.at), Some(Ok((beacon, _)))
            if beacon.own.0 == trace.own && beacon.epoch == trace.epoch)
    })
}

#[cfg(test)]
#[path = "findings_tests.rs"]
mod tests;
