//! The search for a guest's beacon: first where huge pages start, then at the other
//! pages where that found none or for a guest inside the guest, and then the wait for
//! a heartbeat, a step at a time. It only reads.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use vmshm_link::GuestPhysical;
use vmshm_link::beacon::brand;
use vmshm_ram::{BlockOffset, RamError, Step};

use crate::findings::Findings;
use crate::sighting::{Candidate, Sighting, Target, Where, stated_address};

/// For how long pages are searched for a guest inside the guest once its own beacon is
/// known. In what is left then, the next search goes on.
const INNER_BUDGET: Duration = Duration::from_millis(600);
/// A beacon that shows no life for so long may be a copy: the true one may lie where no
/// huge page starts.
const LATE: Duration = Duration::from_millis(400);
/// How long pages are searched between two looks at the heartbeats.
const SLICE: Duration = Duration::from_millis(10);
/// The shortest pause between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// What an earlier search of the same VM found.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Where beacons lay.
    pub places: Vec<BlockOffset>,
    /// From where on pages are to be searched for guests inside the guest; nothing where
    /// that was just done.
    pub pages_from: Option<BlockOffset>,
    /// Whether other than the likely places are left out even if those have no beacon.
    pub likely_only: bool,
    /// Whether there is time to search all pages for guests inside the guest.
    pub is_patient: bool,
}

/// A search that is under way.
#[derive(Debug)]
pub struct BeaconSearch {
    findings: Findings,
    started: Instant,
    /// When all likely places had been looked at.
    watching_since: Instant,
    /// The next page to look at; nothing when all were looked at.
    next_page: Option<BlockOffset>,
    /// Whether pages may lie at any address of the process, and those were not searched.
    any_address: bool,
    is_patient: bool,
    /// Whether the last step took its time for searching pages.
    searched: bool,
}

impl BeaconSearch {
    /// Looks at the likely places.
    ///
    /// # Errors
    /// [`RamError`] when the VM's memory cannot be read.
    pub fn start(target: &Target, place: Where) -> Result<Self, RamError> {
        let all = Known {
            places: Vec::new(),
            pages_from: Some(BlockOffset::default()),
            likely_only: false,
            is_patient: false,
        };
        Self::resume(target, place, &all)
    }

    /// As [`start`](Self::start), with what is known of an earlier search.
    ///
    /// # Errors
    /// [`RamError`] when the VM's memory cannot be read.
    pub fn resume(target: &Target, place: Where, known: &Known) -> Result<Self, RamError> {
        let started = Instant::now();
        let mut findings = Findings::default();
        let mut next_page = None;
        match place {
            Where::At(address) => {
                tracing::debug!(%address, "looking for the beacon there only");
                for at in target.likely_places(address) {
                    if stated_address(&target.ram, at) == Some(address) {
                        findings.add(target, at)?;
                    }
                }
            }
            // Nothing was learned: there is no place to look at.
            Where::Learned => {}
            Where::Scan => {
                tracing::debug!("scanning guest RAM for the beacon");
                let length_of = |block| target.ram.block(block).map(|one| one.length);
                for &at in &known.places {
                    if length_of(at.block).is_some_and(|length| at.offset < length) {
                        findings.add(target, at)?;
                    }
                }
                scan(target, Step::HugePage, &mut findings)?;
                next_page = known.pages_from;
            }
        }
        findings.settle(target)?;
        // What was just searched for guests inside the guest had a beacon of its own.
        if next_page.is_none()
            && !known.likely_only
            && matches!(place, Where::Scan)
            && !findings.has_own_beacon(&target.ram)
        {
            next_page = Some(BlockOffset::default());
        }
        Ok(Self {
            findings,
            started,
            watching_since: Instant::now(),
            next_page,
            any_address: place == Where::Scan
                && !known.likely_only
                && target.vmm.kind.steps().contains(&Step::Byte),
            is_patient: known.is_patient,
            searched: false,
        })
    }

