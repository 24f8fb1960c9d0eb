//! One VM: what is lent of it to whom, and the guard that takes it back. What was lent once is
//! the guest's own again before a slot that holds its pages is given up.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use vmshm_host::SessionEnd;
use vmshm_host::graft::{GraftFailure, is_undone};
use vmshm_host::guard::Guard;
use vmshm_host::proxied::{self, Lender};

use crate::guests::Refused;
use crate::journal::{Journal, Note};

/// How often the guard looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A region that is lent.
#[derive(Debug)]
struct Lent {
    note: Note,
    file: Arc<OwnedFd>,
    holders: usize,
}

#[derive(Debug, Default)]
struct State {
    lent: BTreeMap<u64, Lent>,
    /// Regions out of whose files somebody has taken pages.
    damaged: Vec<u64>,
    /// Why nothing is lent any more.
    over: Option<SessionEnd>,
    sessions: usize,
}

/// One VM, as long as its guest stays the same.
#[derive(Debug)]
pub(crate) struct Machine {
    pid: u32,
    start_time: u64,
    journal: Arc<Journal>,
    lender: Lender,
    /// Held by whoever grafts or undoes.
    turn: Mutex<()>,
    state: Mutex<State>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the locks guard is whole between any two calls.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Machine {
    /// A VM of which nothing is lent yet, with its guard.
    ///
    /// # Errors
    /// What the system says when there can be no thread.
    pub(crate) fn start(
        pid: u32,
        start_time: u64,
        guard: Guard,
        lender: Lender,
        journal: Arc<Journal>,
    ) -> std::io::Result<Arc<Self>> {
        let machine = Arc::new(Self {
            pid,
            start_time,
            journal,
            lender,
            turn: Mutex::default(),
            state: Mutex::new(State {
                sessions: 1,
                ..State::default()
            }),
        });
        let guarded = Arc::clone(&machine);
        std::thread::Builder::new()
            .name("vmshm-guard".to_owned())
            .spawn(move || guarded.stand_guard(guard))?;
        Ok(machine)
    }

    /// One more session with it; no when its guest is gone.
    pub(crate) fn join(&self) -> bool {
        let mut state = locked(&self.state);
        let is_there = state.over.is_none() && state.sessions > 0;
        state.sessions += usize::from(is_there);
        is_there
    }

    /// A session is over, and all that was lent through it is back.
    pub(crate) fn leave(&self) {
        let mut state = locked(&self.state);
        state.sessions = state.sessions.saturating_sub(1);
    }

    /// Whether nobody has a session any more, and nothing is left to be taken back.
    pub(crate) fn is_idle(&self) -> bool {
        let state = locked(&self.state);
        state.sessions == 0 && state.lent.is_empty()
    }

    /// Why sessions with it are over, if they are.
    pub(crate) fn over(&self) -> Option<SessionEnd> {
        locked(&self.state).over
    }

    /// Whether somebody has taken pages out of a region's file.
    pub(crate) fn is_damaged(&self, region: u64) -> bool {
        locked(&self.state).damaged.contains(&region)
    }

    /// Whether a region may be let go of by who has it no more: it is the guest's own again, or
    /// others have it, whose sessions hold its pages.
    pub(crate) fn may_let_go(&self, region: u64) -> bool {
        let state = locked(&self.state);
        let lent = state.lent.get(&region);
        lent.is_none_or(|lent| lent.holders > 0 && state.over.is_none())
    }

    /// Lends a region; `graft` makes it a file, or finds the one that it is. It is counted.
    pub(crate) fn lend(
        &self,
        region: u64,
        id: String,
        graft: impl FnOnce() -> Result<OwnedFd, Refused>,
    ) -> Result<Arc<OwnedFd>, Refused> {
        let _turn = locked(&self.turn);
        self.check(region)?;
        let note = Note {
            pid: self.pid,
            start_time: self.start_time,
            id,
        };
        self.journal.note(&note).map_err(|error| {
            Refused::new(
                format!("the broker cannot note what it lends: {error}"),
                None,
            )
        })?;
        let grafted = graft();
        let mut state = locked(&self.state);
        let lent = state.lent.get_mut(&region);
        match (grafted, lent) {
            (Ok(file), Some(lent)) => {
                if is_undone(&lent.file) {
                    // Its other holders find that out by themselves.
                    lent.file = Arc::new(file);
                }
                lent.holders += 1;
                Ok(Arc::clone(&lent.file))
            }
            (Ok(file), None) => {
                let file = Arc::new(file);
                let lent = Lent {
                    note,
                    file: Arc::clone(&file),
                    holders: 1,
                };
                state.lent.insert(region, lent);
                // The guard may have found the guest gone while this was made: it takes back
                // what it finds here, in its next round.
                Ok(file)
            }
            (Err(refused), Some(_)) => Err(refused),
            (Err(refused), None) => {
                drop(state);
                // A graft that came to no end may have done a part.
                let goes_on = || self.over().is_none();
                match self.lender.take_back(self.start_time, &note.id, &goes_on) {
                    Ok(()) => self.journal.forget(&note),
                    Err(error) => tracing::warn!(%error, id = note.id, "a part may be grafted"),
                }
                Err(refused)
            }
        }
    }

    fn check(&self, region: u64) -> Result<(), Refused> {
        let state = locked(&self.state);
        if let Some(end) = state.over {
            return Err(Refused::new(end.to_string(), None));
        }
        if state.damaged.contains(&region) {
            return Err(Refused::new(
                "a holder of this region's file has taken pages out of it",
                Some("remove the region, and make it anew".to_owned()),
            ));
        }
        Ok(())
    }

    /// Somebody lets a region go: the last one's is undone. Whether nothing is left to be done.
    pub(crate) fn take_back(&self, region: u64) -> bool {
        let _turn = locked(&self.turn);
        {
            let mut state = locked(&self.state);
            let Some(lent) = state.lent.get_mut(&region) else {
                return true;
            };
            lent.holders = lent.holders.saturating_sub(1);
            if lent.holders > 0 {
                return true;
            }
        }
        // The guest's end does not wait until others have made way: the guard finds it out
        // without the turn.
        let goes_on = || self.over().is_none();
        self.undo(region, |note| {
            self.lender.take_back(note.start_time, &note.id, &goes_on)
        })
    }

    /// Makes a region the guest's own again, whoever has it. The caller has the turn.
    fn undo(&self, region: u64, take_back: impl FnOnce(&Note) -> Result<(), GraftFailure>) -> bool {
        let found = locked(&self.state)
            .lent
            .get(&region)
            .map(|lent| lent.note.clone());
        let Some(note) = found else { return true };
        let start = Instant::now();
        match take_back(&note) {
            Ok(()) => {
                self.journal.forget(&note);
                locked(&self.state).lent.remove(&region);
                let (pid, took) = (self.pid, start.elapsed());
                tracing::debug!(pid, id = note.id, ?took, "a region is taken back");
                true
            }
            Err(error) => {
                tracing::warn!(pid = self.pid, id = note.id, %error, "a region cannot be taken back yet");
                false
            }
        }
    }

    /// The guard's whole life: as long as anybody has a session, or anything is lent.
    fn stand_guard(&self, mut guard: Guard) {
        while !self.is_idle() {
            std::thread::sleep(LOOK_EVERY);
            if self.over().is_none()
                && let Err(end) = guard.look()
            {
                tracing::info!(pid = self.pid, %end, "all that is lent of a VM is taken back");
                locked(&self.state).over = Some(end);
            }
            let due = self.due();
            let turn = match self.turn.try_lock() {
                _ if due.is_empty() => continue,
                Ok(turn) => turn,
                // Whoever has it may wait for others, and the guest is to be watched meanwhile.
                Err(TryLockError::WouldBlock) if self.over().is_none() => continue,
                Err(_) => locked(&self.turn),
            };
            due.into_iter().for_each(|region| {
                self.undo(region, |note| {
                    proxied::take_back(note.pid, note.start_time, &note.id)
                });
            });
            drop(turn);
        }
    }

    /// What is to be taken back now: all of a guest that is gone, what somebody has damaged,
    /// and what could not be taken back before.
    fn due(&self) -> Vec<u64> {
        let mut state = locked(&self.state);
        let over = state.over.is_some();
        let mut due = Vec::new();
        let mut damaged = Vec::new();
        for (region, lent) in &state.lent {
            let has_holes = proxied::has_holes(&lent.file);
            if has_holes {
                damaged.push(*region);
            }
            if over || has_holes || lent.holders == 0 {
                due.push(*region);
            }
        }
        for region in damaged {
            if !state.damaged.contains(&region) {
                tracing::info!(
                    pid = self.pid,
                    region,
                    "a holder has taken pages out of a region"
                );
                state.damaged.push(region);
            }
        }
        due
    }
}
