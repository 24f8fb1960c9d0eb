//! Grafts that end: those that sessions use because they open all regions so, with the last of
//! these sessions; and those of regions that are removed. One that was made by name stays
//! until it is undone, which its file's mode says.

use std::collections::BTreeMap;
use std::fs::DirEntry;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, fchmod, fstat};

use super::GraftedRegion;
use super::failure::GraftFailure;
use super::lock::Lock;
use super::places::{Ground, standing};
use super::sharing;

/// The mode of a file that stays: it differs from others by the sticky bit, which means nothing
/// there. The right to execute may be sealed off.
const STAYS: Mode = Mode::RUSR.union(Mode::WUSR).union(Mode::SVTX);

/// How long a session's end waits for another process that grafts in the same VM.
const PATIENCE: Duration = Duration::from_secs(1);

/// Says of a graft that it stays when the sessions that use it end.
pub(super) fn mark_as_staying(grafted: &GraftedRegion) -> Result<(), GraftFailure> {
    fchmod(&grafted.file, STAYS).map_err(|error| GraftFailure::Lock {
        pid: grafted.pid,
        error: error.into(),
    })
}

fn stays(file: &OwnedFd) -> bool {
    fstat(file).is_ok_and(|status| Mode::from_raw_mode(status.st_mode) == STAYS)
}

/// Whether the graft of a process that is called so stays, as far as that can be seen.
pub(super) fn stays_in(pid: u32, id: &str) -> bool {
    of_mode(pid, STAYS).iter().any(|found| found == id)
}

/// The grafts of a process that somebody began to undo, and has not ended.
pub(super) fn withdrawn_in(pid: u32) -> Vec<String> {
    of_mode(pid, Mode::empty())
}

/// What the grafts of a process are called whose files have a mode, as far as that can be seen.
fn of_mode(pid: u32, wanted: Mode) -> Vec<String> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd"));
    let files = files.into_iter().flatten().flatten();
    let id = |file: DirEntry| {
        let target = std::fs::read_link(file.path()).ok()?;
        let id = target.to_str()?.strip_prefix("/memfd:vmshm-")?;
        let id = id.strip_suffix(" (deleted)")?.to_owned();
        let mode = rustix::fs::stat(file.path()).ok()?.st_mode;
        (Mode::from_raw_mode(mode) == wanted).then_some(id)
    };
    files.filter_map(id).collect()
}

/// The grafts that a session has made or found, with their files.
#[derive(Debug)]
pub(crate) struct OwnGrafts(Mutex<Option<BTreeMap<String, OwnedFd>>>);

impl Default for OwnGrafts {
    fn default() -> Self {
        Self(Mutex::new(Some(BTreeMap::new())))
    }
}

impl OwnGrafts {
    fn change<T>(&self, change: impl FnOnce(&mut Option<BTreeMap<String, OwnedFd>>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The session uses one.
    pub(super) fn note(&self, id: &str, file: &OwnedFd) {
        // Without a descriptor left it stays until its places are wanted again.
        let Ok(file) = file.try_clone() else { return };
        self.change(|own| own.as_mut().map(|own| own.insert(id.to_owned(), file)));
    }

    /// All stay, those that are still to be made too: somebody else takes them back.
    pub(crate) fn keep_all(&self) {
        self.change(Option::take);
    }

    fn take(&self) -> BTreeMap<String, OwnedFd> {
        let own = self.change(|own| own.as_mut().map(std::mem::take));
        own.unwrap_or_default()
    }
}

impl Ground {
    /// Undoes the graft of a region that was removed, unless somebody still uses its file: its
    /// pages are kept for those who hold it. What goes wrong is told, and the graft stays.
    pub(crate) fn undo_removed(&self, region: u64) {
        let id = self.id(region);
        let is_grafted = standing(self.pid).is_ok_and(|all| all.iter().any(|one| one.id == id));
        if is_grafted {
            self.undo_unused([id]);
        }
    }

    /// Undoes the grafts that this session used, that nobody else uses, and that were not made
    /// by name. The session's own memory must have been let go of.
    pub(crate) fn undo_own(&self) {
        let own = self.own.take().into_iter();
        let ending = own.filter(|(_, file)| !stays(file));
        let ending: Vec<String> = ending.map(|(id, _)| id).collect();
        if !ending.is_empty() {
            self.undo_unused(ending);
        }
    }

    fn undo_unused(&self, ids: impl IntoIterator<Item = String>) {
        // Nobody maps a region meanwhile.
        let _lock = match Lock::take(self.pid, PATIENCE) {
            Ok(lock) => lock,
            Err(error) => {
                if std::fs::exists(format!("/proc/{}", self.pid)).unwrap_or(true) {
                    tracing::warn!(%error, "what was grafted stays so");
                }
                return;
            }
        };
        for id in ids {
            let users = sharing::users(self, &id);
            if !users.is_empty() {
                tracing::debug!(id, ?users, "others use the region's file, which stays");
                continue;
            }
            match self.take_back_locked(&id, &|| true) {
                Ok(pauses) => tracing::debug!(id, ?pauses, "the region is the VM's own again"),
                Err(GraftFailure::NotGrafted) => {}
                Err(error) => tracing::warn!(id, %error, "the region stays grafted"),
            }
        }
    }
}