    /// Looks once more; what came of it, if that is certain.
    ///
    /// # Errors
    /// [`RamError`] when the VM's memory cannot be read.
    pub fn step(&mut self, target: &Target) -> Result<Option<Sighting>, RamError> {
        let ram = &target.ram;
        self.searched = false;
        self.findings.poll(target)?;
        let verdict = self.findings.verdict(ram, false);
        if matches!(verdict, Some(Sighting::Nested)) {
            return Ok(verdict);
        }
        if let Some(from) = self.next_page {
            let elapsed = self.started.elapsed();
            let has_own = self.findings.has_own_beacon(ram);
            if !has_own
                || self.is_patient
                || elapsed < INNER_BUDGET
                || (elapsed > LATE && verdict.is_none())
            {
                self.search_pages(target, from)?;
                self.searched = true;
                return Ok(None);
            }
        }
        if self.next_page.is_none()
            && std::mem::take(&mut self.any_address)
            && !self.findings.has_own_beacon(ram)
        {
            scan(target, Step::Byte, &mut self.findings)?;
            self.findings.settle(target)?;
            return Ok(None);
        }
        if self.next_page.is_none() && self.findings.is_hopeless() {
            return Ok(Some(self.findings.conclude(ram)));
        }
        Ok(verdict)
    }

    fn search_pages(&mut self, target: &Target, from: BlockOffset) -> Result<(), RamError> {
        let slice = Instant::now();
        let mut found = Vec::new();
        let mut go_on = || slice.elapsed() < SLICE;
        let mut note = |at| found.push(at);
        self.next_page = target
            .ram
            .scan_some_pages(&brand(), from, &mut go_on, &mut note)?;
        for at in found {
            self.findings.add(target, at)?;
        }
        self.findings.settle(target)
    }

    /// Waits until it makes sense to look again.
    pub fn pause(&self) {
        if !self.searched {
            // Many pages take a while to look at; half of the time is enough for that.
            let long = Duration::from_nanos(600)
                .saturating_mul(u32::try_from(self.findings.len()).unwrap_or(u32::MAX));
            std::thread::sleep(PAUSE.max(long));
        }
    }

    /// What is left to say when no time is left to wait.
    pub fn conclude(&mut self, target: &Target) -> Sighting {
        self.findings.conclude(&target.ram)
    }

    /// Whether pages are yet to be looked at, and no beacon was found so far.
    pub fn is_searching(&mut self, target: &Target) -> bool {
        self.next_page.is_some() && !self.findings.has_own_beacon(&target.ram)
    }

    /// How long it has taken.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// How long the heartbeats of what the likely places have were watched: looking at those
    /// may itself have taken long.
    #[must_use]
    pub fn watched_for(&self) -> Duration {
        self.watching_since.elapsed()
    }

    /// Where a later search has to go on; nothing when all pages were looked at.
    #[must_use]
    pub const fn next_page(&self) -> Option<BlockOffset> {
        self.next_page
    }

    /// The branded pages.
    pub fn findings(&mut self) -> &mut Findings {
        &mut self.findings
    }
}

/// The beacons that state the address `address` at a place where it may lie, whether
/// they live or not.
///
/// # Errors
/// [`RamError`] when the VM's memory cannot be read.
pub fn beacons_at(target: &Target, address: GuestPhysical) -> Result<Vec<Candidate>, RamError> {
    let mut search = BeaconSearch::start(target, Where::At(address))?;
    Ok(search.findings.candidates(&target.ram))
}

fn scan(target: &Target, step: Step, findings: &mut Findings) -> Result<(), RamError> {
    let mut result = Ok(());
    target.ram.scan(&brand(), step, &mut |at| {
        result = findings.add(target, at);
        match result {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    result
}

/// Looks for the living beacon of a guest, waiting up to `patience` for a pulse to
/// move.
///
/// # Errors
/// [`RamError`] when the VM's memory cannot be read.
pub fn find_living(
    target: &Target,
    place: Where,
    patience: Duration,
) -> Result<Sighting, RamError> {
    let mut search = BeaconSearch::resume(target, place, &crate::look::last_known(target))?;
    loop {
        if let Some(sighting) = search.step(target)? {
            return Ok(sighting);
        }
        if search.elapsed() >= patience {
            return Ok(search.conclude(target));
        }
        search.pause();
    }
}
